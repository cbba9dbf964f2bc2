"""`python -m flows.compare`: a grid of settings over the same clients, and one table that says which is really better.

Also the flow that its deployment runs.
"""

import argparse
import sys
from pathlib import Path

from flows.prefect_flows.launch import add_settings_options, launch_comparison
from flows.workspace.overrides import overridden
from flows.workspace.repository import find_repository
from tasks import command
from tasks.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = command.Parser(
        prog="python -m flows.compare",
        description="Run every combination of a grid of settings on the same clients, as one Prefect flow run. Writes "
        "reports/compare.csv, .md and .png, and logs a parent run with a child a cell to MLflow.",
        epilog="A list is one value: --grid preprocess.resize=[16,16],[8,8] has two. Unless the grid is about data or "
        "partition, or partition.seed is set, all cells share the clients of the base's seed. The workers of a Dask "
        "cluster need the repository's folder by the same path, PYTHONPATH and MLFLOW_TRACKING_URI; those on other "
        "machines must reach the Prefect server at the command's PREFECT_API_URL.",
    )
    parser.add_argument(
        "--grid",
        metavar="NAME=VALUE,VALUE",
        action="append",
        default=[],
        help="a setting and its values; may be given again",
    )
    add_settings_options(parser, "a setting to change in every cell")
    parser.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="processes at a time; default: what cores and memory allow"
    )
    parser.add_argument("--dask", default="", metavar="ADDRESS", help="run the cells on this Dask scheduler's workers")
    options = parser.parse_args(arguments)
    command.prepare()
    return command.run(lambda: _launch(options))


def _launch(options: argparse.Namespace) -> None:
    from flows.comparing import grid

    if options.jobs < 0:
        raise InputError(f"--jobs must be >= 0, got {options.jobs}")
    repository = find_repository(Path.cwd())
    params = overridden(options.params, options.overrides)
    same_clients = not any(change.lstrip("+").startswith("partition.seed=") for change in options.overrides)
    grid.cells(params, options.grid, same_clients)  # a wrong grid is an error before any server is needed
    launch_comparison(repository, params, options.grid, same_clients, options.jobs, options.dask)


if __name__ == "__main__":
    sys.exit(main())

# After the command: Prefect's import takes seconds, and `--help` must not wait for it.
from flows.prefect_flows.comparison_flow import compare  # noqa: E402

__all__ = ["compare", "main"]
