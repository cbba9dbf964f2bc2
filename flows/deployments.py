"""`python -m flows.deployments`: what a user schedules in the Prefect UI, and the worker that runs it."""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

import flows
from flows import server
from flows.workspace import find_repository
from tasks import command
from tasks.errors import InputError
from tasks.settings import load

DEPLOYED = {
    "pipeline": "The six steps from raw data to a pruned, tracked and versioned federated model.",
    "compare": "A grid of settings over the same clients, and one table that says which is really better.",
    "diagnose": "Why did the loss of a run go up?",
}
"""What is registered, each `flows/<name>.py:<name>`, and how the UI describes it."""

POOL = "undrift"

# Read when TensorFlow is imported: see tasks.command.prepare, which a flow run of a worker does not come by.
_TENSORFLOW = {"WRAPT_DISABLE_EXTENSIONS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}

log = logging.getLogger("flows.deployments")


def register(repository: Path, pool: str) -> None:
    """Makes the process work pool `pool` if it is missing, and registers every flow of DEPLOYED there.

    Registered again, a deployment gets the code's and params.yaml's present state, and loses the schedules
    that were set in the UI.

    Raises:
        InputError: the pool is not of processes, or params.yaml is wrong.
    """
    from prefect import flow

    raw = _raw(repository / "params.yaml")
    _ensure_pool(pool)
    for name, description in DEPLOYED.items():
        if not (repository / "flows" / f"{name}.py").is_file():
            continue
        loaded: Any = flow.from_source(source=str(repository), entrypoint=f"flows/{name}.py:{name}")
        # As loaded.deploy would, without the advice and the table that it prints.
        deployment = loaded.to_deployment(
            name=name,
            work_pool_name=pool,
            description=description,
            tags=["undrift"],
            parameters={"settings": raw} if "settings" in loaded.parameters.properties else {},
            job_variables={"env": environment()},
        )
        log.info("deployment %s/%s: %s/deployments/deployment/%s", loaded.name, name, _ui(), deployment.apply())


def environment() -> dict[str, str]:
    """Returns what a flow run's process needs from its start on, whichever worker starts it.

    Addresses and passwords are not among it: they would stand in the server's database. The worker passes on its own.
    """
    here = str(Path(sys.executable).parent)
    found = [part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part and part != here]
    return {**flows.ENVIRONMENT, **_TENSORFLOW, "PATH": os.pathsep.join([here, *found])}


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

    return str(PREFECT_UI_URL.value() or server.address().removesuffix("/api"))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text!r}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = command.Parser(
        prog="python -m flows.deployments",
        description="Register the deployments pipeline, compare and diagnose with the Prefect server at "
        "PREFECT_API_URL, and run the worker that runs them, until Ctrl-C.",
        epilog="The worker's flow runs log to the MLflow store of this repository, or to MLFLOW_TRACKING_URI.",
    )
    parser.add_argument("--pool", default=POOL, metavar="NAME", help="the process work pool; default: %(default)s")
    parser.add_argument(
        "--register-only", "--no-worker", action="store_true", dest="only", help="register, and run no worker"
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--limit", type=_count, default=cores, metavar="N", help="flow runs at a time; default: one a core, %(default)s"
    )
    given = parser.parse_args(arguments)
    command.prepare()
    return command.run(lambda: _command(given.pool, given.limit, given.only))


def _command(pool: str, limit: int, only: bool) -> None:
    repository = find_repository(Path.cwd())
    server.require()
    register(repository, pool)
    if not only:
        from flows import worker

        worker.serve(pool, limit)


if __name__ == "__main__":
    sys.exit(main())
