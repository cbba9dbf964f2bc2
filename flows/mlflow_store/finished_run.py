"""Logs a finished run to MLflow: settings, numbers of each round, final scores, models, data versions, reports."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.known_secrets import safe_line
from flows.mlflow_store import (
    connection,
    mending,
    run_files,
    run_record,
    run_scores,
    score_tables,
    tracked_results,
    verdict_tags,
)
from flows.mlflow_store.run_files import DATA, MODEL_FILES
from flows.mlflow_store.store_errors import store_errors
from tasks import command, files, outputs
from tasks.settings import Settings
from tasks.signals import masked

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DIGEST = "dvc.digest"
"""The tag that holds the hash of a logged model's file. It is set last: a model with this tag is complete."""

_log = logging.getLogger(__name__)


def track(settings: Settings, folder: Path, force: bool = False) -> None:
    """Logs the finished run in the workspace `folder` to MLflow, and writes reports/mlflow.json and tracked.json.

    If the store has a finished run with the same settings and results, that run is named and nothing is logged, unless
    `force`. If a killed process left an MLflow run of this folder running, that run is ended, and not continued: its
    rounds can be of other settings or data.

    Raises:
        DataError: a step has not been run, or a model file is damaged or of another model. Nothing was logged.
        TrackingLost, RunError: MLflow did not accept the run. The MLflow run is FAILED.
    """
    run_files.check(folder)
    results, opened = tracked_results.results_of(settings, folder), connection.connect(folder)
    with store_errors(opened.uri), _beginning(opened.client, folder) as begin:
        if not force and _found(opened, folder, results):
            return
        loaded = _models(settings, folder)
        from flows.mlflow_store import run_content

        with outputs.renewed(outputs.of("track", folder)):
            run_id = begin(lambda: run_content.create(opened.client, opened.experiment_id, settings, folder))
            with ending(opened.client, run_id):
                run_content.log_settings(opened.client, run_id, settings)
                _log_run(opened, run_id, settings, folder, loaded, results)
            tracked_results.write(opened, run_id, folder, results)
            _log.info("%s: run %s in experiment %s", opened.uri, run_id, connection.EXPERIMENT)


def find_logged(settings: Settings, folder: Path) -> bool:
    """Returns whether MLflow has a finished run with these settings and the results in the workspace `folder`.

    If it has, writes reports/mlflow.json and tracked.json for that run. Raises the same errors as `track`.
    """
    run_files.check(folder)
    results, opened = tracked_results.results_of(settings, folder), connection.connect(folder)
    with store_errors(opened.uri):
        return _found(opened, folder, results)


def _found(opened: connection.Store, folder: Path, results: tracked_results.Results) -> bool:
    run_id = tracked_results.find(opened, results)
    if run_id:
        tracked_results.write(opened, run_id, folder, results)
        _log.info("%s: run %s has these settings and results already", opened.uri, run_id)
    return bool(run_id)


@contextmanager
def _beginning(client: "MlflowClient", folder: Path) -> Iterator[Callable[[Callable[[], str]], str]]:
    """Yields a function that begins a run and records it in `folder`. First ends a run that a killed process left.

    In the folder of a flow run, nothing is recorded and nothing ended: the record there belongs to the flow run. The
    caller holds the folder's lock.
    """
    if connection.store_folder(folder) != folder.absolute():
        yield lambda create: create()
        return
    # Without the folder's reports, which can be of other settings now.
    run_record.end_abandoned(folder, "KILLED", with_reports=False)
    run_record.remove_record(folder)
    try:
        yield lambda create: run_record.begin(client, folder, create, {})
    finally:
        _forget_ended(client, folder)


def _forget_ended(client: "MlflowClient", folder: Path) -> None:
    """Removes the record of the run that was begun in `folder`, if the run has ended in the store."""
    try:
        ended = client.get_run(run_record.read_run_id(folder)).info.status != "RUNNING"
    except Exception as lost:  # the next `track` in this folder will end the run
        _log.debug("%s", safe_line(lost))
        return
    if ended:
        run_record.remove_record(folder)


def log_finished(settings: Settings, folder: Path, run_id: str, promotes: bool = True) -> None:
    """Logs the finished run to an MLflow run that was begun earlier, and adds the rounds that are missing there.

    The status of the MLflow run stays as it is. Without `promotes`, the alias `champion` stays until `promote`. Raises
    the same errors as `track`.
    """
    run_files.check(folder)
    loaded = _models(settings, folder)
    results, opened = tracked_results.results_of(settings, folder), connection.connect(folder)
    with store_errors(opened.uri):
        _log_run(opened, run_id, settings, folder, loaded, results, promotes)
    tracked_results.write(opened, run_id, folder, results)
    _log.info("%s: run %s in experiment %s", opened.uri, run_id, connection.EXPERIMENT)


def promote(settings: Settings, folder: Path, run_id: str) -> None:
    """Decides whether the registered versions of the run in `folder` become champions, if `track.promote` is set."""
    from flows.mlflow_store import registry

    opened = connection.connect(folder)
    with store_errors(opened.uri):
        for version in opened.client.search_model_versions(f"run_id = '{run_id}'") if settings.track.promote else ():
            model = "global" if version.name == settings.track.register_as else "pruned"
            registry.promote(opened.client, version, model, folder)


def _models(settings: Settings, folder: Path) -> dict[str, Any]:
    """Returns name → Keras model, for the models of the run.

    Raises:
        DataError: a model file is damaged or of another model.
    """
    connection.quiet_mlflow()
    with command.loading():
        from flows.mlflow_store import logged_models

    return logged_models.load_models(settings, folder, MODEL_FILES)


def _log_run(
    opened: connection.Store,
    run_id: str,
    settings: Settings,
    folder: Path,
    loaded: Mapping[str, Any],
    results: tracked_results.Results,
    promotes: bool = True,
) -> None:
    from flows.mlflow_store import data_versions, logged_models, registry, run_content
    from tasks.predict import recipe_of
    from tasks.predict.example import raw_example

    client, digests = opened.client, results.hashes
    there = _logged_models(opened, run_id, digests)
    versions = {f"dvc.{path}": digests[path] for path in (*DATA, *MODEL_FILES.values())}
    # MLflow's page shows the tags in this order: the verdict first.
    run_content.log_tags(client, run_id, {**verdict_tags.verdict_tags(folder / "reports"), **versions})
    data = {path: data_versions.data_set(folder, path, digests[path]) for path in DATA}
    run_content.log_data(client, run_id, {context: data[path] for path, context in DATA.items()})
    rows, logged = files.read_rows(folder / "reports/rounds.csv"), run_content.logged_rounds(client, run_id)
    run_content.log_rounds(client, run_id, [row for row in rows if int(row["round"]) not in logged])
    curves = {column: int(row["round"]) for row in rows for column in run_content.numbers(row)}
    scores = files.read_json(folder / "reports/metrics.json")
    run_files.log_artifacts(client, run_id, folder, digests)
    recipe = recipe_of(settings, folder)
    example = raw_example(recipe, folder)
    origin = run_content.origin(folder)
    # All models are logged before any score: MLflow copies all numbers of step 0, a new model's step, to that model.
    ids = dict(there)
    for name in [each for each in loaded if each not in there]:
        ids[name] = logged_models.log_model(
            opened, run_id, name, folder / MODEL_FILES[name], recipe, example, settings, origin
        )
        client.set_logged_model_tags(ids[name], {_DIGEST: digests[MODEL_FILES[name]]})
    log = partial(run_content.log_scores, client, run_id, curves=curves, data=data["data/clients"])
    log({key: value for key, value in scores.items() if key.startswith(("pruned_", *run_scores.OF_BASELINES))})
    for name in ("pruned", "global"):  # both have a `loss`; the run's own is that of the global model
        log(run_scores.of_model(name, scores), model_id=ids[name], earlier=0 if name == "global" else 1)
    evaluation = files.read_json(folder / "reports/evaluation.json")
    score_tables.log_tables(client, run_id, evaluation)
    said = evaluation.get("baselines", {}).get("says", [])
    mended = mending.compared(client, client.get_run(run_id), scores.get("loss"))
    ranked = (evaluation.get("global") or {}).get("worst") or {}
    parts = mended, run_scores.note(settings, rows, scores, said), run_scores.worst(ranked)
    text = "\n\n".join(part for part in parts if part)
    verdict_tags.mark(client, run_id, folder / "reports", text)
    run_content.log_tags(client, run_id, registry.run_tags(folder))
    models = {name: (ids[name], run_scores.of_model(name, scores)) for name in ids}
    _register(client, run_id, settings, folder, models, promotes)
    run_content.log_tags(client, run_id, {tracked_results.TAG: results.digest})  # last: the run is complete


def _register(
    client: "MlflowClient",
    run_id: str,
    settings: Settings,
    folder: Path,
    models: Mapping[str, tuple[str, Mapping[str, Any]]],
    promotes: bool,
) -> None:
    """Registers the run's models, name → (id, scores), if `track.register_as` is set.

    The global model is registered as `track.register_as`, the pruned one as `<track.register_as>-pruned`, so that the
    versions of a registered model are comparable.
    """
    from flows.mlflow_store import registry

    name = settings.track.register_as
    for model, (model_id, scores) in models.items() if name else ():
        registered = name if model == "global" else f"{name}-{model}"
        version = registry.version_of(client, registered, run_id, model_id, scores)
        if settings.track.promote and promotes:
            registry.promote(client, version, model, folder)


def _logged_models(opened: connection.Store, run_id: str, digests: Mapping[str, str]) -> dict[str, str]:
    """Returns name → id, for the complete models of an earlier attempt. Deletes a model that the attempt only began."""
    client, whole = opened.client, {}
    for model in client.search_logged_models([opened.experiment_id], filter_string=f"source_run_id = '{run_id}'"):
        if model.tags.get(_DIGEST) == digests[MODEL_FILES[model.name]]:
            whole[model.name] = str(model.model_id)
        elif _DIGEST not in model.tags and not client.search_model_versions(f"run_id = '{run_id}'"):
            client.delete_logged_model(model.model_id)
    return whole


@contextmanager
def ending(client: "MlflowClient", run_id: str) -> Iterator[None]:
    """Ends the run in MLflow when the block ends: FINISHED, FAILED after an error, KILLED after Ctrl-C or SIGTERM."""
    try:
        yield
    except BaseException as exc:
        status = "FAILED" if isinstance(exc, Exception) and not masked(exc) else "KILLED"
        try:
            client.set_terminated(run_id, status)
        except Exception as lost:  # the store is gone, but the error that ended the run is more important
            _log.warning("MLflow run %s could not be marked %s: %s", run_id, status, safe_line(lost))
        raise
    client.set_terminated(run_id, "FINISHED")
