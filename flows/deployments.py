"""`python -m flows.deployments`: what a user schedules in the Prefect UI, and the worker that runs it."""

import argparse
import os
import sys
from pathlib import Path

from flows.serving import reachability, registration
from flows.workspace.repository import find_repository
from tasks import command

POOL = "undrift"


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
    options = parser.parse_args(arguments)
    command.prepare()
    return command.run(lambda: _command(options.pool, options.limit, options.only))


def _command(pool: str, limit: int, only: bool) -> None:
    repository = find_repository(Path.cwd())
    reachability.require_prefect()
    registration.register_deployments(repository, pool)
    if not only:
        from flows.serving import worker

        worker.serve(pool, limit)


if __name__ == "__main__":
    sys.exit(main())
