"""Which version becomes the champion, by plain numbers and in a real MLflow store."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities.model_registry import ModelVersion

from flows.mlflow_store import connection, promotion, registry, run_content, run_start, verdict_tags
from flows.mlflow_store.promotion import Standing, refusals
from tasks import files
from tasks.errors import SettingsError
from tasks.settings import Settings, parse

pytestmark = pytest.mark.slow


def scores(losses: list[float], worst: float = 0.8, num_examples: int = 100) -> dict[str, Any]:
    client = {"client": "03", "accuracy": worst, "num_examples": num_examples}
    return {"test": {"losses": " ".join(f"{loss:.6g}" for loss in losses)}, "worst": {"client": client}}


GOOD = Standing(True, "The loss did not rise.", "abc", scores([0.1, 0.3] * 50))


def test_the_first_champion_needs_only_a_clean_diagnosis() -> None:
    assert refusals(GOOD, None) == []
    (said,) = refusals(replace(GOOD, clean=False, verdict="The loss rose."), None)
    assert said == "the diagnosis is not clean: The loss rose."


def test_a_loss_is_worse_if_the_examples_differences_say_so() -> None:
    """Losses 0.1 and 0.3 have an sd of 0.1, so means of 100 have an error of 0.01: 0.005 more would be noise.

    Example by example, 0.004 and 0.006 more have an sd of 0.001 and an error of 0.0001: 0.005 more are no noise.
    """
    (said,) = refusals(replace(GOOD, scores=scores([0.104, 0.306] * 50)), GOOD)
    assert said == "the hold-out loss is worse: 0.205 instead of 0.2, a difference of 0.005 ± 0.0001"
    # 0.1 more and 0.098 less: a difference of 0.001 with an error of 0.1 / 10 is noise.
    assert refusals(replace(GOOD, scores=scores([0.2, 0.202] * 50)), GOOD) == []
    assert refusals(replace(GOOD, scores=scores([0.1, 0.2] * 50)), GOOD) == []


def test_a_worst_client_falls_if_its_accuracy_does_beyond_noise() -> None:
    # sqrt(0.8 · 0.2 / 100 + 0.8 · 0.2 / 100) is 0.057, so a fall of more than about 0.1 is no noise.
    fallen = [bool(refusals(replace(GOOD, scores=scores([0.1, 0.3] * 50, worst)), GOOD)) for worst in (0.75, 0.65, 0.9)]
    assert fallen == [False, True, False]
    (said,) = refusals(replace(GOOD, scores=scores([0.1, 0.3] * 50, 0.5, 40)), GOOD)
    assert said == (
        "the worst client has fallen: client 03 has accuracy 0.5 on 40 examples, the champion's worst client 03 has "
        "0.8 on 100"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hold_out": "other"}, "other hold-out data"),
        ({"hold_out": ""}, "other hold-out data"),
        ({"scores": {"test": {"losses": None}}}, "the loss is not finite"),
    ],
)
def test_losses_that_cannot_be_compared_are_refused(change: dict[str, Any], said: str) -> None:
    (found,) = refusals(replace(GOOD, **change), GOOD)
    assert said in found


def test_promote_needs_a_registered_model() -> None:
    with pytest.raises(SettingsError, match=r"track.*set track.register_as to its name"):
        parse({"track": {"promote": True}})
    assert parse({"track": {"promote": True, "register_as": "digits"}}).track.promote


def test_the_champion_moves_only_to_a_model_that_is_no_worse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    opened = connection.connect(tmp_path)
    client = opened.client
    assert promotion.SURE > 1

    files.write_json(tmp_path / "data/partition/partition.json", {"test": {"digest": "abc"}})

    def new_version(losses: list[float], verdict: str) -> ModelVersion:
        files.write_json(tmp_path / "reports/evaluation.json", {"global": scores(losses)})
        files.write_json(tmp_path / "reports/diagnosis.json", {"verdict": verdict, "increase": {"detected": False}})
        (tmp_path / "reports/diagnosis.md").write_text("# Why\n\nThe answer.\n")
        run_id = run_content.create(client, opened.experiment_id, Settings(), tmp_path)
        client.log_artifact(run_id, str(tmp_path / "reports/evaluation.json"), "reports")
        verdict_tags.mark(client, run_id, tmp_path / "reports", "")
        run_content.log_tags(client, run_id, registry.run_tags(tmp_path))
        logged = client.create_logged_model(opened.experiment_id, name="global", source_run_id=run_id)
        version = registry.version_of(client, "digits", run_id, logged.model_id, {"loss": 0.2, "accuracy": 0.9})
        again = registry.version_of(client, "digits", run_id, logged.model_id, {})
        assert again.version == version.version  # a second attempt of the step registers nothing
        registry.promote(client, version, "global", tmp_path)
        return client.get_model_version("digits", version.version)

    first = new_version([0.1, 0.3] * 50, "none")
    worse = new_version([0.2, 0.41] * 50, "none")
    sick = new_version([0.1, 0.3] * 50, "label_skew")
    assert client.get_model_version_by_alias("digits", "champion").version == first.version
    assert client.get_model_version_by_alias("digits", "candidate").version == sick.version
    assert first.tags["promotion"] == "the first champion"
    assert worse.tags["promotion"].startswith("not promoted: the hold-out loss is worse: 0.305 instead of 0.2")
    assert sick.tags["promotion"] == "not promoted: the diagnosis is not clean: The answer."
    assert sick.description.endswith("\n\nNot promoted: the diagnosis is not clean: The answer.")
    better = new_version([0.1, 0.2] * 50, "none")
    assert client.get_model_version_by_alias("digits", "champion").version == better.version
    assert better.tags["promotion"] == f"champion in place of version {first.version}"
    assert better.description.startswith("The answer.\n\nOf run mlp dirichlet(0.5) mean sgd: loss 0.2, accuracy 0.9 on")
    # A killed attempt can leave a version without its alias; the next one decides again, and says it once.
    client.set_registered_model_alias("digits", "champion", first.version)
    registry.promote(client, better, "global", tmp_path)
    assert client.get_model_version_by_alias("digits", "champion").version == better.version
    assert client.get_model_version("digits", better.version).description == better.description
    # What was decided stays: neither an old champion nor a refused version takes the place of a newer one.
    for decided in (first, worse):
        registry.promote(client, client.get_model_version("digits", decided.version), "global", tmp_path)
    assert client.get_model_version_by_alias("digits", "champion").version == better.version


def test_the_next_attempt_gives_a_version_the_alias_that_a_killed_one_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    opened = connection.connect(tmp_path)
    client = opened.client
    run_id = run_content.create(client, opened.experiment_id, Settings(), tmp_path)
    model_id = client.create_logged_model(opened.experiment_id, name="global", source_run_id=run_id).model_id
    client.create_registered_model("digits")
    killed = client.create_model_version("digits", f"models:/{model_id}", run_id=run_id, model_id=model_id)
    assert not client.get_registered_model("digits").aliases
    assert registry.version_of(client, "digits", run_id, model_id, {}).version == killed.version
    assert client.get_registered_model("digits").aliases == {"candidate": killed.version}
    assert json.loads(client.get_logged_model(model_id).tags["mlflow.modelVersions"])[0]["version"] == killed.version
    # An attempt that finds a complete version leaves the alias of a later version alone.
    later = client.create_model_version("digits", f"models:/{model_id}", run_id="0" * 32)
    client.set_registered_model_alias("digits", "candidate", later.version)
    registry.version_of(client, "digits", run_id, model_id, {})
    assert client.get_model_version_by_alias("digits", "candidate").version == later.version


def test_the_candidate_stays_the_newest_if_an_earlier_run_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    opened = connection.connect(tmp_path)
    client = opened.client

    def run() -> tuple[str, str]:
        run_id = run_content.create(client, opened.experiment_id, Settings(), tmp_path)
        return run_id, client.create_logged_model(opened.experiment_id, name="global", source_run_id=run_id).model_id

    (slow, slow_model), (fast, fast_model) = run(), run()
    client.create_registered_model("digits")
    # The slow run has its version, and not yet the alias, when another process registers that of the fast run.
    client.create_model_version("digits", f"models:/{slow_model}", run_id=slow, model_id=slow_model)
    newest = registry.version_of(client, "digits", fast, fast_model, {})
    assert int(registry.version_of(client, "digits", slow, slow_model, {}).version) < int(newest.version)
    assert client.get_registered_model("digits").aliases == {"candidate": newest.version}


def test_a_run_under_dvc_starts_when_dvc_began(tmp_path: Path) -> None:
    """A script that is called dvc takes DVC's place: it waits two seconds, as earlier stages do, and runs the stage."""
    stage = "import os; from flows.mlflow_store import run_start; print(run_start.started())"
    (tmp_path / "dvc").write_text(
        f"import subprocess, sys, time\ntime.sleep(2)\nsubprocess.run([sys.executable, '-c', {stage!r}], check=True)\n"
    )
    environment = {**os.environ, "DVC_STAGE": "track"}
    before = time.time()
    done = subprocess.run(
        [sys.executable, tmp_path / "dvc"], env=environment, capture_output=True, text=True, check=True
    )
    started, after = int(done.stdout) / 1000, time.time()
    assert before - 1 < started < after - 2
    assert run_start.started(12.5) == 12500
