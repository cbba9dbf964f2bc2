"""The worker runtime on TFF's real worker_binary: right numbers, and no process left in whatever way its owner ends."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import UndriftError, WorkerLost
from tasks.federate import worker_process
from tasks.federate.worker_process import WorkerProcess, reserve_port, start_worker

ROOT = Path(__file__).parents[1]

# A value of a dead worker that Python frees later must not end in a traceback on stderr.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")

COMPUTATIONS = """
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

@tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
def mean(values):
    return tff.federated_mean(values)

@tff.tensorflow.computation(np.float32, np.float32)
def product(a, b):
    return a * b

@tff.tensorflow.computation(tff.TensorType(np.str_), np.int64)
def count(marker, end):
    # Writes the file `marker`, then sums 0 .. end-1 one by one: about 5 us each.
    with tf.control_dependencies([tf.io.write_file(marker, "")]):
        start = tf.constant(0, tf.int64)
    return tf.while_loop(lambda i, total: i < end, lambda i, total: (i + 1, total + i), [start, start])[1]

@tff.tensorflow.computation(tff.TensorType(np.str_))
def length(path):
    return tf.strings.length(tf.io.read_file(path))

@tff.tensorflow.computation(tff.TensorType(np.int32, [None]))
def loss(labels):
    logits = tf.zeros([tf.shape(labels)[0], 10])
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
"""

LONG = 10**9  # more than an hour of counting
SOON = 5.0  # seconds; it takes tenths, but the machine may be busy


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def tff_names() -> SimpleNamespace:
    names: dict[str, Any] = {}
    exec(COMPUTATIONS, names)
    return SimpleNamespace(**names)


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    started = start_worker(1)
    yield started
    started.stop()


@pytest.fixture
def run(tff_names: SimpleNamespace) -> Any:
    """Returns a context manager that opens an owned worker and installs it."""
    from contextlib import contextmanager

    from tasks.federate.worker import WorkerContext, owned_worker

    @contextmanager
    def opened(deadline: float = 600.0, restarts: int = 0) -> Iterator[WorkerContext]:
        with (
            owned_worker(threads=2, deadline=deadline, restarts=restarts) as context,
            tff_names.tff.framework.get_context_stack().install(context),
        ):
            yield context

    return opened


def when(marker: Path, action: Callable[[], object]) -> threading.Thread:
    """Starts a thread that does `action` once the computation `count` has written its marker."""

    def act() -> None:
        if wait_until(marker.exists):
            action()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


# The process


def test_worker_process_is_gone_with_its_port_after_stop(worker: WorkerProcess) -> None:
    watchdog = psutil.Process(worker.pid).parent()
    socket.create_connection(("127.0.0.1", worker.port), timeout=SOON).close()
    worker.stop()
    worker.stop()
    assert not psutil.pid_exists(worker.pid)
    assert watchdog is not None
    assert not watchdog.is_running()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", worker.port), timeout=SOON)


def test_worker_process_shares_neither_terminal_session_nor_standard_streams_with_us(worker: WorkerProcess) -> None:
    assert os.getsid(worker.pid) != os.getsid(0)
    streams = [os.readlink(f"/proc/{worker.pid}/fd/{number}") for number in range(3)]
    assert streams[0] == "/dev/null"
    assert streams[1] == streams[2]
    assert streams[1].endswith("(deleted)")


def test_worker_processes_do_not_keep_each_other_alive(worker: WorkerProcess) -> None:
    second = start_worker(1)
    try:
        before = time.monotonic()
        worker.stop()
        assert time.monotonic() - before < SOON
        assert is_gone(worker.pid)
        assert second.is_alive()
    finally:
        second.stop()


def test_worker_process_dies_with_its_watchdog(worker: WorkerProcess) -> None:
    os.kill(psutil.Process(worker.pid).ppid(), signal.SIGTERM)
    assert wait_until(lambda: is_gone(worker.pid), SOON)


def test_worker_process_is_stopped_though_its_watchdog_was_killed(worker: WorkerProcess) -> None:
    os.kill(psutil.Process(worker.pid).ppid(), signal.SIGKILL)
    worker.stop()
    assert wait_until(lambda: is_gone(worker.pid), SOON)


def test_reserved_ports_are_given_to_nobody_else() -> None:
    # 300 of Linux's 28,232 ports drawn without a reservation would hold a pair in 4 of 5 runs (birthday problem).
    held = [reserve_port() for _ in range(300)]
    try:
        assert len({sock.getsockname()[1] for sock in held}) == 300
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("", held[0].getsockname()[1]))
    finally:
        for sock in held:
            sock.close()


def useless_reservation() -> socket.socket:
    """Returns a port that the worker cannot have: the reservation itself does not share it."""
    reservation = socket.socket()
    reservation.bind(("", 0))
    return reservation


def test_start_worker_takes_another_port_when_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    useless = useless_reservation()
    taken = useless.getsockname()[1]
    ports = iter([useless, reserve_port()])
    monkeypatch.setattr(worker_process, "reserve_port", lambda: next(ports))
    started = start_worker(1)
    try:
        assert started.port != taken
    finally:
        started.stop()


def test_start_worker_gives_up_after_three_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = iter([useless_reservation() for _ in range(4)])
    monkeypatch.setattr(worker_process, "reserve_port", lambda: next(ports))
    with pytest.raises(WorkerLost, match="did not start in 3 tries: the port was taken"):
        start_worker(1)
    (unused,) = ports
    unused.close()


PROCESS_SCRIPT = """
import ctypes, importlib.util, os, sys, time
# By its path: tasks.federate may import TFF, which takes seconds.
spec = importlib.util.spec_from_file_location("worker_process", "tasks/federate/worker_process.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
worker = module.start_worker(1)
child = os.fork() if sys.argv[1] == "fork" else 0
if sys.argv[1] == "fork" and child == 0:
    os.close(1), os.close(2)
    time.sleep(60)
    os._exit(0)
print(worker.pid, child, flush=True)
ctypes.string_at(0) if sys.argv[1] == "segfault" else os._exit(3)
"""


@pytest.mark.parametrize(("ending", "status"), [("os._exit", 3), ("segfault", -signal.SIGSEGV), ("fork", 3)])
def test_worker_process_ends_with_an_owner_that_runs_no_handler(ending: str, status: int) -> None:
    # "fork": a forked child of the owner lives on.
    owner = subprocess.run(
        [sys.executable, "-c", PROCESS_SCRIPT, ending], cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=False
    )
    pid, child = map(int, owner.stdout.split())
    try:
        assert owner.returncode == status
        assert wait_until(lambda: is_gone(pid), SOON)
        assert child == 0 or not is_gone(child)
    finally:
        if child:
            os.kill(child, signal.SIGKILL)


# The end of a run

RUN_SCRIPT = (
    COMPUTATIONS
    + """
import signal, sys
from tasks.federate.worker import owned_worker

signal.signal(signal.SIGINT, signal.default_int_handler)  # else ignored when the tests run in the background
ending, marker = sys.argv[1:]
with owned_worker(1, 600.0, 0) as context, tff.framework.get_context_stack().install(context):
    print(context.pid, float(mean([1.0, 2.0, 6.0])), flush=True)
    if ending == "exception":
        raise RuntimeError("planted")
    if ending.startswith("SIG"):
        count(marker, 10**9)
"""
)


@dataclass(frozen=True)
class End:
    status: int
    mean: float
    orphaned: bool
    seconds_until_eof: float
    errors: str


def end_of_run(ending: str, folder: Path) -> End:
    marker = folder / ending
    with (folder / f"{ending}.err").open("wb") as errors:
        owner = subprocess.Popen(
            [sys.executable, "-c", RUN_SCRIPT, ending, str(marker)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert owner.stdout is not None
    try:
        pid, mean = owner.stdout.readline().split()
        if ending.startswith("SIG"):
            assert wait_until(marker.exists)
            owner.send_signal(signal.Signals[ending])
        status = owner.wait(60)  # seconds on a busy machine, to unload TensorFlow; `count` would take an hour
        before = time.monotonic()
        owner.stdout.read()  # until its last holder closes it: `python ... | cat` ends then
        seconds_until_eof = time.monotonic() - before
        orphaned = not wait_until(lambda: is_gone(int(pid)), SOON)
    finally:
        owner.kill()
    return End(status, float(mean), orphaned, seconds_until_eof, (folder / f"{ending}.err").read_text())


ENDINGS = {"exit": 0, "exception": 1, "SIGINT": -signal.SIGINT, "SIGTERM": -signal.SIGTERM, "SIGKILL": -signal.SIGKILL}


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, End]:
    """Every ending at once: each pays some seconds for the import of TFF."""
    folder = tmp_path_factory.mktemp("ends")
    with ThreadPoolExecutor(len(ENDINGS)) as pool:
        return dict(zip(ENDINGS, pool.map(lambda ending: end_of_run(ending, folder), ENDINGS), strict=True))


@pytest.mark.parametrize("ending", ENDINGS)
def test_run_leaves_no_worker_and_no_open_pipe(ends: dict[str, End], ending: str) -> None:
    end = ends[ending]
    assert not end.orphaned
    assert end.status == ENDINGS[ending], end.errors
    assert end.mean == 3.0  # (1 + 2 + 6) / 3
    assert end.seconds_until_eof < SOON


# The context


def test_worker_context_computes(run: Any, tff_names: SimpleNamespace, tmp_path: Path) -> None:
    with run():
        assert tff_names.mean([1.0, 2.0, 6.0]) == 3.0  # (1 + 2 + 6) / 3
        assert tff_names.mean([4.0, 5.0]) == 4.5  # another number of clients
        assert tff_names.product(2.0, 3.0) == 6.0  # no clients at all
        assert tff_names.count(str(tmp_path / "marker"), 101) == 5050  # 100 * 101 / 2


def test_worker_context_takes_a_deadline_that_never_comes(run: Any, tff_names: SimpleNamespace) -> None:
    with run(deadline=float("inf")):
        assert tff_names.product(2.0, 3.0) == 6.0


def test_worker_context_serves_several_threads(run: Any, tff_names: SimpleNamespace) -> None:
    with run() as context:

        def triple(value: int) -> float:
            with tff_names.tff.framework.get_context_stack().install(context):
                return float(tff_names.product(float(value), 3.0))

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(triple, range(12))) == [3.0 * value for value in range(12)]


def test_worker_context_warns_that_the_port_is_open_to_all(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tasks.federate.worker"), run():
        pass
    (record,) = caplog.records
    assert "every network interface, without authentication" in record.getMessage()


def test_worker_context_replaces_a_killed_worker_and_runs_the_call_again(
    run: Any, tff_names: SimpleNamespace, tmp_path: Path
) -> None:
    end = 400_000
    with run(restarts=1) as context:
        first = context.pid
        killer = when(tmp_path / "marker", lambda: os.kill(first, signal.SIGKILL))
        assert tff_names.count(str(tmp_path / "marker"), end) == end * (end - 1) // 2
        killer.join()
        second = context.pid
        assert second != first
        os.kill(second, signal.SIGKILL)
        with pytest.raises(WorkerLost, match=r"lost 2 times, federate\.runtime\.restarts allows 1: its process ended"):
            tff_names.product(2.0, 3.0)  # the one restart is used up
        assert is_gone(first)
        assert is_gone(second)


def test_worker_context_without_restarts_raises_when_the_worker_is_killed(
    run: Any, tff_names: SimpleNamespace, tmp_path: Path
) -> None:
    with run(restarts=0) as context:
        pid = context.pid
        killer = when(tmp_path / "marker", lambda: os.kill(pid, signal.SIGKILL))
        with pytest.raises(WorkerLost, match="lost 1 times") as caught:
            tff_names.count(str(tmp_path / "marker"), LONG)
        killer.join()
        assert "\n" not in str(caught.value)
        with pytest.raises(WorkerLost, match="lost 1 times"):
            tff_names.product(2.0, 3.0)


def test_worker_context_kills_a_worker_that_misses_its_deadline(
    run: Any, tff_names: SimpleNamespace, tmp_path: Path
) -> None:
    with run(deadline=2.0) as context:
        pid = context.pid
        before = time.monotonic()
        with pytest.raises(WorkerLost, match=r"no answer within federate\.runtime\.deadline = 2 s"):
            tff_names.count(str(tmp_path / "marker"), LONG)
        assert 2.0 <= time.monotonic() - before < 2.0 + SOON
        assert is_gone(pid)


def test_worker_context_does_not_wait_for_a_stopped_worker(run: Any, tff_names: SimpleNamespace) -> None:
    with run(deadline=2.0, restarts=1) as context:
        assert tff_names.mean([1.0, 2.0]) == 1.5
        os.kill(context.pid, signal.SIGSTOP)
        assert tff_names.mean([1.0, 2.0]) == 1.5


def test_worker_context_closed_from_another_thread_ends_the_call(
    run: Any, tff_names: SimpleNamespace, tmp_path: Path
) -> None:
    with run(restarts=3) as context:
        pid = context.pid
        closer = when(tmp_path / "marker", context.close)
        with pytest.raises(WorkerLost, match="closed"):
            tff_names.count(str(tmp_path / "marker"), LONG)
        closer.join()
        assert is_gone(pid)
        with pytest.raises(WorkerLost, match="closed"):
            tff_names.product(2.0, 3.0)


def test_worker_context_works_after_an_interrupt(run: Any, tff_names: SimpleNamespace, tmp_path: Path) -> None:
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with run(restarts=0) as context:
            pid = context.pid
            interrupter = when(tmp_path / "marker", lambda: os.kill(os.getpid(), signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                tff_names.count(str(tmp_path / "marker"), LONG)
            interrupter.join()
            assert is_gone(pid)
            assert tff_names.product(2.0, 3.0) == 6.0
    finally:
        signal.signal(signal.SIGINT, handler)


def test_worker_context_survives_a_failed_computation(run: Any, tff_names: SimpleNamespace) -> None:
    from tasks.federate.worker import ComputationFailed

    with run() as context:
        pid = context.pid
        with pytest.raises(ComputationFailed, match=r"/nowhere/x\.npy; No such file"):
            tff_names.length("/nowhere/x.npy")
        with pytest.raises(ComputationFailed, match="label value of 37 which is outside") as caught:
            tff_names.loss(np.array([3, 37, 8], np.int32))
        assert "3 37 8" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None  # the traceback would print TensorFlow's text again
        assert not isinstance(caught.value, UndriftError)  # the round catches it and looks for the client
        assert tff_names.product(2.0, 3.0) == 6.0
        assert context.pid == pid


# Scrubbing


@given(labels=st.lists(st.integers(-1000, 1000), min_size=1))
def test_scrubbed_holds_none_of_the_labels(labels: list[int]) -> None:
    from tasks.federate.worker import scrubbed

    said = "Received a label value of 37 which is outside the valid range of [0, 10)."
    details = f"{said}  Label values: {' '.join(map(str, labels))}\n\t [[{{{{node loss/Sparse}}}}]]"
    assert scrubbed(details) == said


@given(values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=3))
def test_scrubbed_holds_none_of_an_assertions_values(values: list[float]) -> None:
    from tasks.federate.worker import scrubbed

    shown = " ".join(map(str, values))
    assert (
        scrubbed(f"assertion failed: [not finite] [x (arg:0) = ] [{shown}...]")
        == "assertion failed: [not finite] [x (arg:0) = ] [...]"
    )


def test_scrubbed_keeps_shapes_and_paths() -> None:
    from tasks.federate.worker import scrubbed

    for said in (
        "logits and labels must have the same first dimension, got [20,10] and [19]",
        "/a/01/x.npy; No such file",
    ):
        assert scrubbed(said) == said
