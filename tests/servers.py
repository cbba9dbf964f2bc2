"""Servers of Prefect and MLflow for tests and pictures: on a free port of 127.0.0.1, and ended with their children."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx

PATIENCE = 180.0
"""Seconds until a server answers."""
QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
"""Environment variables that turn off telemetry and promotion."""


def free_port() -> int:
    """Returns a port of 127.0.0.1 that no process listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def user_environment(prefect_home: Path) -> dict[str, str]:
    """Returns the environment of a user's shell: this Python first, its own Prefect home, and no server."""
    ours = ("PREFECT_", "MLFLOW_", "DVC_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # Servers on this machine are reached without a proxy.
    local = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    return {**kept, **local, "PATH": path, "PREFECT_HOME": str(prefect_home)}


def direct() -> urllib.request.OpenerDirector:
    """Returns what opens addresses of this machine, whatever proxy the user has."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def prefect_server(environment: Mapping[str, str], log: Path) -> AbstractContextManager[str]:
    """Yields the address of a Prefect server; `log` gets what it writes."""
    port = free_port()
    pages = {"PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api"}  # without it, the pages use port 4200
    return _server(["prefect", "server", "start"], port, "/api/health", {**environment, **pages}, log)


def mlflow_server(environment: Mapping[str, str], log: Path, folder: Path) -> AbstractContextManager[str]:
    """Yields the address of an MLflow server on the folder's mlflow.db; `log` gets what it writes."""
    command = ["mlflow", "server", "--backend-store-uri", "sqlite:///mlflow.db", "--workers", "1"]
    no_jobs = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return _server(command, free_port(), "/health", {**environment, **no_jobs}, log, folder)


def model_server(environment: Mapping[str, str], log: Path, folder: Path, model: str) -> AbstractContextManager[str]:
    """Yields the address of a server of the MLflow model at `model`; `log` gets what it writes."""
    command = ["mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    return _server(command, free_port(), "/ping", environment, log, folder)


@contextmanager
def _server(
    command: Sequence[str],
    port: int,
    health: str,
    environment: Mapping[str, str],
    log: Path,
    folder: Path | None = None,
) -> Iterator[str]:
    url = f"http://127.0.0.1:{port}"
    whole = [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as written:
        server = subprocess.Popen(
            whole, cwd=folder, env={**environment, **QUIET}, stdout=written, stderr=written, start_new_session=True
        )
    try:
        _wait_for(f"{url}{health}", server, log)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            direct().open(url, timeout=5).close()
            return
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.3)


def ask(api: str, method: str, path: str, **body: Any) -> Any:
    """Returns the answer of a Prefect server's API as JSON; None for an empty answer."""
    until = time.monotonic() + 60
    while True:
        answer = httpx.request(method, f"{api}/{path}", json=body or None, timeout=30, trust_env=False)
        # 503: another writer has locked the database. Prefect's own client asks again, too.
        if answer.status_code != 503 or time.monotonic() > until:
            break
        time.sleep(1)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None
