"""Where the cells of a comparison run: in this process, in a pool of processes, or on a Dask cluster.

A lost process costs no other cell: a pool that broke is replaced, and each cell that was in it is tried alone.
"""

import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Crashed, Failed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

from flows.comparing.cell_task import Plan, begin_process, run_cell
from flows.comparing.dask_address import shown_dask
from flows.known_secrets import safe_line
from flows.recovery import prefect_states
from flows.running.failed_state import failed
from flows.workspace.repository import STOP
from tasks.errors import RunError
from tasks.signals import masked

MEMORY = 1.5 * 2**30
"""Bytes that a process with TensorFlow, TFF and the data of a small run takes."""

_LOOK_EVERY = 30.0
"""Seconds between two looks at a cluster."""
_WITHOUT_WORKER = 10
"""Looks in a row without any worker after which a comparison is given up."""

Ended = Callable[[Plan, State[Any]], None]
"""Called for each cell as it ends."""

_log = logging.getLogger(__name__)


def default_jobs() -> int:
    """Returns the processes that cores and free memory allow."""
    import psutil

    return max(1, min(len(os.sched_getaffinity(0)), int(psutil.virtual_memory().available // MEMORY)))


def fan_out(plans: Sequence[Plan], jobs: int, dask: str, ended: Ended) -> None:
    """Runs every cell; a cell that fails ends like any other.

    Args:
        plans: the cells.
        jobs: processes at a time; 1: this process.
        dask: address of a scheduler; empty: on this machine.
        ended: called for each cell as it ends.
    """
    (plans[0].folder.parent / STOP).unlink(missing_ok=True)
    if dask:
        _on_dask(plans, dask, ended)
    elif jobs == 1 or len(plans) == 1:
        for plan in plans:
            ended(plan, run_cell(plan, return_state=True))
    else:
        _in_processes(plans, jobs, ended)


def _in_processes(plans: Sequence[Plan], jobs: int, ended: Ended) -> None:
    waiting, suspects = deque(plans), list[Plan]()
    while waiting:
        suspects += _pool(waiting, jobs, ended)
    for plan in suspects:
        _log.warning("%s: a process of its pool died; it is tried once more, alone", plan.label)
        if _pool(deque([plan]), 1, ended):
            ended(plan, Failed(message="its process died twice: was it killed for want of memory?"))


def _pool(waiting: deque[Plan], jobs: int, ended: Ended) -> list[Plan]:
    """Runs cells until none waits or a process of the pool dies; returns those that were lost with it."""
    # All cores for each process, though a share is faster: TensorFlow on fewer cores gives other last bits.
    runner = ProcessPoolTaskRunner(max_workers=min(jobs, len(waiting)), initializer=begin_process)
    with runner, _no_survivors():
        return _feed(runner, waiting, jobs, ended, lambda: None)


@contextmanager
def _no_survivors() -> Iterator[None]:
    """Ends the pool's processes if the block raises: the pool itself would wait for their cells."""
    before = multiprocessing.active_children()
    try:
        yield
    except BaseException:
        for process in multiprocessing.active_children():
            if process not in before:
                process.kill()
        raise


def _on_dask(plans: Sequence[Plan], address: str, ended: Ended) -> None:
    from prefect_dask.task_runners import DaskTaskRunner

    from flows.comparing.dask_workers import server_on_workers

    stop = plans[0].folder.parent / STOP
    waiting, left = deque(plans), {plan.name: plan for plan in plans}

    def end(plan: Plan, state: State[Any]) -> None:
        left.pop(plan.name)
        ended(plan, state)

    with DaskTaskRunner(address=address) as runner, server_on_workers(runner.client):
        try:
            _feed(runner, waiting, len(plans), end, _workers_left(runner, address))
        except RunError as exc:
            stop.touch()
            for plan in list(left.values()):
                end(plan, failed(exc))
        except BaseException:
            stop.touch()  # no signal reaches a worker's thread
            raise


def _workers_left(runner: Any, address: str) -> Callable[[], None]:
    misses = 0

    def look() -> None:
        nonlocal misses
        misses = 0 if runner.client.scheduler_info()["workers"] else misses + 1
        if misses >= _WITHOUT_WORKER:
            raise RunError(
                f"the Dask scheduler at {shown_dask(address)} has had no worker for {misses * _LOOK_EVERY:.0f} s"
            )

    return look


def _feed(
    runner: TaskRunner[Any], waiting: deque[Plan], width: int, ended: Ended, look: Callable[[], None]
) -> list[Plan]:
    """Submits the cells, at most `width` at a time; returns those that were running when a pool broke."""
    done: SimpleQueue[PrefectFuture[Any]] = SimpleQueue()
    running: dict[PrefectFuture[Any], Plan] = {}
    while waiting or running:
        while waiting and len(running) < width:
            plan = waiting.popleft()
            future = runner.submit(run_cell, {"plan": plan})
            running[future] = plan
            future.add_done_callback(done.put)
        try:
            future = done.get(timeout=_LOOK_EVERY)
        except Empty:
            look()
            continue
        state = _state(future)
        if state is None:
            return _left_over(running, ended)
        ended(running.pop(future), state)
    return []


def _left_over(running: dict[PrefectFuture[Any], Plan], ended: Ended) -> list[Plan]:
    lost = {}
    for future, plan in running.items():
        state = _state(future)
        if state is None:
            lost[future.task_run_id] = plan
        else:
            ended(plan, state)
    prefect_states.crash(lost, "a process of its pool died")
    return list(lost.values())


def _state(future: PrefectFuture[Any]) -> State[Any] | None:
    """Returns the final state of a cell that ended; None if its pool broke."""
    try:
        future.wait()
        state: State[Any] = future.state
    except BrokenProcessPool:
        return None
    except Exception as exc:
        if masked(exc):
            raise
        return Crashed(message=safe_line(exc))
    if state.is_final():
        return state
    # If Dask workers died under a cell more often than the scheduler allows, the cell has no state.
    wrapped: Any = getattr(future, "wrapped_future", None)
    lost = wrapped.exception() if wrapped is not None else None
    message = f"its worker was lost: {safe_line(lost) if lost else state.name}"
    prefect_states.crash([future.task_run_id], message)
    return Crashed(message=message)
