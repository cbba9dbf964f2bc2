"""`python -m flows.diagnose RUN`: explains why the loss of a run rose or is too high, or why the run ended early.

The deployment `diagnose` finds its flow in this module.
"""

import sys
from pathlib import Path

from flows.prefect_flows.launch import launch_pipeline, leave_the_console_to_prefect
from flows.workspace.repository import find_repository
from tasks import command


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = command.Parser(
        prog="python -m flows.diagnose",
        description="Explain why the loss of a run rose or is higher than it should be, or why the run ended early. "
        "Writes diagnosis.json, .md and .html next to its rounds.csv, or into its MLflow run. If PREFECT_API_URL is "
        "set, the diagnosis is a Prefect flow run; if not, it needs no server, and only --apply starts a temporary "
        "one.",
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="an MLflow run id, or a folder that holds reports/rounds.csv and clients.csv; with --from, a file",
    )
    parser.add_argument("--apply", action="store_true", help="afterwards, run the pipeline again with the best remedy")
    parser.add_argument(
        "--against", metavar="OTHER", default="", help="explain why the loss ends higher than in OTHER, another RUN"
    )
    parser.add_argument(
        "--from",
        dest="framework",
        choices=("flower", "nvflare"),
        help="RUN is a log of this framework: a Flower History as JSON, or NVFlare's round_metrics.jsonl; the "
        "diagnosis is written beside it",
    )
    options = parser.parse_args(arguments)
    if options.framework and (options.apply or options.against):
        parser.error(
            "--apply and --against need a run of Undrift: with --from, no round can be replayed, so no cause is proven"
        )
    command.prepare()
    if options.framework:
        return command.run(lambda: _foreign(options.run, options.framework))
    return command.run(lambda: (_apply if options.apply else _report)(options.run, options.against))


def _apply(run: str, against: str) -> None:
    """Diagnoses the run, and runs its pipeline again with the remedy of the first cause that has one."""
    _find_prefect()
    from flows.mlflow_store.mending import next_run_mends
    from flows.prefect_flows.diagnosis_flow import params_with_remedy

    repository = find_repository(Path.cwd())
    _find_mlflow(run)
    params = params_with_remedy(run, against)
    next_run_mends(run)
    launch_pipeline(repository, params)


def _foreign(file: str, framework: str) -> None:
    """Diagnoses the log of another framework. It is never a flow run: the worker may not see the file."""
    from flows.framework_logs import diagnose_file

    diagnose_file(Path(file), framework)


def _report(run: str, against: str) -> None:
    """Diagnoses the run, beside the run `against` if that is not empty.

    The diagnosis is a flow run only if a Prefect server is set: a temporary one would take half a minute to start.
    """
    has_server = _find_prefect()
    from flows.prefect_flows.diagnosis_flow import diagnose, diagnosed
    from flows.running.failed_state import error_of
    from flows.serving import reachability

    _find_mlflow(run)
    if not has_server:
        diagnosed(run, against)
        return
    reachability.check_prefect()
    state = diagnose(run, against=against, return_state=True)
    if not state.is_completed():
        raise error_of(state)


def _find_prefect() -> bool:
    """Returns whether a Prefect server is set.

    Raises:
        InputError: a setting of Prefect is wrong. Without this check, the import of Prefect would fail.
    """
    leave_the_console_to_prefect()
    from flows.serving import reachability

    return bool(reachability.prefect_address())


def _find_mlflow(run: str) -> None:
    from flows.serving import reachability

    if not Path(run).is_dir():
        reachability.check_mlflow(find_repository(Path.cwd()))


if __name__ == "__main__":
    sys.exit(main())

# Imported last: Prefect's import takes seconds, and `--help` must not wait for it.
from flows.prefect_flows.diagnosis_flow import diagnose  # noqa: E402

__all__ = ["diagnose", "main"]
