"""Which run of a deployment is its last good one, with a real MLflow store."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.mlflow_store import connection
from flows.running.last_good import GOOD, GoodRun, last_good, mark
from tasks.files import write_json

Make = Callable[..., tuple[Path, str]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> connection.Store:
    """The store of a repository, which is its folder."""
    return connection.connect(tmp_path_factory.mktemp("repository"))


@pytest.fixture
def finished(tmp_path: Path, store: connection.Store) -> Make:
    """(name, deployment, verdict in MLflow, ...) -> (folder of a finished run, id of its MLflow run)."""

    def make(
        name: str,
        deployment: str = "nightly",
        verdict: str = "none",
        is_good: bool = True,
        status: str = "FINISHED",
        run_id: str = "",
    ) -> tuple[Path, str]:
        if not run_id:
            made = store.client.create_run(store.experiment_id, tags={"diagnosis.verdict": verdict})
            run_id = made.info.run_id
            store.client.set_terminated(run_id, status)
        folder = tmp_path / ".runs" / name
        (folder / "reports").mkdir(parents=True)
        report: dict[str, Any] = {"run_id": run_id, "tracking_uri": store.uri, "experiment_id": store.experiment_id}
        write_json(folder / "reports/mlflow.json", report)
        mark(folder, is_good, deployment, f"mlp dirichlet(0.5) mean sgd · {name}")
        if is_good:  # one hour after the run before
            written = 1e9 + 3600 * len(list(tmp_path.glob(".runs/*")))
            os.utime(folder / GOOD, (written, written))
        return folder, run_id

    return make


def test_the_newest_good_run_of_the_deployment_is_taken(
    tmp_path: Path, store: connection.Store, finished: Make
) -> None:
    finished("old-owl")
    folder, run_id = finished("new-newt")
    finished("other-otter", deployment="weekly")
    assert last_good(tmp_path, tmp_path / ".runs/tonight", "nightly", store.client) == GoodRun(
        folder, run_id, "new-newt"
    )
    assert last_good(tmp_path, tmp_path / ".runs/tonight", "hourly", store.client) is None


@pytest.mark.parametrize("bad", [{"is_good": False}, {"verdict": "label_skew"}, {"status": "FAILED"}])
def test_a_run_with_which_something_is_wrong_is_passed_over(
    bad: dict[str, Any], tmp_path: Path, store: connection.Store, finished: Make
) -> None:
    good, _ = finished("old-owl")
    finished("new-newt", **bad)
    found = last_good(tmp_path, tmp_path / ".runs/tonight", "nightly", store.client)
    assert found
    assert found.folder == good


def test_a_run_that_was_deleted_in_mlflow_is_passed_over(
    tmp_path: Path, store: connection.Store, finished: Make
) -> None:
    _, run_id = finished("old-owl")
    store.client.delete_run(run_id)
    assert last_good(tmp_path, tmp_path / ".runs/tonight", "nightly", store.client) is None
    finished("gone-goat", run_id="0" * 32)
    assert last_good(tmp_path, tmp_path / ".runs/tonight", "nightly", store.client) is None


def test_a_second_attempt_is_not_compared_with_the_first(
    tmp_path: Path, store: connection.Store, finished: Make
) -> None:
    folder, _ = finished("tonight")
    assert last_good(tmp_path, folder, "nightly", store.client) is None


def test_a_night_whose_results_all_came_from_the_cache_is_the_newest(
    tmp_path: Path, store: connection.Store, finished: Make
) -> None:
    _, monday = finished("monday-mole")
    finished("tuesday-toad")
    folder, _ = finished("wednesday-wolf", run_id=monday)  # Monday's data and settings again
    found = last_good(tmp_path, tmp_path / ".runs/tonight", "nightly", store.client)
    assert found == GoodRun(folder, monday, "wednesday-wolf")


def test_a_run_that_became_bad_in_another_attempt_is_good_no_more(
    tmp_path: Path, store: connection.Store, finished: Make
) -> None:
    folder, _ = finished("old-owl")
    mark(folder, False, "nightly", "old-owl")
    assert last_good(tmp_path, tmp_path / ".runs/tonight", "nightly", store.client) is None


def test_a_damaged_or_unfinished_folder_is_passed_over(tmp_path: Path, store: connection.Store, finished: Make) -> None:
    good, _ = finished("old-owl")
    damaged, _ = finished("new-newt")
    (damaged / GOOD).write_text("{")
    unfinished, _ = finished("newest-nandu")
    (unfinished / "reports/mlflow.json").unlink()  # a retry removes it when it begins
    found = last_good(tmp_path, tmp_path / ".runs/tonight", "nightly", store.client)
    assert found
    assert found.folder == good
