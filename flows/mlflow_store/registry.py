"""MLflow's model registry: a version for each run's model, the aliases `candidate` and `champion`."""

import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from flows.known_secrets import safe_line
from flows.mlflow_store import promotion, verdict_tags
from flows.mlflow_store.promotion import Standing
from tasks.errors import DataError
from tasks.files import read_json

CANDIDATE, CHAMPION = "candidate", "champion"
HOLD_OUT = "hold_out.digest"
"""The tag of a run with the digest of its hold-out data."""
_CLEAN, _PROMOTION = "diagnosis.clean", "promotion"
_COPIED = ("verdict", "question", "clients", "round")

_log = logging.getLogger(__name__)


def version_of(client: MlflowClient, name: str, run_id: str, model_id: str, scores: Mapping[str, Any]) -> ModelVersion:
    """Returns the version of the registered model `name` that is the run's logged model; creates it if necessary.

    It has a description, tags with the verdict and the scores, and the alias `candidate`.
    """
    try:
        client.create_registered_model(name)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    run = client.get_run(run_id)
    there = [each for each in client.search_model_versions(f"run_id = '{run_id}'") if each.name == name]
    if there:
        return there[0]
    created = client.create_model_version(
        name,
        f"models:/{model_id}",
        run_id=run_id,
        model_id=model_id,
        tags=_tags(run, scores),
        description=_description(run, scores),
    )
    # mlflow.register_model sets this tag too; the model's page lists the versions in it.
    versions = json.dumps([{"name": created.name, "version": created.version}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": versions})
    client.set_registered_model_alias(name, CANDIDATE, created.version)
    return created


def promote(client: MlflowClient, version: ModelVersion, model: str, folder: Path) -> None:
    """Moves the alias `champion` to `version` if it may take the champion's place; else says why not.

    The reason is in the log, in the version's tag `promotion`, and at the end of its description.

    Args:
        client: the store's client.
        version: the version of this run.
        model: `global` or `pruned`.
        folder: the workspace of this run.
    """
    try:
        champion: ModelVersion | None = client.get_model_version_by_alias(version.name, CHAMPION)
    except MlflowException:  # there is none yet
        champion = None
    if champion is not None and champion.version == version.version:
        return
    new = _standing(client.get_run(str(version.run_id)), read_json(folder / "reports/evaluation.json"), model)
    before = None if champion is None else _standing_of_version(client, champion, model)
    reasons = promotion.refusals(new, before)
    place = "the first champion" if champion is None else f"champion in place of version {champion.version}"
    said = f"not promoted: {'; '.join(reasons)}" if reasons else place
    if not reasons:
        client.set_registered_model_alias(version.name, CHAMPION, version.version)
    client.set_model_version_tag(version.name, version.version, _PROMOTION, said[:5000])
    description = f"{version.description or ''}\n\n{said[0].upper()}{said[1:].rstrip('.')}."
    client.update_model_version(version.name, version.version, description)
    (_log.warning if reasons else _log.info)("%s version %s: %s", version.name, version.version, said)


def _standing_of_version(client: MlflowClient, version: ModelVersion, model: str) -> Standing:
    try:
        with tempfile.TemporaryDirectory() as holder:
            path = client.download_artifacts(str(version.run_id), "reports/evaluation.json", holder)
            return _standing(client.get_run(str(version.run_id)), read_json(Path(path)), model)
    except (MlflowException, OSError, DataError) as gone:  # the run was deleted, or another program made the version
        _log.warning("%s version %s: its scores cannot be read: %s", version.name, version.version, safe_line(gone))
        return Standing(False, "", "", {})


def _standing(run: Run, evaluation: Mapping[str, Any], model: str) -> Standing:
    tags = run.data.tags
    verdict = tags.get(f"{verdict_tags.PREFIX}answer") or tags.get(f"{verdict_tags.PREFIX}verdict", "")
    return Standing(tags.get(_CLEAN) == "true", verdict, tags.get(HOLD_OUT, ""), evaluation.get(model) or {})


def run_tags(reports: Path, hold_out: str) -> dict[str, str]:
    """Returns the tags of a run by which its models are compared with others later."""
    return {_CLEAN: "true" if verdict_tags.is_clean(reports) else "false", HOLD_OUT: hold_out}


def _tags(run: Run, scores: Mapping[str, Any]) -> dict[str, str]:
    tags = {f"{verdict_tags.PREFIX}{name}" for name in _COPIED} | {_CLEAN, HOLD_OUT, "mlflow.source.git.commit"}
    own = {name: value for name, value in run.data.tags.items() if name in tags}
    return own | {name: f"{scores[name]:.6g}" for name in ("loss", "accuracy") if scores.get(name) is not None}


def _description(run: Run, scores: Mapping[str, Any]) -> str:
    numbers = ", ".join(f"{name} {scores[name]:.4g}" for name in ("loss", "accuracy") if scores.get(name) is not None)
    answer = run.data.tags.get(f"{verdict_tags.PREFIX}answer", "no diagnosis")
    return f"{answer}\n\nOf run {run.info.run_name}: {numbers or 'no scores'} on the hold-out data."
