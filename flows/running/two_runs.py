"""Two runs that are compared: their raw data are brought back, and their code is found."""

from pathlib import Path

from flows.mlflow_store.run_logs import RunLogs
from flows.workspace.compared_code import other_code
from flows.workspace.run_folder import Workspace
from tasks.diagnose.compared.code import OtherCode
from tasks.diagnose.compared.side import PARTITION, Side, side_of
from tasks.errors import InputError


def two_runs(repository: Path, run: str, logs: RunLogs, other: str, before: RunLogs) -> tuple[Side, Side, OtherCode]:
    """Returns a run, the run with which it is compared, and how the code of the latter differs.

    Args:
        repository: the folder of dvc.yaml.
        run: how the run is called in the report.
        logs: of the run.
        other: how the other run is called in the report.
        before: logs of the other run.

    Raises:
        InputError: the two are one run, or their raw data are not on this machine and not in DVC's cache or remote.
    """
    for each in (logs, before):
        if each.workspace is not None:
            Workspace(repository, each.workspace).bring_back(PARTITION)
    this, that = (side_of(name, each.settings, each.workspace) for name, each in ((run, logs), (other, before)))
    if this.workspace.resolve() == that.workspace.resolve():
        raise InputError(f"{run} and {other} are one run: --against needs another one")
    return this, that, other_code(this.workspace, that.workspace, repository, other)
