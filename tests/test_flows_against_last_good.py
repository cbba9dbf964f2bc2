"""A deployment's runs, each compared with the last good one: with a real Prefect server, worker, DVC and MLflow."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows.running.last_good import GOOD
from flows.running.model_loss import loss_of_model
from tasks import files
from tasks.diagnose.compared.side import side_of
from tasks.settings import load
from tests.servers import ask

pytestmark = pytest.mark.slow

ROUNDS = 12


@pytest.fixture(scope="module")
def deployed(
    copy_repository: Callable[..., Path], deploy: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    small = {"federate.rounds": ROUNDS, "partition.kind": "iid", "federate.model": "logistic"}
    with deploy(copy_repository(tmp_path_factory.mktemp("deployed"), small)) as served:
        yield served


class Night:
    """A run of a deployment, which has ended."""

    def __init__(self, deployed: Any, deployment: str = "pipeline", parameters: Any = None, **changed: Any) -> None:
        """`changed` are settings of the section `federate`."""
        self.api = deployed.api
        made = ask(self.api, "GET", f"deployments/name/{deployment}/{deployment}")
        if parameters is None:
            settings = made["parameters"]["settings"]
            parameters = {"settings": settings | {"federate": settings["federate"] | changed}}
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        self.id = str(ask(self.api, "POST", f"deployments/{made['id']}/create_flow_run", **body)["id"])
        self.folder = deployed.repository / ".runs" / self.id
        self.shown = wait_for(deployed, self.id)
        self.store = MlflowClient(f"sqlite:///{deployed.repository / 'mlflow.db'}")

    @property
    def mlflow(self) -> Any:
        run_id = files.read_json(self.folder / "reports/mlflow.json")["run_id"]
        return self.store.get_run(run_id)

    def task(self) -> Any:
        """Returns the final state of the task that compares."""
        asked = {"flow_runs": {"id": {"any_": [self.id]}}, "task_runs": {"name": {"any_": ["against-last-good"]}}}
        (found,) = ask(self.api, "POST", "task_runs/filter", **asked)
        return found["state"]

    def event(self) -> Any:
        """Returns the one event of Undrift; the flow run's process sends it when the run has ended."""
        asked = {"event": {"prefix": ["undrift."]}, "resource": {"id": [f"prefect.flow-run.{self.id}"]}}
        until = time.monotonic() + 60
        while not (found := ask(self.api, "POST", "events/filter", filter=asked)["events"]):
            assert time.monotonic() < until, "there is no event"
            time.sleep(0.5)
        (event,) = found
        return event

    def artifacts(self) -> dict[str, str]:
        found = ask(self.api, "POST", "artifacts/filter", artifacts={"flow_run_id": {"any_": [self.id]}})
        return {each["key"]: str(each["data"]) for each in found}


def wait_for(deployed: Any, run_id: str, seconds: float = 900) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while (run := ask(deployed.api, "GET", f"flow_runs/{run_id}"))["state_type"] not in ("COMPLETED", "FAILED"):
        assert run["state_type"] != "CRASHED", deployed.said.read_text()[-3000:]
        deployed.check()
        assert time.monotonic() < until, deployed.said.read_text()[-3000:]
        time.sleep(0.2)
    return dict(run)


@pytest.fixture(scope="module")
def first(deployed: Any) -> Night:
    return Night(deployed)


@pytest.fixture(scope="module")
def worse(deployed: Any, first: Night) -> Night:
    return Night(deployed, rounds=3)


def test_the_first_run_of_a_deployment_has_nothing_to_compare_with_and_is_good(first: Night) -> None:
    assert first.shown["state_name"] == "Completed"
    assert first.task()["message"] == "no earlier run of this deployment finished with nothing wrong on this machine"
    assert (first.folder / GOOD).is_file()
    assert first.mlflow.data.tags["prefect.deployment"] == "pipeline"


def test_a_run_worse_than_the_last_good_one_says_so_in_prefect_and_mlflow(first: Night, worse: Night) -> None:
    state = worse.shown["state"]
    name = f"the last good run ({first.shown['name'].rpartition(' · ')[2]})"
    report = f".runs/{worse.id}/reports/against/diagnosis.html"
    assert (state["type"], state["name"], worse.shown["tags"]) == ("COMPLETED", "Worse", ["Worse", "undrift"])
    assert state["message"].startswith("val_loss ends at ")
    assert f"because federate.rounds changed: with federate.rounds={ROUNDS} it is " in state["message"]
    assert f"Report {report}, MLflow run {worse.mlflow.info.run_id}" in state["message"]
    assert worse.task()["message"] == f"worse than {name}"
    event = worse.event()
    assert event["event"] == "undrift.run.worse"
    told = {key: event["payload"][key] for key in ("cause", "clients", "round", "report")}
    assert told == {"cause": "changed_setting", "clients": [], "round": 1, "report": report}
    assert f"Why is the loss higher than in {name}" in worse.artifacts()["against"]

    run = worse.mlflow
    assert run.info.status == "FINISHED"
    tags = {key.removeprefix("diagnosis."): value for key, value in run.data.tags.items()}
    assert (tags["verdict"], tags["question"], tags["against"]) == (
        "changed_setting",
        "against",
        first.mlflow.info.run_id,
    )
    logged = {each.path for each in worse.store.list_artifacts(run.info.run_id, "reports/against")}
    assert logged == {f"reports/against/diagnosis.{kind}" for kind in ("html", "json", "md")}
    # Its own diagnosis is an output of DVC, and stays.
    assert files.read_json(worse.folder / "reports/diagnosis.json")["question"] != "against"
    assert not (worse.folder / GOOD).exists()
    assert len(files.read_json(first.folder / "reports/seeds.json")["val_loss"]) == 3


def test_a_run_whose_results_all_come_from_a_worse_run_is_as_bad(deployed: Any, worse: Night) -> None:
    again = Night(deployed, rounds=3)
    assert (again.shown["state_name"], again.mlflow.info.run_id) == ("Worse", worse.mlflow.info.run_id)
    assert again.task()["message"] == f"all results are those of MLflow run {worse.mlflow.info.run_id}, which was worse"
    assert again.event()["event"] == "undrift.run.worse"


def test_a_run_that_is_no_higher_replays_nothing_and_is_the_next_good_one(deployed: Any, first: Night) -> None:
    better = Night(deployed, rounds=ROUNDS + 8)
    assert better.shown["state_name"] == "Completed"
    assert better.task()["message"].startswith("not worse than the last good run (")
    assert (better.folder / GOOD).is_file()
    assert not (better.folder / "reports/against").exists()


def test_an_error_in_the_comparison_leaves_the_run_as_it_is(deployed: Any, first: Night) -> None:
    for mark in (deployed.repository / ".runs").glob(f"*/{GOOD}"):
        (mark.parent / "params.yaml").write_text("federate: wrong")
    night = Night(deployed, rounds=4)
    assert (night.shown["state_name"], night.mlflow.info.status) == ("Completed", "FINISHED")
    assert night.task()["name"] == "NotCompared"


def test_the_loss_of_a_run_s_model_on_its_own_hold_out_data_is_its_score(first: Night, worse: Night) -> None:
    side = side_of("it", load(worse.folder / "params.yaml"), worse.folder)
    loss = files.read_json(worse.folder / "reports/metrics.json")["loss"]
    assert loss_of_model(side, side) == pytest.approx(loss, rel=1e-5)
    (worse.folder / "models/global.h5").unlink()
    assert loss_of_model(side, side) is None


def test_a_remedy_that_a_deployment_applies_is_linked_to_the_run_that_it_mends(deployed: Any) -> None:
    drill = Night(
        deployed,
        rounds=24,
        model="mlp",
        faults={
            "kind": "flipped_labels",
            "clients": ["03", "07"],
            "from_round": 13,
            "until_round": 0,
            "factor": 10.0,
        },
    )
    assert drill.shown["state_name"] == "LossRose"
    assert drill.artifacts().keys() >= {"report"}
    asked = {"flow_runs": {"id": {"any_": [drill.id]}}, "task_runs": {"name": {"any_": ["against-last-good"]}}}
    assert ask(drill.api, "POST", "task_runs/filter", **asked) == []  # it has a verdict of its own
    before = {path.name for path in (deployed.repository / ".runs").glob("[!.]*")}
    diagnosed = Night(deployed, "diagnose", {"run": drill.mlflow.info.run_id, "apply": True})
    assert "Runs again with -S federate." in diagnosed.shown["state"]["message"]
    until = time.monotonic() + 120
    while not (made := {path.name for path in (deployed.repository / ".runs").glob("[!.]*")} - before):
        assert time.monotonic() < until, deployed.said.read_text()[-3000:]
        time.sleep(0.2)
    (mending,) = made
    wait_for(deployed, mending)
    run_id = files.read_json(deployed.repository / ".runs" / mending / "reports/mlflow.json")["run_id"]
    tags = drill.store.get_run(run_id).data.tags
    assert tags["diagnosis.mends"] == drill.mlflow.info.run_id
    assert drill.mlflow.data.tags["diagnosis.mended_by"] == run_id
