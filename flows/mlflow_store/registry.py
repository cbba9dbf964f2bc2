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
"""The tag of a run with the digest of its raw hold-out data.

The encoded hold-out data of a table differ with the training rows: these decide what fills a missing cell.
"""
_PARTITION = "data/partition/partition.json"
_CLEAN, _PROMOTION = "diagnosis.clean", "promotion"
_REFUSED = "not promoted"
"""How the tag `promotion` of a refused version begins."""
_VERSIONS = "mlflow.modelVersions"
"""The tag of a logged model with its versions, which its page lists; mlflow.register_model sets it too."""
_ABOUT = (
    f"One version for each run. `@{CANDIDATE}` is the newest. `@{CHAMPION}` moves only with `track.promote`: to a "
    "version whose loss is not worse beyond noise, whose worst client has not fallen, and whose diagnosis is clean. "
    "The tag `promotion` of a version says what was decided."
)
"""The description of a registered model."""
_COPIED = ("verdict", "question", "clients", "round")

_log = logging.getLogger(__name__)


def version_of(client: MlflowClient, name: str, run_id: str, model_id: str, scores: Mapping[str, Any]) -> ModelVersion:
    """Returns the version of the registered model `name` that is the run's logged model; creates it if necessary.

    It has a description, tags with the verdict and the scores, and the alias `candidate`. If an earlier attempt was
    killed before it set the alias, this one sets it, unless a newer version has it by now.
    """
    try:
        client.create_registered_model(name, description=_ABOUT)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    run = client.get_run(run_id)
    there = [each for each in client.search_model_versions(f"run_id = '{run_id}'") if each.name == name]
    version = there[0] if there else _create(client, name, run, model_id, scores)
    versions = json.dumps([{"name": version.name, "version": version.version}])
    if (client.get_logged_model(model_id).tags or {}).get(_VERSIONS) != versions:
        newest = _version_with(client, name, CANDIDATE)
        if newest is None or int(newest.version) < int(version.version):
            client.set_registered_model_alias(name, CANDIDATE, version.version)
        client.set_logged_model_tags(model_id, {_VERSIONS: versions})  # last: the version is complete
    return version


def _version_with(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """Returns the version that has the alias; None if none has it. A store that does not answer is an error."""
    version = client.get_registered_model(name).aliases.get(alias)
    return None if version is None else client.get_model_version(name, str(version))


def _create(client: MlflowClient, name: str, run: Run, model_id: str, scores: Mapping[str, Any]) -> ModelVersion:
    return client.create_model_version(
        name,
        f"models:/{model_id}",
        run_id=run.info.run_id,
        model_id=model_id,
        tags=_tags(run, scores),
        description=_description(run, scores),
    )


def promote(client: MlflowClient, version: ModelVersion, model: str, folder: Path) -> None:
    """Moves the alias `champion` to `version` if it may take the champion's place; else says why not.

    The reason is in the log, at the end of the version's description, and in its tag `promotion`. The alias is set
    last: if an earlier attempt was killed before it, this one decides again. A decided version stays as it is.

    Args:
        client: the store's client.
        version: the version of this run.
        model: `global` or `pruned`.
        folder: the workspace of this run.
    """
    champion = _version_with(client, version.name, CHAMPION)
    decided = version.tags.get(_PROMOTION, "")
    if decided.startswith(_REFUSED) or (champion is not None and int(champion.version) >= int(version.version)):
        return
    new = _standing(client.get_run(str(version.run_id)), read_json(folder / "reports/evaluation.json"), model)
    before = None if champion is None else _standing_of_version(client, champion, model)
    reasons = promotion.refusals(new, before)
    place = "the first champion" if champion is None else f"champion in place of version {champion.version}"
    said = f"{_REFUSED}: {'; '.join(reasons)}" if reasons else place
    described, more = version.description or "", f"\n\n{said[0].upper()}{said[1:].rstrip('.')}."
    if not described.endswith(more):
        client.update_model_version(version.name, version.version, described + more)
    client.set_model_version_tag(version.name, version.version, _PROMOTION, said[:5000])
    if not reasons:
        client.set_registered_model_alias(version.name, CHAMPION, version.version)
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


def run_tags(folder: Path) -> dict[str, str]:
    """Returns the tags of the run in the workspace `folder` by which its models are compared with others later."""
    clean, test = verdict_tags.is_clean(folder / "reports"), read_json(folder / _PARTITION)["test"]
    return {_CLEAN: "true" if clean else "false", HOLD_OUT: str(test.get("digest", ""))}


def found_worse(client: MlflowClient, run_id: str) -> None:
    """Says in the tags of the run and of its versions that the diagnosis, which is now in its tags, is not clean."""
    client.set_tag(run_id, _CLEAN, "false")
    run = client.get_run(run_id)
    for version in client.search_model_versions(f"run_id = '{run_id}'"):
        for name, value in _tags(run, {}).items():
            client.set_model_version_tag(version.name, version.version, name, value)
        described = (version.description or "").partition("\n\n")[2]
        client.update_model_version(version.name, version.version, f"{_answer(run)}\n\n{described}")


def _answer(run: Run) -> str:
    return str(run.data.tags.get(f"{verdict_tags.PREFIX}answer", "no diagnosis"))


def _tags(run: Run, scores: Mapping[str, Any]) -> dict[str, str]:
    numbers = {name: f"{scores[name]:.6g}" for name in ("loss", "accuracy") if scores.get(name) is not None}
    copied = (*(f"{verdict_tags.PREFIX}{name}" for name in _COPIED), _CLEAN, HOLD_OUT, "mlflow.source.git.commit")
    return numbers | {name: run.data.tags[name] for name in copied if name in run.data.tags}


def _description(run: Run, scores: Mapping[str, Any]) -> str:
    numbers = ", ".join(f"{name} {scores[name]:.4g}" for name in ("loss", "accuracy") if scores.get(name) is not None)
    return f"{_answer(run)}\n\nOf run {run.info.run_name}: {numbers or 'no scores'} on the hold-out data."
