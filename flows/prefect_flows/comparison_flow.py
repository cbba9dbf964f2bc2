"""The flow `compare`: runs every combination of a grid of settings on the same clients, and writes one table.

Each combination (cell) is a task; its stages run in `.runs/<flow run id>/<cell>/`. Results that an earlier run computed
come from DVC's cache. If a comparison was killed and is run again, it continues with the files of the killed one, and
its cells continue from their checkpoints.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import Flow, flow, runtime
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Completed

from flows.comparing import fan_out, grid, report_files, results
from flows.comparing.cell_task import Plan
from flows.comparing.dask_address import check_dask, check_runtimes
from flows.comparing.grid import Cell
from flows.comparing.parent_run import ParentRun
from flows.comparing.results import Result
from flows.mlflow_store import run_record
from flows.prefect_flows.pipeline_flow import end_in_mlflow, parsed
from flows.recovery import killed_runs, prefect_states, takeover
from flows.running import ui_artifacts
from flows.running.failed_state import failed
from flows.workspace import overrides
from flows.workspace.repository import RUNS, find_repository
from tasks import command
from tasks.errors import DataError, InputError, RunError, UndriftError
from tasks.settings import Settings
from tasks.signals import masked

_log = logging.getLogger(__name__)

_DEFAULTS = Settings()


def comparison_flow(params: str = "") -> Flow[..., State[Any]]:
    """Returns the flow; `params` is as for `pipeline_flow`, before the grid changes it."""

    @flow(
        name="compare",
        flow_run_name=_flow_run_name,
        persist_result=False,
        validate_parameters=False,  # the flow checks them itself, and its error is one line
        on_cancellation=[_end_cells],
        on_crashed=[_end_cells],
    )
    def compare(
        grid: list[str], settings: Settings = _DEFAULTS, same_clients: bool = True, jobs: int = 0, dask: str = ""
    ) -> State[Any]:
        """Runs every combination (cell) of a grid of settings on the same clients: one MLflow run each, and one table.

        Args:
            grid: one line per setting, with its values: federate.server_optimizer.kind=sgd,adam or seed=0,1,2.
            settings: all settings of params.yaml; the grid changes some of them.
            same_clients: give all cells the same clients, even if they differ in seed. A grid over data or partition
                ignores this.
            jobs: cells at a time; 0: as many as cores and memory allow.
            dask: address of a Dask scheduler whose workers run the cells; empty: run them here.
        """
        command.quiet()
        try:
            return _compare(grid, parsed(settings), params, same_clients, jobs, dask)
        except Exception as exc:
            return failed(exc)

    return compare


def _flow_run_name() -> str:
    axes: Any = runtime.flow_run.parameters["grid"]
    axes = axes if isinstance(axes, list | tuple) else []  # the flow raises the error for a wrong grid
    return f"compare {' × '.join(grid.short_name(str(axis).partition('=')[0]) for axis in axes)}"


def _end_cells(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Ends the cells' runs in Prefect and in MLflow after a comparison that was stopped before it could end them."""
    prefect_states.crash_all(flow_run.id, "the comparison was stopped")
    end_in_mlflow(flow, flow_run, state)


def _compare(
    axes: Sequence[str], settings: Settings, params: str, same_clients: bool, jobs: int, dask: str
) -> State[Any]:
    if not isinstance(jobs, int) or jobs < 0:
        raise InputError(f"jobs must be a whole number >= 0, got {jobs!r}")
    if not isinstance(axes, list | tuple) or not all(isinstance(axis, str) for axis in axes):
        raise InputError(f"grid must be a list of lines NAME=VALUE,VALUE, got {str(axes)[:200]}")
    repository = find_repository(Path.cwd())
    base = params or overrides.params_text(repository / "params.yaml", settings)
    cells = grid.placed_cells(repository, grid.cells(base, axes, same_clients))
    if dask:
        check_runtimes(cells)
        check_dask(dask)
    folder = repository / RUNS / str(runtime.flow_run.id)
    places = {str((repository / cell.settings.data.path).resolve()) for cell in cells}
    labels = [cell.label for cell in cells]
    identity = takeover.identity(repository, [cell.params for cell in cells], "compare", *sorted(places), *labels)
    with killed_runs.alive(repository, folder.name):
        if not folder.is_dir():
            takeover.take_over(repository, folder.name, identity)
        folder.mkdir(parents=True, exist_ok=True)
        takeover.mark(folder, identity)
        killed_runs.end_killed_runs(repository)
        return _in_folder(folder, repository, cells, axes, jobs, dask)


def _in_folder(
    folder: Path, repository: Path, cells: Sequence[Cell], axes: Sequence[str], jobs: int, dask: str
) -> State[Any]:
    parent = ParentRun(folder, cells, grid.axes(axes), ui_artifacts.mlflow_tags())
    ui_artifacts.link_to(parent.as_report())
    plans = [_plan(cell, repository, folder, parent.run_id) for cell in cells]
    status = "KILLED"
    try:
        ended = _run(cells, plans, jobs or fan_out.default_jobs(), dask)
        _end_abandoned([plan.folder for plan in plans], "FAILED")
        _report(repository, folder, ended, parent)
        status = "FINISHED" if all(result.is_finished for result in ended) else "FAILED"
    except Exception as exc:
        status = "KILLED" if masked(exc) else "FAILED"
        raise
    finally:
        _end_abandoned([plan.folder for plan in plans], status)
        parent.end(status)
    return _state(ended, parent.run_id)


def _plan(cell: Cell, repository: Path, folder: Path, parent: str) -> Plan:
    # One tag for each setting of the grid: MLflow's "Group by" needs them.
    tags = {**ui_artifacts.mlflow_tags(), "mlflow.runName": cell.label, "mlflow.source.name": "python -m flows.compare"}
    return Plan(repository, folder.name, cell.name, cell.label, cell.params, {**tags, **cell.values}, parent)


def _run(cells: Sequence[Cell], plans: Sequence[Plan], jobs: int, dask: str) -> list[Result]:
    """Runs the cells. Returns their results in the order of the grid."""
    ended: dict[str, Result] = {}
    by_name = {cell.name: cell for cell in cells}
    progress = cast(UUID, create_progress_artifact(0.0, key="cells", description=f"{len(cells)} cells"))

    def end(plan: Plan, state: State[Any]) -> None:
        result = ended[plan.name] = _result(by_name[plan.name], plan, state)
        update_progress_artifact(progress, 100 * len(ended) / len(cells))
        outcome = f"{_scores(result)}{state.message}" if result.is_finished else f"failed: {result.short_reason}"
        level = logging.INFO if result.is_finished else logging.ERROR
        _log.log(level, "%d/%d  %s  %s", len(ended), len(cells), plan.label, outcome)

    fan_out.fan_out(plans, jobs, dask, end)
    return [ended[cell.name] for cell in cells]


def _result(cell: Cell, plan: Plan, state: State[Any]) -> Result:
    run_id = run_record.read_run_id(plan.folder) if plan.folder.is_dir() else ""
    if state.is_completed():
        try:
            return results.read_result(cell, plan.folder, run_id)
        except DataError as exc:
            return Result(cell, "failed", str(exc), run_id)
    return Result(cell, "failed", " ".join((state.message or str(state.name)).split()), run_id)


def _scores(result: Result) -> str:
    return "".join(f"{key} {result.numbers[key]:.4f}  " for key in ("accuracy", "loss") if key in result.numbers)


def _report(repository: Path, folder: Path, ended: Sequence[Result], parent: ParentRun) -> None:
    """Writes the reports to the comparison's folder, the repository, MLflow and the Prefect UI."""
    ended = results.with_rounds_to(ended, results.common_accuracy(ended))
    markdown = report_files.write_reports(folder, repository, ended)
    create_markdown_artifact(markdown, key="compare", description="reports/compare.md")
    parent.log(ended, markdown, [folder / "reports" / name for name in report_files.REPORTS])


def _end_abandoned(folders: Sequence[Path], status: str) -> None:
    for folder in folders:
        try:
            run_record.end_abandoned(folder, status)
        except UndriftError as exc:
            _log.warning("%s", exc)


def _state(ended: Sequence[Result], run_id: str) -> State[Any]:
    failures = [result for result in ended if not result.is_finished]
    if not failures:
        return Completed(message=f"{len(ended)} cells, reports/compare.md, MLflow run {run_id}")
    first = failures[0]
    return failed(RunError(f"{len(failures)} of {len(ended)} cells failed: {first.cell.label}: {first.short_reason}"))


compare = comparison_flow()
"""The flow of the deployment `compare`."""
