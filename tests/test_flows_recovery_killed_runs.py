"""A flow run whose process was killed is found and ended; a flow run that still runs is left alone."""

import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.mlflow_store import connection, run_content, run_record
from flows.recovery import killed_runs
from tasks.settings import Settings

HOLD = """
import sys
from pathlib import Path
from flows.recovery import killed_runs
with killed_runs.alive(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The folder of a flow run whose MLflow run has begun."""
    folder = tmp_path / ".runs" / "0b5e2f0c-6f5e-4f7b-9d0e-000000000000"
    folder.mkdir(parents=True)
    opened = connection.connect(folder)
    run_record.begin(
        opened.client, folder, lambda: run_content.create(opened.client, opened.experiment_id, Settings(), folder), {}
    )
    return folder


def status(folder: Path) -> str:
    return str(connection.connect(folder).client.get_run(run_record.read_run_id(folder)).info.status)


def test_a_run_is_ended_once_its_process_was_killed_and_not_before(left: Path, prefect_server: str) -> None:
    repository = left.parents[1]
    command = [sys.executable, "-c", HOLD, str(repository), left.name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], **pipes) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        killed_runs.end_killed_runs(repository)
        assert status(left) == "RUNNING"
        holder.kill()
        holder.wait()
    with temporary_settings({PREFECT_API_URL: prefect_server}):  # the server does not know the flow run
        killed_runs.end_killed_runs(repository)
    assert status(left) == "FAILED"
    assert not run_record.is_unfinished(left)


def test_a_retry_leaves_the_run_that_it_goes_on_in_alone(left: Path) -> None:
    with killed_runs.alive(left.parents[1], left.name):
        killed_runs.end_killed_runs(left.parents[1])
        assert status(left) == "RUNNING"
    assert not [*left.parent.glob(".alive/*")]


def test_of_a_run_without_a_lock_nobody_knows_whether_it_lives(left: Path) -> None:
    killed_runs.end_killed_runs(left.parents[1])
    assert status(left) == "RUNNING"
