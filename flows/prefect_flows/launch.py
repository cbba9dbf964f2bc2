"""How a command starts a flow run.

The order is: (1) `--help` and the check of the settings, which need no server, (2) the check that the servers answer,
(3) the import of the flow, which takes seconds while a temporary server starts, (4) the flow.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.serving.temporary_server import TemporaryServer
from tasks.settings import Settings, parse

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


def add_settings_options(parser: argparse.ArgumentParser, changed: str) -> None:
    """Adds `-S` and `--params`; `changed` is the beginning of the help of `-S`."""
    parser.add_argument(
        "-S",
        dest="overrides",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help=f"{changed}, as in dvc exp run -S; repeat it for more settings",
    )
    parser.add_argument(
        "--params",
        type=Path,
        default=Path("params.yaml"),
        metavar="FILE",
        help="file with all settings; default: %(default)s",
    )


def launch_pipeline(repository: Path, params: str, force: bool = False, push: bool = False) -> None:
    """Runs the pipeline of `repository` as a flow run with the settings of `params`, the text of a params.yaml.

    Raises:
        UndriftError: a server does not answer, or the run failed.
    """
    wait = _find_servers(repository)
    from flows.prefect_flows.pipeline_flow import pipeline_flow

    wait()
    _raise_if_failed(pipeline_flow(params)(_settings(params), force=force, push=push, return_state=True))


def launch_comparison(
    repository: Path, params: str, grid: Sequence[str], same_clients: bool, jobs: int, dask: str
) -> None:
    """Runs a comparison as a flow run; `params` is the text of the params.yaml that the grid changes.

    Raises:
        UndriftError: a server or the Dask cluster does not answer, or a cell failed.
    """
    wait = _find_servers(repository)
    from flows.comparing.dask_address import check_dask
    from flows.prefect_flows.comparison_flow import comparison_flow

    if dask:
        check_dask(dask)
    wait()
    _raise_if_failed(comparison_flow(params)(grid, _settings(params), same_clients, jobs, dask, return_state=True))


def leave_the_console_to_prefect() -> None:
    """Removes Undrift's console handler. Prefect adds its own, which shows time and task, only if there is none."""
    if "prefect" not in sys.modules:
        logging.getLogger().handlers.clear()


def _find_servers(repository: Path) -> Callable[[], None]:
    """Checks that the servers answer.

    If no Prefect server is set, starts a temporary one. Returns the function that waits until it answers.
    """
    leave_the_console_to_prefect()
    from flows.serving import reachability

    reachability.check_prefect()
    reachability.check_mlflow(repository)
    return (lambda: None) if reachability.prefect_address() else TemporaryServer().wait


def _settings(params: str) -> Settings:
    import yaml

    return parse(yaml.safe_load(params))


def _raise_if_failed(state: "State[Any]") -> None:
    from flows.running.failed_state import error_of

    if not state.is_completed():
        raise error_of(state)
