"""A temporary Prefect server for a command, if none is set. It ends with the command, however the command ends.

Without it, Prefect would start a server in every process that needs one, also in each process of a pool. A killed
process (`kill -9`) would leave its server running. So the command starts one server and puts its address into the
environment, where Prefect and all child processes find it. The server reads from a pipe, and only
the command holds the other end. When the command ends, the system closes the pipe, and the server ends.
"""

import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, NoReturn

from tasks.errors import RunError

_log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_STOP_SECONDS = 5.0
"""Most seconds that the server can take to end; after that, it is killed."""
_ENVIRONMENT = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
"""Prefect sets the same for its own temporary server: no UI, and only the services that it needs."""


_STARTED: set[str] = set()


def is_temporary(address: str) -> bool:
    """Returns whether `address` is the API of this command's temporary server."""
    return address in _STARTED


class TemporaryServer:
    """A server process that is starting. No other process listens on its port."""

    def __init__(self) -> None:
        """Starts the server, and sets its address for Prefect in this process and in all that it starts later."""
        with socket.socket() as place:
            place.bind((_HOST, 0))
            self._address = f"http://{_HOST}:{place.getsockname()[1]}"
            self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - stays open as long as the server runs
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.serving.temporary_server", str(place.fileno())],
                stdin=subprocess.PIPE,
                stdout=self._said,
                stderr=self._said,
                pass_fds=[place.fileno()],
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": _python_path()},
                start_new_session=True,  # Ctrl-C must reach only the command, which then reports its end to the server
            )
        # Registered before Prefect's import: functions of atexit run in reverse order, so this one runs last.
        atexit.register(self._stop)
        # The address of the UI is empty: there is no UI.
        os.environ |= {"PREFECT_API_URL": f"{self._address}/api", "PREFECT_UI_URL": ""}
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
        _STARTED.add(f"{self._address}/api")

    def wait(self) -> None:
        """Waits until the server answers.

        Raises:
            RunError: the server ended, or did not answer within PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.
        """
        from prefect.settings import get_current_settings

        _log.info("Starting temporary server on %s; set PREFECT_API_URL to use a running server", self._address)
        patience = get_current_settings().server.ephemeral.startup_timeout_seconds
        until = time.monotonic() + patience
        while not self._answers():
            if self._process.poll() is not None:
                raise RunError(f"the temporary Prefect server ended while it started: {self._last_line()}")
            if time.monotonic() > until:
                raise RunError(
                    f"the temporary Prefect server did not answer within {patience} s: set "
                    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, or PREFECT_API_URL to a running server"
                )
            time.sleep(0.1)

    def _answers(self) -> bool:
        import httpx

        try:
            return httpx.get(f"{self._address}/api/health", timeout=5, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def _last_line(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it gave no reason")

    def _stop(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _python_path() -> str:
    """Returns a PYTHONPATH with which a process can import this package from any current folder."""
    return os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))


def main() -> None:
    """Runs the server on the socket whose descriptor is the first argument, until the standard input ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn

    place = socket.socket(fileno=int(sys.argv[1]))
    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[place])


def _end_with_parent() -> NoReturn:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
