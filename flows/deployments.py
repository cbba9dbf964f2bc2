"""`python -m flows.deployments`: registers the deployments that a user starts in the Prefect UI; runs their worker."""

import argparse
import sys
from pathlib import Path

from flows.serving import notification, reachability, registration
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
        "PREFECT_API_URL. Then start a worker that runs them, until Ctrl-C.",
        epilog="The flow runs log to this repository's MLflow store, or to MLFLOW_TRACKING_URI if that is set.",
    )
    parser.add_argument(
        "--pool", default=POOL, metavar="NAME", help="name of the process work pool; default: %(default)s"
    )
    parser.add_argument(
        "--register-only", "--no-worker", action="store_true", dest="only", help="register only; start no worker"
    )
    parser.add_argument(
        "--limit",
        type=_count,
        metavar="N",
        help="flow runs at a time; default: one per core, as far as they fit into memory. A new pool gets the same "
        "limit",
    )
    parser.add_argument(
        "--notify",
        default="",
        metavar="TYPE/NAME",
        help="send each verdict (the loss rose, is too high or is worse, the run ended) to this notification block, "
        "such as slack-webhook/ops, by an automation that does nothing else",
    )
    options = parser.parse_args(arguments)
    command.prepare()
    return command.run(lambda: _command(options.pool, options.limit, options.only, options.notify))


def _command(pool: str, limit: int | None, only: bool, block: str) -> None:
    repository = find_repository(Path.cwd())
    reachability.require_prefect()
    if block:
        notification.register_notification(block)
    limit = limit or registration.default_limit()
    registration.register_deployments(repository, pool, limit)
    if not only:
        from flows.serving import worker

        worker.serve(pool, limit)


if __name__ == "__main__":
    sys.exit(main())
