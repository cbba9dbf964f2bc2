"""TFF's own runtime ends with the test that compares with it, because it lets the whole network run code."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]

ASKED = """
import os, sys
import numpy as np, psutil, tensorflow_federated as tff
from oracle import oracle

@tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
def mean(values):
    return tff.federated_mean(values)

with oracle(2) as context, tff.framework.get_context_stack().install(context):
    (found,) = [each.pid for each in psutil.Process().children(recursive=True) if each.name() == "worker_binary"]
    print(found, float(mean([1.0, 2.0, 6.0])), flush=True)
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("end", "status"), [pytest.param("whole", 0, marks=pytest.mark.slow), ("killed", -9)])
def test_the_worker_ends_with_its_test(end: str, status: int) -> None:
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", ASKED, end], env=environment, stdout=subprocess.PIPE, timeout=120)
    pid, mean = done.stdout.split()
    assert (done.returncode, float(mean)) == (status, 3.0)  # (1 + 2 + 6) / 3
    until = time.monotonic() + 10
    while psutil.pid_exists(int(pid)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not psutil.pid_exists(int(pid))
