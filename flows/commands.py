"""`python -m flows.pipeline`, `flows.compare` and `flows.diagnose`, up to Prefect's import, which takes seconds.

`--help` and a setting that is wrong are answered at once: everything that can be known without a server is found out
first, then the server is asked whether it is there, and then the flow begins.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.serving.temporary_server import TemporaryServer
from flows.workspace import overrides
from flows.workspace.run_folder import find_repository
from tasks import command
from tasks.errors import InputError, RunError, UndriftError
from tasks.settings import parse

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


def pipeline(arguments: list[str] | None = None) -> int:
    """Runs the pipeline's command; returns its exit status."""
    parser = command.Parser(
        prog="python -m flows.pipeline",
        description="Run the pipeline as one Prefect flow run in a workspace of its own: with a server when "
        "PREFECT_API_URL is set, without one otherwise.",
    )
    _add_settings(parser, "a setting to change")
    parser.add_argument("--force", action="store_true", help="run every step, also what is in DVC's cache")
    parser.add_argument("--push", action="store_true", help="send data and models to DVC's default remote at the end")
    given = parser.parse_args(arguments)
    command.prepare()
    return command.run(lambda: _pipeline(given))


def compare(arguments: list[str] | None = None) -> int:
    """Runs the comparison's command; returns its exit status."""
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
    _add_settings(parser, "a setting to change in every cell")
    parser.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="processes at a time; default: what cores and memory allow"
    )
    parser.add_argument("--dask", default="", metavar="ADDRESS", help="run the cells on this Dask scheduler's workers")
    given = parser.parse_args(arguments)
    command.prepare()
    return command.run(lambda: _compare(given))


def diagnose(arguments: list[str] | None = None) -> int:
    """Runs the diagnosis' command; returns its exit status."""
    parser = command.Parser(
        prog="python -m flows.diagnose",
        description="Why did the loss of a run go up? Writes diagnosis.json, .md and .html beside its rounds.csv, or "
        "into its MLflow run. As a Prefect flow run when PREFECT_API_URL is set.",
    )
    parser.add_argument("run", metavar="RUN", help="an MLflow run id, or a folder that holds reports/rounds.csv")
    parser.add_argument("--apply", action="store_true", help="then run the pipeline again with the best remedy")
    given = parser.parse_args(arguments)
    command.prepare()
    return command.run(lambda: _diagnose(given))


def _add_settings(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "-S",
        dest="overrides",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help=f"{what}, as in dvc exp run -S; may be given again",
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="another params.yaml")


def _pipeline(given: argparse.Namespace) -> None:
    repository = find_repository(Path.cwd())
    run_pipeline(repository, overrides.overridden(given.params, given.overrides), given.force, given.push)


def run_pipeline(repository: Path, params: str, force: bool = False, push: bool = False) -> None:
    """Runs the pipeline of `repository` as a flow run by the text of a params.yaml.

    Raises:
        UndriftError: a server does not answer, or the run failed.
    """
    import yaml

    ready = _find_servers(repository)
    from flows import pipeline

    ready()
    pipeline.PARAMS.set(params)
    _end(pipeline.pipeline(parse(yaml.safe_load(params)), force=force, push=push, return_state=True))


def _compare(given: argparse.Namespace) -> None:
    import yaml

    from flows.comparing import grid

    if given.jobs < 0:
        raise InputError(f"--jobs must be >= 0, got {given.jobs}")
    repository = find_repository(Path.cwd())
    text = overrides.overridden(given.params, given.overrides)
    same_clients = not any(change.lstrip("+").startswith("partition.seed=") for change in given.overrides)
    grid.cells(text, given.grid, same_clients)
    ready = _find_servers(repository)
    from flows import comparison
    from flows.comparing import fan_out

    if given.dask:
        fan_out.check_dask(given.dask)
    ready()
    comparison.PARAMS.set(text)
    settings = parse(yaml.safe_load(text))
    _end(comparison.compare(given.grid, settings, same_clients, given.jobs, given.dask, return_state=True))


def _diagnose(given: argparse.Namespace) -> None:
    _leave_the_console_to_prefect()
    from flows.serving import reachability

    reachability.prefect_address()  # wrong settings of Prefect end its import
    from flows import diagnose

    (diagnose.apply if given.apply else diagnose.report)(given.run)


def _leave_the_console_to_prefect() -> None:
    # Prefect, as it is imported, leaves a console alone that is there already: its lines would lack time and task.
    if "prefect" not in sys.modules:
        logging.getLogger().handlers.clear()


def _find_servers(repository: Path) -> Callable[[], None]:
    """Finds out whether the servers answer; without one of Prefect, starts one, and returns what waits for it."""
    _leave_the_console_to_prefect()
    from flows.serving import reachability

    reachability.check_prefect()
    reachability.check_mlflow(repository)
    return (lambda: None) if reachability.prefect_address() else TemporaryServer().wait


def _end(state: "State[Any]") -> None:
    if not state.is_completed():
        raise error_of(state)


def error_of(state: "State[Any]") -> UndriftError:
    """Returns the error of a failed state, of the kind that its exit status needs."""
    found: Any = state.result(raise_on_failure=False)
    return found if isinstance(found, UndriftError) else RunError(state.message or str(state.name))
