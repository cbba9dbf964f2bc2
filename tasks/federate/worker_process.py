"""TFF's `worker_binary` as a child process that cannot outlive this one, and holds nothing of it open."""

import importlib.util
import os
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from pathlib import Path
from typing import IO

from tasks.errors import WorkerLost

_WATCHDOG = """
trap : HUP INT PIPE TERM
"$@" 3>&1 >&2 </dev/null &
echo $!
exec >&2
read -r end
kill -9 $!
wait $!
"""
"""Starts the worker, says its pid, and blocks on a pipe whose only write end is ours: however this process ends, the
kernel closes that end, `read` returns, and the worker is killed and reaped. (PR_SET_PDEATHSIG would fire when the
*thread* that started the worker ends.) The traps let `read` return on a signal too, and a broken pipe at `echo` must
not end the shell before its `kill`; a child does not inherit them. Descriptor 3, which the worker never uses, keeps
the shell's standard output open for exactly as long as the worker lives."""

_PORT_TRIES = 3
_START_SECONDS = 60.0
"""Until the port answers; 0.1 s when the binary's 300 MB are in the page cache."""
_STOP_SECONDS = 10.0

_owned: "weakref.WeakSet[WorkerProcess]" = weakref.WeakSet()


class WorkerProcess:
    """A started `worker_binary` that answers on `port`; `stop` ends it, and so does any end of this process."""

    def __init__(self, threads: int, reservation: socket.socket) -> None:
        """Starts the worker on the reserved port; `ready` waits for it.

        Args:
            threads: calls of one computation (clients of a round) that run at a time.
            reservation: see `reserve_port`; closed by `stop`.
        """
        self.port: int = reservation.getsockname()[1]
        self._reservation = reservation
        # Nameless, so that nothing stays on the disk after a kill. TensorFlow logs examples' values into it.
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        arguments = [str(_binary()), f"--port={self.port}", f"--max_concurrent_computation_calls={threads}"]
        self._watchdog = subprocess.Popen(
            ["sh", "-c", _WATCHDOG, "sh", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in the terminal is for us alone: we stop the worker ourselves
        )
        assert self._watchdog.stdin is not None
        assert self._watchdog.stdout is not None
        self._lifeline: IO[bytes] = self._watchdog.stdin
        self._sign_of_life: IO[bytes] = self._watchdog.stdout
        _owned.add(self)
        said = self._sign_of_life.readline()
        if not said:
            raise WorkerLost(f"the shell that watches over TFF's worker did not start: {self.last_words()}")
        self.pid = int(said)
        os.set_blocking(self._sign_of_life.fileno(), False)

    def is_alive(self) -> bool:
        """Whether the worker runs. Reads its end of descriptor 3: no pid is asked for that another may have by now."""
        return self._sign_of_life.read(1) is None

    def ready(self) -> bool:
        """Waits until the port answers; False when the worker ended instead, or does not answer in a minute."""
        until = time.monotonic() + _START_SECONDS
        while self.is_alive() and time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
            except OSError:
                time.sleep(0.01)
            else:
                return True
        return False

    def last_words(self) -> str:
        """Why the worker did not start. Only for one that never computed: what it logs later may hold data."""
        self._log.seek(0)
        text = self._log.read().decode(errors="replace").strip()
        if "Address already in use" in text:
            return "the port was taken"
        return text.splitlines()[-1][:300] if text else "it logged nothing"

    def stop(self) -> None:
        """Kills the worker and waits until it is gone: no process, no zombie, no port. Safe to call again."""
        _owned.discard(self)
        self._lifeline.close()
        try:
            self._watchdog.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._watchdog.kill()
            self._watchdog.wait()
        if not self._sign_of_life.closed and self.is_alive():
            # Somebody killed the watchdog. That descriptor 3 is open shows that the pid is still the worker's.
            os.kill(self.pid, signal.SIGKILL)
        self._sign_of_life.close()
        self._log.close()
        self._reservation.close()

    def let_go(self) -> None:
        """In a forked child: closes its copy of the lifeline, which would keep the worker alive after its owner.

        A child may still run its parent's `finally` blocks: without a sign of life, `stop` there kills nothing.
        """
        self._lifeline.close()
        self._sign_of_life.close()


def start_worker(threads: int) -> WorkerProcess:
    """Returns a worker that listens, with one more port tried when it ends at once, and then one more.

    Raises:
        WorkerLost: none of them came up.
    """
    words = ""
    for _ in range(_PORT_TRIES):
        worker = WorkerProcess(threads, reserve_port())
        try:
            if worker.ready():
                return worker
            words = worker.last_words()
        except BaseException:
            worker.stop()
            raise
        worker.stop()
    raise WorkerLost(f"TFF's worker did not start in {_PORT_TRIES} tries: {words}")


def reserve_port() -> socket.socket:
    """Returns a socket bound to a free port and not listening: nobody is given the port while it is open.

    gRPC's server binds with SO_REUSEPORT, so it can take the port beside this socket, and two workers on one port would
    share its connections without an error. The kernel gives a reserved port to no one who asks for "any", and to one
    who names it only if he shares it too.
    """
    reservation = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reservation.bind(("", 0))
    return reservation


def _binary() -> Path:
    # Where the wheel puts it. Found without the import of TFF, which takes 6 s.
    found = importlib.util.find_spec("tensorflow_federated")
    binary = Path(found.origin).parent / "data" / "worker_binary" if found and found.origin else None
    if binary is None or not os.access(binary, os.X_OK):
        raise WorkerLost("tensorflow_federated has no worker_binary here: use federate.runtime.kind in_process")
    return binary


def _let_go_of_all() -> None:
    for worker in list(_owned):
        worker.let_go()


os.register_at_fork(after_in_child=_let_go_of_all)
