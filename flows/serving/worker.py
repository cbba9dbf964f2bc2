"""The worker of the process work pool: it runs the flow runs started in the UI, and ends them when it is stopped."""

import logging
import os
import signal
import socket
import time
from collections.abc import Iterable
from typing import Any

import anyio
import psutil
from anyio.abc import TaskStatus
from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import ProcessWorker, ProcessWorkerResult

from tasks.command import is_alive

STOP_SECONDS = 20.0
"""Seconds that flow runs have to end when the worker is stopped; after that, they are killed."""

_log = logging.getLogger(__name__)


class Worker(ProcessWorker):
    """A process worker that allows a retry during the few seconds in which the hook of a killed attempt still runs.

    With Prefect's own worker, such a retry fails in one of two ways: (1) after the hook, the worker reports the crash
    again, which undoes the retry; (2) the worker asks its limiter for a second token for the same flow run, which
    raises an error and ends the worker.
    """

    async def run(
        self, flow_run: FlowRun, configuration: Any, task_status: TaskStatus[int] | None = None
    ) -> ProcessWorkerResult:
        """Runs a flow run. Returns status 0 always: the run's end was reported when its process ended."""
        ended = await super().run(flow_run, configuration, task_status)
        return ProcessWorkerResult(status_code=0, identifier=ended.identifier)

    async def _submit_scheduled_flow_runs(self, flow_run_response: list[Any]) -> list[Any]:
        held = self.limiter.statistics().borrowers
        free = [entry for entry in flow_run_response if entry.flow_run.id not in held]
        return await super()._submit_scheduled_flow_runs(free)


def serve(pool: str, limit: int) -> None:
    """Runs the pool's worker until SIGINT or SIGTERM. Then ends its flow runs, which a user can retry, and returns.

    Args:
        pool: an existing process work pool.
        limit: the most flow runs at a time.
    """
    anyio.run(_serve, pool, limit)


async def _serve(pool: str, limit: int) -> None:
    name = f"{socket.gethostname()}-{os.getpid()}".replace("/", "-").replace("%", "-")
    worker = Worker(work_pool_name=pool, name=name, limit=limit, create_pool_if_not_found=False)
    async with anyio.create_task_group() as group:
        group.start_soon(_stop_on_signal, group.cancel_scope)
        await worker.start(printer=_log.info)
    await anyio.to_thread.run_sync(end_children, 0.0)


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            _log.info("stopping: ending the flow runs; retry them in the UI to continue from their last checkpoints")
            # The worker still runs meanwhile, and reports to the server how the flow runs ended.
            await anyio.to_thread.run_sync(end_children, STOP_SECONDS)
            scope.cancel()
            return


def end_children(seconds: float) -> None:
    """Ends all processes below this one.

    This process's children get SIGTERM. All that is left after `seconds` gets SIGKILL. With 0 seconds, there is no
    SIGTERM.
    """
    me = psutil.Process()
    everyone, until = me.children(recursive=True), time.monotonic() + seconds
    if seconds:
        _send(me.children(), signal.SIGTERM)
    while any(map(is_alive, everyone)) and time.monotonic() < until:
        time.sleep(0.1)
    left = {*everyone, *me.children(recursive=True)}
    _send([process for process in left if is_alive(process)], signal.SIGKILL)


def _send(processes: Iterable[psutil.Process], signum: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(signum)
        except psutil.NoSuchProcess:
            continue
