"""`python -m flows.tracking`: logs the finished run in the current folder to MLflow; the last stage of dvc.yaml."""

import sys
from pathlib import Path

from flows.mlflow_store.finished_run import track
from tasks import command, lock
from tasks.settings import load


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = command.Parser(
        prog="python -m flows.tracking",
        description="Log the finished run in the current folder to MLflow: settings, the numbers of each round, final "
        "scores, pictures, reports, models and the versions of its data. Writes reports/mlflow.json, which names the "
        "run. If the store has a run with the same settings and results, names that one and logs nothing.",
        epilog="The store is mlflow.db in the repository, or MLFLOW_TRACKING_URI if that is set. To open the "
        "repository's store: mlflow server --backend-store-uri sqlite:///mlflow.db",
    )
    parser.add_argument("--force", action="store_true", help="log a new run, also if the store has the same one")
    options = parser.parse_args(arguments)
    command.prepare()
    command.end_with_parent()
    return command.run(lambda: _track(options.force))


def _track(force: bool) -> None:
    settings = load(Path("params.yaml"))
    with lock.held(Path(), "track"):
        track(settings, Path(), force)


if __name__ == "__main__":
    sys.exit(main())
