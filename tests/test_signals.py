"""A signal ends a run as this signal, wherever it arrives. A real process gets signals at every place and any time."""

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tasks import command
from tasks.errors import DataError, RunError, reading
from tasks.signals import Apart, Call, Terminated, masked

ROOT = Path(__file__).parents[1]

ROUNDS = """
import collections, json, os, queue, random, signal, sys, threading, time
from pathlib import Path
from tasks import command
command.prepare()
signal.signal(signal.SIGINT, signal.default_int_handler)  # otherwise ignored if the tests run in the background
import numpy as np, tensorflow as tf, tensorflow_federated as tff
from tasks.runtime.failed import Failed
from tasks.runtime.in_process import in_process

VALUES = tff.TensorType(np.float32, [None])

@tff.tensorflow.computation(VALUES)
def work(values):
    return tf.foldl(lambda total, value: tf.sin(total * 1.7 + value), values)

@tff.federated_computation(tff.FederatedType(VALUES, tff.CLIENTS))
def summed(values):
    found = tff.federated_map(work, values)
    return found, tff.federated_sum(found)

GIVEN = [np.ones(300, np.float32)] * 5
SENT = {"KeyboardInterrupt": signal.SIGINT, "Terminated": signal.SIGTERM}

class At:
    # Sends a signal at the n-th place where Python checks for signals: at the beginning or end of a call.
    def __init__(self, number, sent):
        self.left, self.sent = number, sent

    def __call__(self, frame, event, given):
        if event in ("call", "return", "c_return"):
            self.left -= 1
            if self.left == 0:
                sys.setprofile(None)
                os.kill(os.getpid(), self.sent)

def outcome(action, watch=None):
    try:
        sys.setprofile(watch)
        action()
        sys.setprofile(None)
        return "nothing"
    except BaseException as exc:
        return type(exc).__name__

def every_place(name, sent):
    ended, number = collections.Counter(), 0
    while True:
        number += 1
        at = At(number, sent)
        got = outcome(lambda: summed(GIVEN), at)
        if at.left > 0:
            return {"places": number - 1, "ended": ended}
        ended[got] += 1

def any_time(number):
    rng, ended = random.Random(0), collections.Counter()
    began = time.perf_counter()
    expected = summed(GIVEN)
    seconds = time.perf_counter() - began

    orders = queue.SimpleQueue()  # in C, because a signal would break the start of a thread

    def send():
        while order := orders.get():
            time.sleep(order[0])
            os.kill(os.getpid(), order[1])

    threading.Thread(target=send, daemon=True).start()

    def rounds(order):
        orders.put(order)
        while True:
            assert summed(GIVEN) == expected

    for _ in range(number):
        name, sent = rng.choice(list(SENT.items()))
        order = rng.uniform(0, 3 * seconds), sent
        ended[f"{name}: {outcome(lambda: rounds(order))}"] += 1
    return ended

said = {}
for threads in (1, 2):
    with in_process(threads) as context, tff.framework.get_context_stack().install(context):
        expected = summed(GIVEN)
        for name, sent in SENT.items():
            said[f"{name} {threads}"] = every_place(name, sent)
        assert summed(GIVEN) == expected and not any(isinstance(each, Failed) for each in expected[0])
        said[f"times {threads}"] = any_time(120)
assert not [thread for thread in threading.enumerate() if thread.name.startswith("client")]
print(json.dumps(said))
"""


def said_by(script: str, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def rounds() -> Any:
    return said_by(ROUNDS)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["KeyboardInterrupt", "Terminated"])
def test_a_signal_at_every_place_of_a_round_is_that_signal(rounds: Any, name: str, threads: int) -> None:
    found = rounds[f"{name} {threads}"]
    assert found["places"] > 10
    assert found["ended"] == {name: found["places"]}


@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_at_any_time_is_that_signal(rounds: Any, threads: int) -> None:
    ended = rounds[f"times {threads}"]
    assert sum(ended.values()) == 120
    assert set(ended) == {f"{name}: {name}" for name in ("KeyboardInterrupt", "Terminated")}


CANCELLED = """
import json, os, signal, sys, threading, time
from pathlib import Path
from tasks import command
command.prepare()
import numpy as np, tensorflow as tf, tensorflow_federated as tff
from tasks.runtime.in_process import in_process

@tff.tensorflow.computation(tff.TensorType(np.str_))
def long(marker):
    with tf.control_dependencies([tf.io.write_file(marker, "")]):
        start = tf.constant(0.0)
    # Takes tenths of a second.
    return tf.while_loop(lambda i, total: i < 60_000, lambda i, total: (i + 1, tf.sin(total)), [0, start])[1]

@tff.federated_computation(tff.FederatedType(tff.TensorType(np.str_), tff.CLIENTS))
def all_clients(markers):
    return tff.federated_map(long, markers)

folder = Path(sys.argv[1])

def begun():
    return len(list(folder.glob("client_*")))

def stop():
    while begun() < 2:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)

said = {}
try:
    with in_process(2) as context, tff.framework.get_context_stack().install(context):
        threading.Thread(target=stop).start()
        try:
            all_clients([str(folder / f"client_{number}") for number in range(20)])
        except SystemExit:
            said["begun"] = begun()
            raise
except SystemExit as exc:
    said |= {"status": exc.code, "at_the_end": begun()}
print(json.dumps(said))
"""


def test_a_cancelled_round_waits_for_no_client_that_has_not_begun(tmp_path: Path) -> None:
    # Two threads: two clients are running, and one more can begin when the signal arrives.
    said = said_by(CANCELLED, str(tmp_path))
    assert said["status"] == 143
    assert 2 <= said["at_the_end"] <= 3


def raised(*errors: BaseException | None) -> Any:
    """Returns the last of `errors`. Each has the one before it as context, as if raised while that was handled."""
    for before, error in pairwise(errors):
        assert error is not None
        error.__context__ = before
    return errors[-1]


def prefects() -> BaseException:
    from prefect.exceptions import TerminationSignal

    return TerminationSignal(signal=signal.SIGTERM)


SIGNALS = {"Ctrl-C": KeyboardInterrupt, "SIGTERM": Terminated, "Prefect's": prefects}


@pytest.mark.parametrize("make", SIGNALS.values(), ids=SIGNALS)
def test_a_masked_signal_is_found(make: Any) -> None:
    sent = make()
    assert masked(sent) is sent
    assert masked(raised(make(), RuntimeError("cannot release un-acquired lock"))) is not None
    assert masked(raised(sent, RuntimeError("lock"), DataError("damaged"), RunError("failed"))) is sent
    caused = RunError("failed")
    caused.__cause__ = ExceptionGroup("several", [ValueError(), raised(sent, ValueError())])
    assert masked(caused) is sent


def test_what_is_no_signal_is_not_taken_for_one() -> None:
    lonely, circle = RunError("failed"), ValueError()
    circle.__context__, lonely.__context__ = lonely, circle
    for exc in (lonely, raised(SystemExit(0), DataError("the model calls sys.exit")), GeneratorExit()):
        assert masked(exc) is None


@pytest.mark.parametrize("make", SIGNALS.values(), ids=SIGNALS)
def test_a_step_that_a_masked_signal_ends_has_not_failed(make: Any) -> None:
    sent = make()
    with pytest.raises(type(sent)) as caught:
        command.as_error(raised(sent, RuntimeError("lock")))
    assert caught.value is sent

    def damaged() -> None:
        with reading("x.npy must be an array"):
            raise raised(sent, RuntimeError("lock"))

    with pytest.raises(type(sent)):
        damaged()


def test_a_command_ends_by_a_masked_signal_as_by_any(capsys: pytest.CaptureFixture[str]) -> None:
    def action(sent: BaseException) -> None:
        raise raised(sent, RuntimeError("cannot release un-acquired lock"))

    assert command.run(lambda: action(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(SystemExit) as ended:
        command.run(lambda: action(Terminated()))
    assert (ended.value.code, capsys.readouterr().err) == (143, "")


def test_what_runs_apart_gives_its_result_or_its_error() -> None:
    ended = []
    apart = Apart("test", lambda: ended.append(True))

    def fails(call: Call[int]) -> int:
        call.check()
        raise RunError("failed")

    assert apart.call(lambda _: 3) == 3
    with pytest.raises(RunError, match="failed"):
        apart.call(fails)
    assert apart.call(lambda _: 4) == 4
    assert not ended
    apart.close()
    assert ended
