"""The pages of Prefect and MLflow as a user sees and clicks them: real servers, a real worker, a real browser.

The tests write pictures of the pages into pytest's temporary folder `screenshots`.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import browser
import pytest
import yaml
from mlflow import MlflowClient

from tasks.settings import STEPS, Settings, fields
from tests.servers import ask, mlflow_server

CHROMIUM = browser.find()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium"),
]

# In the form, a setting is a box inside the boxes of its sections. Each has a title, a help text, and perhaps a menu.
READ_FORM = """
[...document.querySelectorAll('.schema-form-property')].map(box => {
  const said = (e, part) => (e.querySelector(':scope > .p-label__header ' + part)?.innerText || '').trim();
  const boxes = [];
  for (let e = box; e; e = e.parentElement.closest('.schema-form-property')) boxes.unshift(e);
  const menu = box.querySelector('.schema-form-property') ? null : box.querySelector('select');
  return {
    path: boxes.map(e => said(e, '.schema-form-property__label').replace(' (Optional)', '')),
    help: said(box, '.schema-form-property__description'),
    choices: menu ? [...menu.options].map(option => option.value) : [],
  };
})
"""
# Several menus can have the same title, such as `Kind`. This takes the one in the box of the given section.
CHOOSE = """
((section, title, value) => {
  const called = (e, name) => e.innerText.startsWith(name);
  const menu = [...document.querySelectorAll('.schema-form-property')]
    .filter(e => !e.querySelector('.schema-form-property') && called(e, title)
      && called(e.parentElement.closest('.schema-form-property'), section))
    .pop().querySelector('select');
  menu.value = value;
  menu.dispatchEvent(new Event('change', {bubbles: true}));
})
"""


@dataclass(frozen=True)
class Site:
    """The servers and the worker."""

    deployed: Any
    api: str
    mlflow: str
    pictures: Path

    @property
    def ui(self) -> str:
        return self.api.removesuffix("/api")

    def ask(self, method: str, path: str, **body: Any) -> Any:
        return ask(self.api, method, path, **body)

    def deployment(self, name: str = "pipeline") -> dict[str, Any]:
        return dict(self.ask("GET", f"deployments/name/{name}/{name}"))

    def wait_for(self, run_id: str, state: str = "Completed", seconds: float = 400) -> None:
        until = time.monotonic() + seconds
        while (run := self.ask("GET", f"flow_runs/{run_id}"))["state_name"] != state:
            assert run["state_type"] not in {"FAILED", "CRASHED"}, run["state"]["message"]
            self.deployed.check()
            assert time.monotonic() < until, run["state_name"]
            time.sleep(0.5)

    def workspace(self, run_id: str) -> Path:
        return Path(self.deployed.repository, ".runs", run_id)

    def mlflow_run(self, run_id: str) -> Any:
        return MlflowClient(self.mlflow).get_run((self.workspace(run_id) / ".mlflow-run").read_text().split()[0])


@pytest.fixture(scope="module")
def site(copy_repository: Any, deploy: Any, shell: dict[str, str], tmp_path_factory: Any) -> Iterator[Site]:
    folder = copy_repository(tmp_path_factory.mktemp("site"))
    log = tmp_path_factory.mktemp("mlflow") / "log"
    with mlflow_server(shell, log, folder) as url, deploy(folder, MLFLOW_TRACKING_URI=url) as deployed:
        yield Site(deployed, deployed.api, url, tmp_path_factory.mktemp("screenshots"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: Any) -> Iterator[browser.Page]:
    assert CHROMIUM
    with browser.browser(CHROMIUM, tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


def test_the_form_shows_every_setting_with_its_help_and_its_choices(site: Site, page: browser.Page) -> None:
    page.open(f"{site.ui}/deployments/deployment/{site.deployment()['id']}/run")
    page.wait_for("Submit", Settings.model_fields["track"].title or "")
    time.sleep(1)  # the help texts appear a moment later
    page.screenshot(site.pictures / "form.png")
    form = {tuple(each["path"]): each for each in page.run(READ_FORM)}
    assert [path for path in form if len(path) == 1] == [
        ("Force",),
        ("Push",),
        ("Against last good",),
        ("Settings",),
    ]
    for name, field in fields().items():
        shown = form[titles(name)]
        assert shown["help"].startswith(field.description), name
        choices = [*get_args(field.annotation)] if get_origin(field.annotation) is Literal else []
        if len(choices) != 1:  # a setting with one choice has no menu: the form says that it cannot be changed
            assert shown["choices"] == choices, name
    sections = {path[:-1] for path in map(titles, fields())}
    assert all(form[section]["help"] for section in sections)


def titles(name: str) -> tuple[str, ...]:
    """Returns the titles of the sections and of the setting: ("Settings", "Federate", "Client", "Learning rate")."""
    found, section = ["Settings"], Settings
    for part in name.split("."):
        field = section.model_fields[part]
        assert field.title, name
        found.append(field.title)
        section = field.annotation  # type: ignore[assignment]
    return tuple(found)


def test_the_grid_of_a_comparison_stands_before_the_many_settings(site: Site, page: browser.Page) -> None:
    page.open(f"{site.ui}/deployments/deployment/{site.deployment('compare')['id']}/run")
    page.wait_for("Submit", "cells at a time")
    time.sleep(1)
    page.screenshot(site.pictures / "form-compare.png")
    first = [each for each in page.run(READ_FORM) if len(each["path"]) == 1]
    assert [each["path"][0] for each in first] == ["Grid", "Same clients", "Jobs", "Dask", "Settings"]
    assert all(each["help"] for each in first)


@pytest.fixture(scope="module")
def first(site: Site, page: browser.Page) -> str:
    """The id of a run that was started in the form with another aggregator, and has completed."""
    page.open(f"{site.ui}/deployments/deployment/{site.deployment()['id']}")
    page.click("Run", "button")
    page.click("Custom run")
    page.wait_for("Submit", Settings.model_fields["track"].title or "")
    page.run(f"{CHOOSE}('Aggregator', 'Kind', 'median')")
    page.click("Submit", "button")
    page.wait_for("scheduled to start now")
    mine = {"deployments": {"id": {"any_": [site.deployment()["id"]]}}}
    (run_id,) = (str(run["id"]) for run in site.ask("POST", "flow_runs/filter", **mine))
    site.wait_for(run_id)
    page.open(f"{site.ui}/runs/flow-run/{run_id}")
    alpha = Settings().partition.alpha
    page.wait_for(f"mlp dirichlet({alpha}) median sgd · ")
    return run_id


def test_a_run_started_in_the_form_shows_its_steps_logs_and_artifacts(
    site: Site, page: browser.Page, first: str
) -> None:
    page.open(f"{site.ui}/runs/flow-run/{first}")
    # A log line from each step's module, next to the name of the step.
    page.wait_for(
        "1438 examples over 10 clients", "federate 3/3", "prune 5/5", "tasks.partition", "on 359 test examples"
    )
    page.screenshot(site.pictures / "run.png")
    page.click("Task Runs")
    steps = (*STEPS, "track", "against-last-good")
    page.wait_for(f"{len(steps)} Task runs", f"({len(steps)} Completed)", "partition\nCompleted")
    assert [line for line in page.text().splitlines() if line in steps] == [*reversed(steps)]
    page.screenshot(site.pictures / "run-tasks.png")
    page.click("Artifacts")
    page.wait_for(
        "federate: 3 of 3 rounds, the last is 3",
        "prune: 2 of 2 rounds, the last is 5",
        "the round log",
        "diagnosis and scores",
        "in MLflow",
    )
    page.screenshot(site.pictures / "run-artifacts.png")

    made = site.ask("POST", "artifacts/filter", flow_runs={"id": {"any_": [first]}})
    ids = {each["key"]: each["id"] for each in made}
    assert len(made) == len(ids)  # one artifact per key
    link = f"{site.mlflow}/#/experiments/1/runs/{site.mlflow_run(first).info.run_id}"
    for key, says in {
        "federate-rounds": ["100%"],
        "rounds": ["val_loss", "update_cosine_min", "federate", "prune"],
        "report": ["Is the loss higher than it should be?", "Scores", "accuracy"],
        "mlflow": ["MLflow run"],
    }.items():
        page.open(f"{site.ui}/artifacts/artifact/{ids[key]}")
        page.wait_for(*says)
        page.screenshot(site.pictures / f"artifact-{key}.png")
    assert page.run("[...document.querySelectorAll('a')].map(a => a.href)").count(link) == 1

    params, run_by = (
        yaml.safe_load((folder / "params.yaml").read_text())
        for folder in (site.deployed.repository, site.workspace(first))
    )
    params["federate"]["aggregator"]["kind"] = "median"
    assert run_by == params  # all other settings are as registered
    logged = site.mlflow_run(first)
    assert logged.data.params["federate.aggregator.kind"] == "median"
    assert logged.data.tags["prefect.flow_run_id"] == first


def test_two_runs_stand_side_by_side_in_mlflow(site: Site, page: browser.Page, first: str) -> None:
    made = site.ask("POST", f"deployments/{site.deployment()['id']}/create_flow_run", state={"type": "SCHEDULED"})
    site.wait_for(made["id"])
    page.open(f"{site.ui}/runs/flow-run/{made['id']}")
    page.click("Task Runs")
    page.wait_for("preprocess\nCached", "partition\nCached")  # the first run filled the cache
    page.screenshot(site.pictures / "run-cached.png")
    runs = [site.mlflow_run(each).info for each in (first, made["id"])]
    ids = ",".join(f'"{run.run_id}"' for run in runs)
    page.open(f'{site.mlflow}/#/compare-runs?runs=[{ids}]&experiments=["1"]')
    page.wait_for(*(str(run.run_name) for run in runs), "federate.aggregator.kind", "balanced_accuracy", seconds=90)
    time.sleep(3)
    page.screenshot(site.pictures / "mlflow-compare.png")
    page.open(f"{site.mlflow}/#/experiments/1/runs?workflowType=machine_learning")
    page.wait_for(*(str(run.run_name) for run in runs), seconds=90)
    time.sleep(3)
    page.screenshot(site.pictures / "mlflow-runs.png")
    page.open(f"{site.mlflow}/#/experiments/1/runs/{runs[0].run_id}/model-metrics")
    page.wait_for("accuracy", seconds=90)
    time.sleep(3)
    page.screenshot(site.pictures / "mlflow-run.png")


def test_a_schedule_set_in_the_ui_survives_another_registration(
    site: Site, page: browser.Page, shell: dict[str, str]
) -> None:
    address = f"{site.ui}/deployments/deployment/{site.deployment()['id']}"
    page.open(address)
    page.click("Schedule", "button")
    page.click("Cron", "button")
    page.run("document.querySelectorAll('.p-modal input[type=text]')[1].focus()")
    page.type("0 3 * * 1")
    page.screenshot(site.pictures / "schedule.png")
    page.click("Save", "button")
    page.wait_for("At 03:00 AM, only on Monday")
    pool = site.deployment()["work_pool_name"]
    again = subprocess.run(
        [sys.executable, "-m", "flows.deployments", "--register-only", "--pool", pool],
        cwd=site.deployed.repository,
        env={**shell, "PREFECT_API_URL": site.api},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    page.open(address)
    page.wait_for("At 03:00 AM, only on Monday")
    (schedule,) = site.deployment()["schedules"]
    assert (schedule["schedule"]["cron"], schedule["active"]) == ("0 3 * * 1", True)


def test_the_buttons_cancel_a_run_and_retry_it(site: Site, page: browser.Page) -> None:
    settings = site.deployment()["parameters"]["settings"]
    # The diagnosis of so many losses and rounds takes minutes.
    settings["federate"] |= {"rounds": 400, "evaluate_every": 5}
    settings["diagnose"] |= {"budget": 0.1}
    wanted = {"parameters": {"settings": settings}, "state": {"type": "SCHEDULED"}}
    run_id = str(site.ask("POST", f"deployments/{site.deployment()['id']}/create_flow_run", **wanted)["id"])
    page.open(f"{site.ui}/runs/flow-run/{run_id}")
    page.wait_for("federate 10/400", seconds=300)
    page.click("Cancel", "button")
    page.wait_for("Cancel Flow Run")
    page.screenshot(site.pictures / "cancel.png")
    page.click("Confirm", "button")
    site.wait_for(run_id, "Cancelled", 120)  # its process ends long before, see tests/test_flows_deployments.py
    page.wait_for("Cancelled")
    log = site.workspace(run_id) / "models/checkpoints/federate/log.jsonl"
    reached = len(log.read_text().splitlines())
    assert 10 <= reached < 400
    assert site.mlflow_run(run_id).info.status == "KILLED"
    page.click("Retry", "button")
    page.wait_for("This will retry flow run")
    page.screenshot(site.pictures / "retry.png")
    page.click("Retry", ".p-modal button")
    site.wait_for(run_id)
    # The page shows the first two hundred lines only.
    asked = {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200}
    lines = [
        line["message"]
        for offset in range(0, 1000, 200)
        for line in site.ask("POST", "logs/filter", **asked, offset=offset)
    ]
    assert len([line for line in lines if "goes on after round" in line]) == 1
    page.screenshot(site.pictures / "retried.png")
    logged = site.mlflow_run(run_id)
    assert (logged.info.status, logged.data.tags["resumed"]) == ("FINISHED", "true")
    assert logged.data.tags["prefect.flow_run_id"] == run_id
