"""`python -m flows.compare`: runs a grid of settings on the same clients, and writes one table that ranks them.

The deployment `compare` finds its flow in this module.
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
        description="Run every combination (cell) of a grid of settings, as one Prefect flow run. Writes "
        "reports/compare.csv, .md and .png. Logs one MLflow run for the comparison and a child run for each cell. Uses "
        "the Prefect server at PREFECT_API_URL; if that is not set, starts a temporary server for this command.",
        epilog="A list counts as one value: --grid preprocess.resize=[16,16],[8,8] has two values. All cells have the "
        "same clients, even if they differ in seed, unless (1) the grid changes a setting of data or partition, or (2) "
        "-S partition.seed=-1 is given. Every Dask worker needs the repository's folder at the same path, PYTHONPATH "
        "and MLFLOW_TRACKING_URI. Dask workers on other machines must reach the Prefect server at this command's "
        "PREFECT_API_URL.",
    )
    parser.add_argument(
        "--grid",
        metavar="NAME=VALUE,VALUE",
        action="append",
        default=[],
        help="a setting and the values to compare; repeat it for more settings",
    )
    add_settings_options(parser, "set one setting in every cell")
    parser.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="cells at a time; default: as many as cores and memory allow"
    )
    parser.add_argument(
        "--dask", default="", metavar="ADDRESS", help="run the cells on the workers of the Dask scheduler at ADDRESS"
    )
    options = parser.parse_args(arguments)
    command.prepare()
    return command.run(lambda: _launch(options))


def _launch(options: argparse.Namespace) -> None:
    from flows.comparing import grid
    from flows.comparing.dask_address import check_runtimes

    if options.jobs < 0:
        raise InputError(f"--jobs must be >= 0, got {options.jobs}")
    repository = find_repository(Path.cwd())
    params = overridden(options.params, options.overrides)
    same_clients = not any(change.lstrip("+").startswith("partition.seed=") for change in options.overrides)
    cells = grid.cells(params, options.grid, same_clients)  # a wrong grid is an error before any server is needed
    if options.dask:
        check_runtimes(cells)
    launch_comparison(repository, params, options.grid, same_clients, options.jobs, options.dask)


if __name__ == "__main__":
    sys.exit(main())

# Imported last: Prefect's import takes seconds, and `--help` must not wait for it.
from flows.prefect_flows.comparison_flow import compare  # noqa: E402

__all__ = ["compare", "main"]
