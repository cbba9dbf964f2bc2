"""Runs the cells of a comparison in this process, in a pool of processes, or on a Dask cluster.

If a process of a pool dies, the pool breaks. A new pool runs the waiting cells; after them, each cell that ran in the
broken pool runs once more, alone. So a process that dies costs no other cell.
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
"""Memory of a process with TensorFlow, TFF and the data of a small run, in bytes."""

_LOOK_EVERY = 30.0
"""Seconds between two checks of a cluster's workers, if no cell ends."""
_WITHOUT_WORKER = 10
"""A comparison is given up after this many checks in a row that find no worker."""

Ended = Callable[[Plan, State[Any]], None]
"""Called for each cell as it ends."""

_log = logging.getLogger(__name__)


def default_jobs() -> int:
    """Returns how many cells run at a time: one per core, but at least one and at most what fits into free memory."""
    import psutil

    return max(1, min(len(os.sched_getaffinity(0)), int(psutil.virtual_memory().available // MEMORY)))


def fan_out(plans: Sequence[Plan], jobs: int, dask: str, ended: Ended) -> None:
    """Runs every cell. A cell that fails does not stop the others.

    Args:
        plans: the cells.
        jobs: cells at a time, each in its own process; with 1, they run in this process.
        dask: address of the Dask scheduler whose workers run the cells; empty: this machine runs them.
        ended: called for each cell when it ends, also when it failed.
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
        _log.warning("%s: a process of its pool died; the cell runs once more, alone", plan.label)
        if _pool(deque([plan]), 1, ended):
            ended(plan, Failed(message="its process died twice: was there too little memory?"))


def _pool(waiting: deque[Plan], jobs: int, ended: Ended) -> list[Plan]:
    """Runs cells until none waits or a process of the pool dies. Returns the cells that ran when it died."""
    # Each process uses all cores. A share of the cores is faster, but gives results with other last bits.
    runner = ProcessPoolTaskRunner(max_workers=min(jobs, len(waiting)), initializer=begin_process)
    with runner, _no_survivors():
        return _feed(runner, waiting, jobs, ended, lambda: None)


@contextmanager
def _no_survivors() -> Iterator[None]:
    """If the block raises, kills the pool's processes: the pool itself would wait until their cells end."""
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
            stop.touch()  # a signal does not reach a worker's thread
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
    """Submits the cells, at most `width` at a time. Returns the cells that ran when the pool broke."""
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
    """Waits for a cell. Returns its final state; None if its pool broke."""
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
    # The cell has no final state if its Dask workers died more often than the scheduler allows.
    wrapped: Any = getattr(future, "wrapped_future", None)
    lost = wrapped.exception() if wrapped is not None else None
    message = f"its worker was lost: {safe_line(lost) if lost else state.name}"
    prefect_states.crash([future.task_run_id], message)
    return Crashed(message=message)
