"""`python -m flows.compare`: a grid of settings over the same clients, and one table that says which is really better.

The flow itself is in flows/comparison.py, a module that the processes of its cells can import by name.
"""

import sys
from pathlib import Path

import yaml

from flows import fan_out, grid, overrides, server
from flows.comparison import PARAMS, compare
from flows.workspace import find_repository
from tasks import command
from tasks.errors import InputError, RunError, UndriftError
from tasks.settings import parse

__all__ = ["compare", "main"]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = command.Parser(
        prog="python -m flows.compare",
        description="Run every combination of a grid of settings on the same clients, as one Prefect flow run. Writes "
        "reports/compare.csv, .md and .png, and logs a parent run with a child a cell to MLflow.",
        epilog="A list is one value: --grid preprocess.resize=[16,16],[8,8] has two. Unless the grid is about data or "
        "partition, or partition.seed is set, all cells share the clients of the base's seed. The workers of a Dask "
        "cluster need the repository's folder by the same path, PYTHONPATH, PREFECT_API_URL and MLFLOW_TRACKING_URI.",
    )
    parser.add_argument(
        "--grid",
        metavar="NAME=VALUE,VALUE",
        action="append",
        default=[],
        help="a setting and its values; may be given again",
    )
    parser.add_argument(
        "-S",
        dest="overrides",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a setting to change in every cell, as in dvc exp run -S; may be given again",
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="another params.yaml")
    parser.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="processes at a time; default: what cores and memory allow"
    )
    parser.add_argument("--dask", default="", metavar="ADDRESS", help="run the cells on this Dask scheduler's workers")
    given = parser.parse_args(arguments)
    command.prepare()
    return command.run(lambda: _command(given.grid, given.params, given.overrides, given.jobs, given.dask))


def _command(axes: list[str], params: Path, changes: list[str], jobs: int, dask: str) -> None:
    if jobs < 0:
        raise InputError(f"--jobs must be >= 0, got {jobs}")
    find_repository(Path.cwd())
    text = overrides.overridden(params, changes)
    same_clients = not any(change.lstrip("+").startswith("partition.seed=") for change in changes)
    grid.cells(text, axes, same_clients)
    server.check()
    if dask:
        fan_out.check_dask(dask)
    PARAMS.set(text)
    state = compare(axes, parse(yaml.safe_load(text)), same_clients, jobs, dask, return_state=True)
    if not state.is_completed():
        raise state.data if isinstance(state.data, UndriftError) else RunError(state.message or str(state.name))


if __name__ == "__main__":
    sys.exit(main())
