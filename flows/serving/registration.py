"""Registers the deployments: what the Prefect server gets from the code and params.yaml, and what stays of the UI."""

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
from tasks.settings import fields, laid_over, load, parse, value_at

DEPLOYED = {
    "pipeline": "The six steps from raw data to a pruned, tracked and versioned federated model.",
    "compare": "A grid of settings over the same clients, and one table that says which is really better.",
    "diagnose": "Why did the loss of a run go up?",
}
"""The deployments with their descriptions in the UI; the flow of each is `flows/<name>.py:<name>`."""

# TensorFlow reads them when it is imported: see tasks.command.prepare, which a worker's flow run does not call.
_TENSORFLOW = {"WRAPT_DISABLE_EXTENSIONS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}

_log = logging.getLogger(__name__)


def register_deployments(repository: Path, pool: str) -> None:
    """Makes the process work pool `pool` if it is missing, and registers every flow of DEPLOYED there.

    A deployment that is registered again gets the present code and params.yaml. What a user set in the UI stays:
    schedules, pause, limit of runs at a time, description, tags, job variables, and settings that the user changed.

    Raises:
        InputError: the pool is not of processes, or params.yaml is wrong.
    """
    from prefect import flow

    raw = _raw(repository / "params.yaml")
    _ensure_pool(pool)
    for name, description in DEPLOYED.items():
        loaded: Any = flow.from_source(source=str(repository), entrypoint=f"flows/{name}.py:{name}")
        # As loaded.deploy would, without the advice and the table that it prints.
        deployment = loaded.to_deployment(
            name=name,
            work_pool_name=pool,
            description=description,
            tags=["undrift"],
            job_variables={"env": environment()},
        )
        shown = deployment._parameter_openapi_schema.properties
        _arrange(shown)
        if "settings" in shown:
            deployment.parameters = {"settings": raw}
            shown["settings"]["default"] = raw  # by which the next registration knows what the user changed
        _log.info("deployment %s/%s: %s/deployments/deployment/%s", loaded.name, name, _ui(), _apply(deployment))


def environment() -> dict[str, str]:
    """Returns the environment that a flow run's process needs from its start on, whichever worker starts it.

    It has no addresses and passwords: they would be in the server's database. The worker passes on its own.
    """
    here = str(Path(sys.executable).parent)
    others = [part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part and part != here]
    return {**flows.ENVIRONMENT, **_TENSORFLOW, "PATH": os.pathsep.join([here, *others])}


def kept(before: Mapping[str, Any], deployed: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings, by dotted name, that a user changed in the UI and that differ from params.yaml.

    Args:
        before: params.yaml when it was last registered.
        deployed: the deployment's settings at present.
        now: params.yaml at present.
    """
    changed = {}
    for name in fields():
        value = value_at(deployed, name)
        if value is not None and value not in (value_at(before, name), value_at(now, name)):
            changed[name] = value
    return changed


def _arrange(shown: dict[str, dict[str, Any]]) -> None:
    """Titles a form's parameters as the settings are titled, and puts the settings last: they fill many screens."""
    for at, name in enumerate(sorted(shown, key=lambda name: name == "settings")):
        parameter = shown[name]
        parameter["position"], parameter["title"] = at, name.replace("_", " ").capitalize()
        parameter["description"] = parameter.get("description", "").removesuffix(".")


def _apply(deployment: Any) -> Any:
    """Registers the deployment and returns its id. If it exists, only what the code decides is sent.

    Prefect's own `apply` would reset the rest: no schedules, no limit, not paused.
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
    """Returns the parameters of the deployment: params.yaml, with the settings that the user changed in the UI."""
    if "settings" not in deployment.parameters:
        return dict(existing.parameters)
    now, schema = deployment.parameters["settings"], existing.parameter_openapi_schema or {}
    before = schema.get("properties", {}).get("settings", {}).get("default") or now
    changed = kept(before, existing.parameters.get("settings") or {}, now)
    settings = laid_over(now, changed)
    try:
        parse(settings)
    except SettingsError as exc:
        _log.warning("%s: what was set in the UI does not go with params.yaml and is dropped: %s", existing.name, exc)
        settings = now
    else:
        for name, value in changed.items():
            _log.info("%s: kept from the UI: %s=%s", existing.name, name, value)
    return {**existing.parameters, "settings": settings}


def _raw(params: Path) -> Any:
    import yaml

    load(params)
    return yaml.safe_load(params.read_text(encoding="utf-8"))


def _ensure_pool(name: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        try:
            pool = client.read_work_pool(name)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            described = "Undrift's flow runs, each a process group of a worker's machine"
            created = WorkPoolCreate(name=name, type="process", description=described, base_job_template=template)
            pool = client.create_work_pool(created)
            _log.info("work pool %s: made", name)
    if pool.type != "process":
        raise InputError(f"--pool must name a process work pool, or a new one, got {name!r} of type {pool.type}")


def _ui() -> str:
    from prefect.settings import PREFECT_UI_URL

    return without_password(str(PREFECT_UI_URL.value() or reachability.prefect_address().removesuffix("/api")))
