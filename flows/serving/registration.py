"""What a deployment on the Prefect server gets from the code and params.yaml, and what of the user's it keeps."""

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
"""What is registered, each `flows/<name>.py:<name>`, and how the UI describes it."""

# Read when TensorFlow is imported: see tasks.command.prepare, which a flow run of a worker does not come by.
_TENSORFLOW = {"WRAPT_DISABLE_EXTENSIONS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}

log = logging.getLogger(__name__)


def register_deployments(repository: Path, pool: str) -> None:
    """Makes the process work pool `pool` if it is missing, and registers every flow of DEPLOYED there.

    Registered again, a deployment gets the code's and params.yaml's present state. What was set in the UI stays: its
    schedules, whether it is paused, its limit of runs at a time, description, tags and job variables, and those
    settings that were given another default there than params.yaml had.

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
        log.info("deployment %s/%s: %s/deployments/deployment/%s", loaded.name, name, _ui(), _apply(deployment))


def environment() -> dict[str, str]:
    """Returns what a flow run's process needs from its start on, whichever worker starts it.

    Addresses and passwords are not among it: they would stand in the server's database. The worker passes on its own.
    """
    here = str(Path(sys.executable).parent)
    found = [part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part and part != here]
    return {**flows.ENVIRONMENT, **_TENSORFLOW, "PATH": os.pathsep.join([here, *found])}


def kept(before: Mapping[str, Any], deployed: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings by dotted name that a user changed in the UI, and that params.yaml does not have so.

    Args:
        before: params.yaml when it was last registered.
        deployed: the deployment's settings at present.
        now: params.yaml at present.
    """
    found = {}
    for name in fields():
        value = value_at(deployed, name)
        if value is not None and value not in (value_at(before, name), value_at(now, name)):
            found[name] = value
    return found


def _arrange(shown: dict[str, dict[str, Any]]) -> None:
    """Gives a form's parameters the look of the settings, which come last: they fill many screens."""
    for at, name in enumerate(sorted(shown, key=lambda name: name == "settings")):
        one = shown[name]
        one["position"], one["title"] = at, name.replace("_", " ").capitalize()
        one["description"] = one.get("description", "").removesuffix(".")


def _apply(deployment: Any) -> Any:
    """Registers the deployment and returns its id; of one that exists, only what the code decides is sent.

    Prefect's own `apply` sends everything: no schedules, no limit, not paused.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(deployment.full_name)
        except ObjectNotFound:
            return deployment.apply()
        moved = (
            {} if found.work_pool_name == deployment.work_pool_name else {"work_pool_name": deployment.work_pool_name}
        )
        present = found.job_variables or {}
        update = DeploymentUpdate(
            **moved,
            version=deployment.version,
            entrypoint=deployment.entrypoint,
            pull_steps=[deployment.storage.to_pull_step()],
            parameters=_parameters(deployment, found),
            parameter_openapi_schema=deployment._parameter_openapi_schema.model_dump(exclude_unset=True),
            job_variables={**present, "env": {**present.get("env", {}), **deployment.job_variables["env"]}},
        )
        client.update_deployment(found.id, update)
        return found.id


def _parameters(deployment: Any, found: Any) -> dict[str, Any]:
    """Returns the parameters that the deployment shall have: params.yaml's, with what the user set in the UI."""
    if "settings" not in deployment.parameters:
        return dict(found.parameters)
    now, schema = deployment.parameters["settings"], found.parameter_openapi_schema or {}
    before = schema.get("properties", {}).get("settings", {}).get("default") or now
    changed = kept(before, found.parameters.get("settings") or {}, now)
    settings = laid_over(now, changed)
    try:
        parse(settings)
    except SettingsError as exc:
        log.warning("%s: what was set in the UI does not go with params.yaml and is dropped: %s", found.name, exc)
        settings = now
    else:
        for name, value in changed.items():
            log.info("%s: kept from the UI: %s=%s", found.name, name, value)
    return {**found.parameters, "settings": settings}


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
            made = WorkPoolCreate(name=name, type="process", description=described, base_job_template=template)
            pool = client.create_work_pool(made)
            log.info("work pool %s: made", name)
    if pool.type != "process":
        raise InputError(f"--pool must name a process work pool, or a new one, got {name!r} of type {pool.type}")


def _ui() -> str:
    from prefect.settings import PREFECT_UI_URL

    return without_password(str(PREFECT_UI_URL.value() or reachability.prefect_address().removesuffix("/api")))
