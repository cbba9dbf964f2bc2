"""Registers the deployments with the Prefect server, and keeps what a user changed in the UI."""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flows
from flows.addresses import without_password
from flows.serving import reachability
from tasks.errors import InputError, SettingsError
from tasks.settings import fields, laid_over, load, parse, sections, value_at

DEPLOYED = {
    "pipeline": "Seven tasks: partition the data over clients, preprocess them, train in rounds (federate), prune, "
    "evaluate, diagnose, track. The diagnosis says whether the loss rose or is too high, and proves the cause and a "
    "remedy by replays. Models, curves and reports are in MLflow, data and results in DVC. If the loss is higher than "
    "in the last good run of this deployment, the run is compared with that run.",
    "compare": "The same tasks for every combination of a grid of settings, on the same clients, and one table that "
    "tests which is best.",
    "diagnose": "Explains why the loss of a finished run is up, or why the run ended: the rounds, the clients, the "
    "cause and a remedy, each proven by replays. Can run the pipeline again with the remedy.",
}
"""Deployment → its description in the UI. The flow of a deployment is `flows/<name>.py:<name>`."""

FIRST = (
    "federate.rounds",
    "federate.model",
    "federate.client.learning_rate",
    "federate.client.batch_size",
    "federate.local_work.epochs",
    "federate.aggregator.kind",
    "data.kind",
    "data.path",
    "partition.kind",
    "partition.num_clients",
)
"""The ten settings that people change first, in the order of the form."""

# TensorFlow reads them when it is imported. Commands set them by tasks.command.prepare, which no worker's run calls.
_TENSORFLOW = {"WRAPT_DISABLE_EXTENSIONS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}

_MEMORY = 1.5 * 2**30
"""Memory of a process with TensorFlow, TFF and the data of a small run, in bytes."""

_log = logging.getLogger(__name__)


def default_limit() -> int:
    """Returns how many flow runs this machine can run at a time: one per core, as far as they fit into its memory."""
    import psutil

    return max(1, min(len(os.sched_getaffinity(0)), int(psutil.virtual_memory().total // _MEMORY)))


def register_deployments(repository: Path, pool: str, limit: int) -> None:
    """Creates the process work pool `pool` if it is missing, and registers every flow of DEPLOYED there.

    `limit` is the most flow runs at a time in a pool that is created; the limit of an existing pool stays.

    A deployment that is registered again gets the present code and params.yaml. It keeps what a user set in the UI:
    schedules, pause, limit of runs at a time, description, tags, job variables, and the settings that the user changed.

    Raises:
        InputError: the pool exists and is no process pool, or params.yaml is wrong.
    """
    from prefect import flow

    raw = _raw(repository / "params.yaml")
    _ensure_pool(pool, limit)
    for name, description in DEPLOYED.items():
        loaded: Any = flow.from_source(source=str(repository), entrypoint=f"flows/{name}.py:{name}")
        # The same as loaded.deploy, without the advice and the table that it prints.
        deployment = loaded.to_deployment(
            name=name,
            work_pool_name=pool,
            description=description,
            tags=["undrift"],
            job_variables={"env": environment()},
        )
        shown = deployment._parameter_openapi_schema.properties
        arrange(shown, deployment._parameter_openapi_schema.definitions)
        if "settings" in shown:
            deployment.parameters = {"settings": raw}
            shown["settings"]["default"] = raw  # so the next registration finds the user's changes
        _log.info("deployment %s/%s: %s/deployments/deployment/%s", loaded.name, name, _ui(), _apply(deployment))


def environment() -> dict[str, str]:
    """Returns the environment variables that a flow run's process needs at its start, whichever worker starts it.

    They hold no addresses and passwords, because the server stores them in its database. The worker passes its own
    addresses and passwords on.
    """
    here = str(Path(sys.executable).parent)
    others = [part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part and part != here]
    return {**flows.ENVIRONMENT, **_TENSORFLOW, "PATH": os.pathsep.join([here, *others])}


def kept(before: Mapping[str, Any], deployed: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings, by dotted name, that a user changed in the UI and that differ from params.yaml.

    Args:
        before: params.yaml at the last registration.
        deployed: the deployment's present settings.
        now: the present params.yaml.
    """
    changed = {}
    for name in fields():
        value = value_at(deployed, name)
        if value is not None and value not in (value_at(before, name), value_at(now, name)):
            changed[name] = value
    return changed


def arrange(shown: dict[str, dict[str, Any]], definitions: dict[str, Any]) -> None:
    """Arranges a form.

    Its parameters get titles like the settings'. The settings are the last parameter, because they fill many screens.
    In each section of the settings, those of FIRST come first, in this order; so do the sections that hold them.

    Args:
        shown: parameter → its JSON schema.
        definitions: class of a section → its JSON schema.
    """
    for at, name in enumerate(sorted(shown, key=lambda name: name == "settings")):
        parameter = shown[name]
        parameter["position"], parameter["title"] = at, name.replace("_", " ").capitalize()
        parameter["description"] = parameter.get("description", "").removesuffix(".")
    for section, model in sections():
        properties = definitions.get(model.__name__, {}).get("properties", {})
        for at, name in enumerate(sorted(properties, key=lambda name: _rank(f"{section}.{name}".lstrip(".")))):
            properties[name]["position"] = at


def _rank(name: str) -> int:
    """Returns the place in FIRST of a setting, or of the first setting of a section; len(FIRST) if it has none."""
    return next((at for at, first in enumerate(FIRST) if f"{first}.".startswith(f"{name}.")), len(FIRST))


def _apply(deployment: Any) -> Any:
    """Registers the deployment and returns its id.

    If the deployment exists, only the fields that the code decides are sent. Prefect's `apply` would reset the others:
    no schedules, no limit, not paused.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            existing = client.read_deployment_by_name(deployment.full_name)
        except ObjectNotFound:
            return deployment.apply()
        pool = deployment.work_pool_name
        moved = {} if existing.work_pool_name == pool else {"work_pool_name": pool}
        present = existing.job_variables or {}
        update = DeploymentUpdate(
            **moved,
            version=deployment.version,
            entrypoint=deployment.entrypoint,
            pull_steps=[deployment.storage.to_pull_step()],
            parameters=_parameters(deployment, existing),
            parameter_openapi_schema=deployment._parameter_openapi_schema.model_dump(exclude_unset=True),
            job_variables={**present, "env": {**present.get("env", {}), **deployment.job_variables["env"]}},
        )
        client.update_deployment(existing.id, update)
        return existing.id


def _parameters(deployment: Any, existing: Any) -> dict[str, Any]:
    """Returns the parameters to register: the existing ones, with new settings if the deployment has settings.

    The new settings are params.yaml, with the settings that the user changed in the UI. If these do not fit together,
    the user's changes are dropped with a warning.
    """
    if "settings" not in deployment.parameters:
        return dict(existing.parameters)
    now, schema = deployment.parameters["settings"], existing.parameter_openapi_schema or {}
    before = schema.get("properties", {}).get("settings", {}).get("default") or now
    changed = kept(before, existing.parameters.get("settings") or {}, now)
    settings = laid_over(now, changed)
    try:
        parse(settings)
    except SettingsError as exc:
        _log.warning(
            "%s: the settings changed in the UI do not fit the new params.yaml and are dropped: %s", existing.name, exc
        )
        settings = now
    else:
        for name, value in changed.items():
            _log.info("%s: kept from the UI: %s=%s", existing.name, name, value)
    return {**existing.parameters, "settings": settings}


def _raw(params: Path) -> Any:
    import yaml

    load(params)
    return yaml.safe_load(params.read_text(encoding="utf-8"))


def _ensure_pool(name: str, limit: int) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        try:
            pool = client.read_work_pool(name)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            described = "Undrift's flow runs, each in its own processes on the worker's machine"
            pool = client.create_work_pool(
                WorkPoolCreate(
                    name=name,
                    type="process",
                    description=described,
                    base_job_template=template,
                    concurrency_limit=limit,
                )
            )
            _log.info("work pool %s: created, with at most %d flow runs at a time", name, limit)
    if pool.concurrency_limit is not None and pool.concurrency_limit < limit:
        _log.info("work pool %s: at most %d flow runs at a time, as set on its page", name, pool.concurrency_limit)
    if pool.type != "process":
        raise InputError(f"--pool must name a process work pool or a new pool, got {name!r} of type {pool.type}")


def _ui() -> str:
    from prefect.settings import PREFECT_UI_URL

    return without_password(str(PREFECT_UI_URL.value() or reachability.prefect_address().removesuffix("/api")))
