"""flows/serving/reachability.py with a small HTTP server that answers like Prefect's: which servers are refused."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import prefect
import pytest
from packaging.version import Version
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.serving import reachability
from tasks.errors import InputError

HERE = Version(prefect.__version__)


@contextmanager
def answering(told: str) -> Iterator[str]:
    """Yields the API's address of a server whose answer is always the given text."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/admin/version" else 404)
            self.end_headers()
            self.wfile.write(told.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{serving.server_port}/api"
        finally:
            serving.shutdown()
            thread.join()


def check(told: str) -> None:
    with answering(told) as url, temporary_settings({PREFECT_API_URL: url}):
        reachability.check_prefect()


@pytest.mark.parametrize("version", ["2.20.4", "3.0.0", f"{HERE}.dev1", f"{HERE.major}.{HERE.minor - 1}.99"])
def test_an_older_server_is_refused(version: str) -> None:
    with pytest.raises(InputError, match=rf"must be of version {HERE} or newer, got {version}: upgrade it"):
        check(json.dumps(version))


@pytest.mark.parametrize("version", [str(HERE), f"{HERE}+12.gabc", f"{HERE.major}.{HERE.minor + 1}.0"])
def test_the_same_or_a_newer_server_is_taken(version: str) -> None:
    check(json.dumps(version))


@pytest.mark.parametrize("told", ["", "<html>", '{"detail": "x"}', "null"])
def test_what_tells_no_version_is_no_prefect_server(told: str) -> None:
    with pytest.raises(InputError, match="is no Prefect API"):
        check(told)


@pytest.mark.parametrize(
    "command", [["flows.pipeline"], ["flows.compare", "--grid", "seed=0,1"], ["flows.deployments"]]
)
def test_every_command_says_so_in_one_line(
    command: list[str], copy_repository: Callable[..., Path], shell: dict[str, str], tmp_path: Path
) -> None:
    repository = copy_repository(tmp_path / "repository")
    with answering('"3.0.0"') as url:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=repository,
            env={**shell, "PREFECT_API_URL": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
    (line,) = done.stdout.splitlines()
    assert (done.returncode, line.startswith("error: the Prefect server at ")) == (2, True), line
    assert not (repository / ".runs").exists()
