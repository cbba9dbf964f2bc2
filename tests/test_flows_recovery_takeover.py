"""A killed run that is started again: the folder in which it continues, and the same result as without the kill."""

import contextvars
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml
from mlflow import MlflowClient
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.mlflow_store import connection
from flows.recovery import killed_runs, takeover
from flows.running.session import Session
from flows.workspace.file_lock import file_lock
from flows.workspace.run_folder import Workspace
from tasks.settings import Settings, load

KILLED, SECOND, THIRD = (f"0b5e2f0c-6f5e-4f7b-9d0e-00000000000{n}" for n in range(3))
PARAMS = "seed: 0\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "tasks/__pycache__").mkdir(parents=True)
    (tmp_path / "flows").mkdir()
    for name in ("dvc.yaml", "dvc.lock", "tasks/a.py", "flows/b.py", "tasks/__pycache__/a.pyc"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def server(prefect_server: str) -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield


def leave(repository: Path, name: str, record: str = "some-run KILLED", params: str = PARAMS) -> Path:
    """Makes the folder of a run that ended; `record` is its file `.mlflow-run`. Returns the folder."""
    folder = repository / ".runs" / name
    folder.mkdir(parents=True)
    (folder / ".mlflow-run").write_text(record)
    (folder / "left").write_text(name)
    takeover.mark(folder, takeover.identity(repository, [params]))
    return folder


def taken(repository: Path, name: str = SECOND, params: str = PARAMS) -> str:
    """Returns the name of the folder in which a run with `params` continues; empty if it continues in none."""
    takeover.take_over(repository, name, takeover.identity(repository, [params]))
    path = repository / ".runs" / name / "left"
    return path.read_text() if path.is_file() else ""


@pytest.mark.parametrize("record", ["some-run", "some-run KILLED", "some-run FAILED"])
def test_a_run_goes_on_however_it_ended_before_its_end(record: str, repository: Path, server: None) -> None:
    leave(repository, KILLED, record)
    assert taken(repository) == KILLED
    assert [path.name for path in (repository / ".runs").glob("[!.]*")] == [SECOND]


def test_where_the_rounds_are_computed_makes_no_other_run(repository: Path, server: None) -> None:
    runtimes = ("{kind: dask, address: tcp://10.0.0.2:8786}", "{kind: dask, address: tcp://10.0.0.2:40001}")
    before, after = (f"seed: 0\nfederate: {{rounds: 3, runtime: {runtime}}}\n" for runtime in runtimes)
    leave(repository, KILLED, params=before)
    assert taken(repository, params=after.replace("rounds: 3", "rounds: 4")) == ""
    assert taken(repository, params=after) == KILLED


def test_what_finished_or_began_nothing_stays(repository: Path) -> None:
    leave(repository, KILLED, "some-run FINISHED")
    leave(repository, THIRD, "")
    assert taken(repository) == ""


def test_the_newest_is_taken(repository: Path, server: None) -> None:
    for age, name in enumerate((KILLED, THIRD)):
        os.utime(leave(repository, name) / takeover.IDENTITY, (1000 - age, 1000 - age))
    assert taken(repository) == KILLED


def change_code(repository: Path) -> None:
    (repository / "tasks/a.py").write_text("changed")


def add_code(repository: Path) -> None:
    (repository / "flows/c.py").write_text("new")


def change_stages(repository: Path) -> None:
    (repository / "dvc.yaml").write_text("changed")


@pytest.mark.parametrize("change", [change_code, add_code, change_stages])
def test_other_code_goes_on_in_no_run(change: Callable[[Path], None], repository: Path) -> None:
    leave(repository, KILLED)
    change(repository)
    assert taken(repository) == ""


def test_other_settings_go_on_in_no_run(repository: Path) -> None:
    leave(repository, KILLED)
    assert taken(repository, params="seed: 1\n") == ""


def test_bytecode_and_the_lock_of_a_later_run_make_no_other_run(repository: Path, server: None) -> None:
    leave(repository, KILLED)
    for name in ("dvc.lock", "tasks/__pycache__/a.pyc"):
        (repository / name).write_text("of another run")
    assert taken(repository) == KILLED


def test_a_run_of_another_clone_that_shares_the_folder_stays(repository: Path) -> None:
    leave(repository, KILLED)
    other = repository / "other"
    other.mkdir()
    for name in ("tasks", "flows", "dvc.yaml"):
        (shutil.copytree if (repository / name).is_dir() else shutil.copy)(repository / name, other / name)
    (other / ".runs").symlink_to(repository / ".runs")
    assert taken(other) == ""


def test_a_run_that_goes_on_is_left_alone_until_its_process_ends(repository: Path, server: None) -> None:
    leave(repository, KILLED)
    with killed_runs.alive(repository, KILLED):
        assert taken(repository) == ""
    assert taken(repository) == KILLED


def test_of_many_that_start_at_once_one_takes_it(repository: Path, server: None) -> None:
    leave(repository, KILLED)
    names = [f"0b5e2f0c-6f5e-4f7b-9d0e-1000000000{n:02}" for n in range(8)]
    with ThreadPoolExecutor(len(names)) as pool:
        # Each thread runs in a copy of this context, which holds the server's address.
        begun = [pool.submit(contextvars.copy_context().run, taken, repository, name) for name in names]
        found = [each.result() for each in begun]
    assert sorted(found) == [""] * 7 + [KILLED]


def test_a_comparison_is_taken_once_its_last_cell_has_ended(repository: Path, server: None) -> None:
    folder = leave(repository, KILLED)
    ended: list[float] = []

    def cell() -> None:
        with file_lock(folder / ".locks/cell-00"):
            begins.set()
            while not (folder / "stop").exists():  # a cell looks for the file at the end of each round
                time.sleep(0.05)
            time.sleep(0.5)
            ended.append(time.monotonic())

    begins = threading.Event()
    running = threading.Thread(target=cell)
    running.start()
    begins.wait()
    assert taken(repository) == KILLED
    assert ended
    running.join()


def test_a_lock_whose_file_was_removed_meanwhile_keeps_others_out(tmp_path: Path) -> None:
    path, waiting = tmp_path / "lock", threading.Event()
    got: list[bool] = []

    def second() -> None:
        waiting.set()
        with (
            file_lock(path),
            file_lock(path, seconds=0) as free,
        ):  # the lock of the new file, not of the removed one
            got.append(free)

    with file_lock(path):
        thread = threading.Thread(target=second)
        thread.start()
        waiting.wait()
        time.sleep(0.2)
        path.unlink()
    thread.join()
    assert got == [False]


def test_a_folder_that_was_taken_has_dvc_s_files_by_its_new_name(
    copy_repository: Callable[..., Path], tmp_path: Path, server: None
) -> None:
    """Also if the process that took the folder is killed after the rename, and another process takes it then."""
    from tasks.partition import partition

    repository = copy_repository(tmp_path / "repository")
    params = (repository / "params.yaml").read_text()
    identity = takeover.identity(repository, [params])
    first = Workspace.open(repository, KILLED, params, "tasks/datasets")
    takeover.mark(first.folder, identity)
    (first.folder / ".mlflow-run").write_text("some-run")
    partition(load(first.folder / "params.yaml"), first.folder)
    first.commit("partition")
    takeover.take_over(repository, SECOND, identity)
    takeover.take_over(repository, THIRD, identity)
    third = Workspace.open(repository, THIRD, params, "tasks/datasets")
    assert f"{THIRD}/.dvc/site" in (third.folder / ".dvc/config").read_text()
    before = (third.folder / "data/partition/clients_000.npz").stat()
    assert third.restore("partition")
    assert (
        third.folder / "data/partition/clients_000.npz"
    ).stat() == before  # the file was there already and was not restored
    # A retry of the first run, whose folder was renamed, gets a new folder.
    assert not (Workspace.open(repository, KILLED, params, "tasks/datasets").folder / "data").exists()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    folder = tmp_path / ".runs" / KILLED
    folder.mkdir(parents=True)
    return Workspace(tmp_path, folder)


def have_data(workspace: Workspace, digest: str) -> None:
    stages = {"preprocess": {"outs": [{"path": "data/clients", "md5": digest}]}}
    (workspace.folder / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))


def attempt(workspace: Workspace, data: str, **tags: str) -> str:
    """Begins the MLflow run of an attempt that is killed afterwards. Returns the run's id."""
    have_data(workspace, data)
    session = Session(workspace, Settings(), tags)
    run_id = session.live().run_id
    session.end("KILLED")
    return run_id


def test_rounds_over_other_data_are_logged_to_another_run(workspace: Workspace) -> None:
    first = attempt(workspace, "one.dir")
    assert attempt(workspace, "one.dir") == first
    second = attempt(workspace, "two.dir")
    assert second != first
    assert attempt(workspace, "two.dir") == second
    client = connection.connect(workspace.folder).client
    assert client.get_run(first).info.status == "KILLED"


def test_a_run_that_goes_on_leads_to_the_flow_run_that_goes_on(workspace: Workspace) -> None:
    origin = {"prefect.flow_run_id": KILLED, "prefect.url": "http://nowhere", "mlflow.source.name": "x"}
    run_id = attempt(workspace, "one.dir", **origin)
    assert attempt(workspace, "one.dir", **{"prefect.flow_run_id": SECOND}) == run_id
    tags = connection.connect(workspace.folder).client.get_run(run_id).data.tags
    assert (tags["prefect.flow_run_id"], tags["resumed"], tags["mlflow.source.name"]) == (SECOND, "true", "x")
    assert "prefect.url" not in tags


def rounds_of(repository: Path) -> int:
    logs = [*(repository / ".runs").glob("*/models/checkpoints/federate/log.jsonl")]
    return sum(len(log.read_text().splitlines()) for log in logs)


def kill_at(process: "subprocess.Popen[str]", repository: Path, number: int, signum: signal.Signals) -> None:
    until = time.monotonic() + 120
    while rounds_of(repository) < number:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signum)
    process.wait(60)


@pytest.mark.slow
def test_a_run_killed_twice_ends_with_the_bits_of_one_never_killed(
    copy_repository: Callable[..., Path], shell: dict[str, str], prefect_server: str, tmp_path: Path
) -> None:
    last = 240
    changed = {"federate.rounds": last, "federate.model": "logistic", "diagnose.budget": 0.5}
    repository = copy_repository(tmp_path / "repository", changed)

    def start(*arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=repository,
            env={**shell, "PREFECT_API_URL": prefect_server},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    first = start("flows.pipeline")
    kill_at(first, repository, 20, signal.SIGKILL)
    (killed,) = (path.name for path in (repository / ".runs").glob("[!.]*"))
    kill_at(start("flows.pipeline"), repository, rounds_of(repository) + 20, signal.SIGTERM)
    again = start("flows.pipeline")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert said.count("continues flow run") == 1
    assert said.count("goes on after round") == 1

    (workspace,) = (repository / ".runs").glob("[!.]*")
    client = MlflowClient(f"sqlite:///{repository / 'mlflow.db'}")
    (run,) = client.search_runs(["1"])
    assert (run.info.status, run.data.tags["prefect.flow_run_id"]) == ("FINISHED", workspace.name)
    points = [point.step for point in client.get_metric_history(run.info.run_id, "num_clients")]
    assert sorted(points) == list(range(1, last + 2 + 1))
    state = httpx.get(f"{prefect_server}/flow_runs/{killed}", trust_env=False).json()["state"]
    assert state["type"] == "CRASHED"

    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    (undisturbed / "params.yaml").write_bytes((repository / "params.yaml").read_bytes())
    for step in ("partition", "preprocess", "federate"):
        environment = {**shell, "PYTHONPATH": str(repository)}
        subprocess.run([sys.executable, "-m", "tasks", step], cwd=undisturbed, env=environment, check=True)
    for path in ("reports/federate/rounds.csv", "reports/federate/clients.csv", "models/global.h5"):
        assert (workspace / path).read_bytes() == (undisturbed / path).read_bytes(), path


def test_another_attempt_runs_with_its_own_runtime(copy_repository: Callable[..., Path], tmp_path: Path) -> None:
    repository = copy_repository(tmp_path / "repository")
    before = (repository / "params.yaml").read_text()
    after = before.replace("threads: 0", "threads: 1")
    assert after != before
    first = Workspace.open(repository, KILLED, before, "tasks/datasets")
    session = Session(first, load(first.folder / "params.yaml"), {})
    run_id = session.begin().run_id
    session.end("KILLED")
    second = Workspace.open(repository, KILLED, after, "tasks/datasets")
    assert (second.folder / "params.yaml").read_text() == after
    session = Session(second, load(second.folder / "params.yaml"), {})
    assert session.begin().run_id == run_id
    session.end("FINISHED")
    # MLflow lets no parameter change, so it keeps that of the first attempt.
    logged = connection.connect(second.folder).client.get_run(run_id)
    assert (logged.info.status, logged.data.params["federate.runtime.threads"]) == ("FINISHED", "0")
