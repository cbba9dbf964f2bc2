"""Every commonly used Keras layer can be trained on several threads, with the same bits as on one thread.

If TensorFlow does not protect a layer from other threads, the process crashes. So each model trains in its own process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from layer_models import BUILDERS

TRAIN = """
import sys
from pathlib import Path

from tasks.federate.step import federate
from tasks.settings import parse

chosen = {"model": f"layer_models:{sys.argv[1]}", "rounds": 50, "evaluate_every": 50, "checkpoint_every": 50}
files = []
for threads in (1, 4):
    runtime = {"threads": threads}
    federate(parse({"federate": {**chosen, "runtime": runtime, "client": {"batch_size": 8}}}), Path())
    files.append(Path("models/global.h5").read_bytes())
print("same" if files[0] == files[1] else "different")
"""


def check(name, clients, folder):
    """Runs 50 rounds on one thread and on four, and compares them."""
    clients.write(folder)
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
    command = [sys.executable, "-c", TRAIN, name]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-1000:]
    assert done.stdout == "same\n"


@pytest.fixture
def clients(make_clients):
    # No two have batches of the same sizes in the same order.
    return make_clients(sizes=(7, 29, 12, 33, 18, 5, 23, 14), shape=(6, 6, 2))


def test_layer_normalisation_on_four_threads_has_the_bits_of_one(clients, tmp_path):
    check("layer_normalisation", clients, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_layer_on_four_threads_has_the_bits_of_one(name, clients, tmp_path):
    check(name, clients, tmp_path)
