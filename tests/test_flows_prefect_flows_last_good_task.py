"""Whether a run is worse than the last good run of its deployment: real rounds, real MLflow, and no Prefect server."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.mlflow_store import connection, verdict_tags
from flows.prefect_flows.last_good_task import AGAINST, TAG, against_last_good
from flows.running.last_good import mark
from flows.running.session import Session
from flows.workspace.run_folder import Workspace
from tasks.federate import federate
from tasks.files import read_json, write_json
from tasks.partition import partition
from tasks.preprocess import preprocess
from tasks.settings import Settings

pytestmark = pytest.mark.slow

SMALL = {"federate.model": "logistic", "federate.rounds": 10, "partition.kind": "iid"}
QUIET = {"verdict": "none", "question": "rise", "increase": {"detected": False, "round": None}, "causes": []}


class Runs:
    """Finished runs in the folders of flow runs, each with an MLflow run."""

    def __init__(self, repository: Path, settings_of: Callable[[dict[str, Any]], Settings]) -> None:
        self.repository, self._settings_of = repository, settings_of
        self.store = connection.connect(repository)

    def run(self, name: str, **federate_settings: Any) -> Session:
        """Returns the session of a run whose MLflow run nothing was compared with."""
        settings = self._settings_of(SMALL | {f"federate.{key}": value for key, value in federate_settings.items()})
        folder = self.repository / ".runs" / name
        (folder / "reports").mkdir(parents=True)
        (folder / "params.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
        for step in (partition, preprocess, federate):
            step(settings, folder)
        write_json(folder / "reports/diagnosis.json", QUIET)
        (folder / "reports/diagnosis.md").write_text("# Why\n\nThe loss did not rise.\n")
        run_id = self.store.client.create_run(self.store.experiment_id).info.run_id
        verdict_tags.mark(self.store.client, run_id, folder / "reports", "")
        self.store.client.set_terminated(run_id)
        report = {"run_id": run_id, "tracking_uri": self.store.uri, "experiment_id": self.store.experiment_id}
        write_json(folder / "reports/mlflow.json", report)
        return Session(Workspace(self.repository, folder), settings, {})

    def restored(self, name: str, of: Session) -> Session:
        """Returns the session of a later run that gets all results of `of` from DVC's cache."""
        folder = of.workspace.folder.with_name(name)
        shutil.copytree(of.workspace.folder, folder, ignore=shutil.ignore_patterns(Path(AGAINST).name, ".good"))
        return Session(Workspace(self.repository, folder), of.settings, {})

    def tags(self, of: Session) -> dict[str, str]:
        return dict(self.store.client.get_run(of.mlflow()["run_id"]).data.tags)


@pytest.fixture
def runs(tmp_path: Path, settings_of: Callable[[dict[str, Any]], Settings], monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Runs(tmp_path, settings_of)


def answer(session: Session) -> str:
    return str(against_last_good.fn(session, "nightly").message)


def test_results_from_the_cache_are_compared_unless_their_run_was(runs: Runs) -> None:
    good = runs.run("good")
    mark(good.workspace.folder, True, "nightly", "mlp · good-goat")
    # Somebody tries tonight's settings first with `python -m flows.pipeline`, which compares nothing.
    tried = runs.run("tried", rounds=2)
    tonight = runs.restored("tonight", tried)
    assert answer(tonight) == "worse than the last good run (good-goat)"
    assert read_json(tonight.workspace.folder / AGAINST / "diagnosis.json")["worse"] is True
    tags = runs.tags(tonight)
    assert (tags["diagnosis.question"], tags[TAG]) == ("against", good.mlflow()["run_id"])

    tomorrow = runs.restored("tomorrow", tried)
    assert answer(tomorrow) == f"all results are those of MLflow run {tried.mlflow()['run_id']}, which was worse"
    assert read_json(tomorrow.workspace.folder / AGAINST / "diagnosis.json")["worse"] is True
    assert answer(runs.restored("as-good", good)) == "all results are those of the last good run (good-goat)"


def test_an_attempt_that_is_not_compared_does_not_keep_the_answer_of_the_attempt_before(runs: Runs) -> None:
    folder = runs.repository / ".runs/again"
    write_json(folder / AGAINST / "diagnosis.json", QUIET | {"question": "against", "worse": True})
    state = against_last_good.fn(Session(Workspace(runs.repository, folder), Settings(), {}), "nightly")
    assert state.name == "NotCompared"  # its MLflow run is not known
    assert not (folder / AGAINST).exists()


def test_a_signal_that_another_error_hides_ends_the_flow_run(runs: Runs) -> None:
    class Interrupted(Session):
        """Ctrl-C in a lock of `threading`, which then is released although it is not held."""

        @property
        def is_live(self) -> bool:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                raise RuntimeError("cannot release un-acquired lock")  # noqa: B904

    folder = runs.repository / ".runs/stopped"
    with pytest.raises(KeyboardInterrupt):
        against_last_good.fn(Interrupted(Workspace(runs.repository, folder), Settings(), {}), "nightly")
