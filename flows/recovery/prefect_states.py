"""Sets the Prefect states of runs whose process died; otherwise the server would show them as running for ever."""

import logging
from collections.abc import Iterable
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import PrefectException
from prefect.states import Crashed

from flows.known_secrets import safe_line

_log = logging.getLogger(__name__)


def crash(task_run_ids: Iterable[UUID], message: str) -> None:
    """Marks task runs as crashed. If the server does not answer, their states stay."""
    import httpx

    try:
        with get_client(sync_client=True) as client:
            for task_run_id in task_run_ids:
                client.set_task_run_state(task_run_id, Crashed(message=message), force=True)
    except (httpx.HTTPError, PrefectException) as exc:
        _log.debug("task runs could not be marked crashed: %s", safe_line(exc))


def crash_all(flow_run_id: UUID, message: str) -> None:
    """Marks as crashed every task run of a flow run that has not ended."""
    import httpx

    try:
        with get_client(sync_client=True) as client:
            task_runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])))
    except (httpx.HTTPError, PrefectException) as exc:
        _log.debug("the task runs could not be read: %s", safe_line(exc))
        return
    crash([run.id for run in task_runs if run.state is None or not run.state.is_final()], message)


def crash_flow_run(flow_run_id: UUID, message: str) -> None:
    """Marks a flow run and its task runs as crashed, if the server shows the flow run as running."""
    import httpx

    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(flow_run_id).state
            if state is None or not state.is_running():
                return
            client.set_flow_run_state(flow_run_id, Crashed(message=message), force=True)
    except (httpx.HTTPError, PrefectException) as exc:
        _log.debug("the flow run could not be marked crashed: %s", safe_line(exc))
        return
    crash_all(flow_run_id, message)
