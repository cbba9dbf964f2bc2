"""What one worker computes: tasks, one after the other, and one more that waits there for its turn."""

import asyncio
import uuid
from concurrent.futures import CancelledError
from typing import Any

from tasks.errors import RunError, one_line
from tasks.runtime.on_dask import machine
from tasks.runtime.on_dask.jobs import Job, Jobs
from tasks.runtime.on_dask.remote import Answer
from tasks.runtime.on_dask.task import MISSING, REFUSED, compute, on_worker
from tasks.runtime.on_dask.team import Team, Worker

DaskClient = Any
"""A `distributed.Client` in the event loop; importing `distributed` takes a second."""
LOST = "lost"
"""The message with which `serve` is cancelled if its worker was lost."""
_PAUSE = 0.25
"""Seconds after an error of the connection: by then, it is known what was lost."""


class _Lost(Exception):
    """A worker or the scheduler was lost with a task."""


async def serve(client: DaskClient, team: Team, worker: Worker) -> str:
    """Has a worker compute tasks until it is cancelled; or returns why the worker may not take part any more."""
    running: dict[asyncio.Task[Answer | None], tuple[Jobs, Job]] = {}
    lost = False
    try:
        while not worker.unwanted:
            # One more than it has threads, so that it need not wait for the host between two tasks.
            while len(running) <= worker.threads and not any(job.alone for _, job in running.values()):
                found = team.next(worker, busy=bool(running))
                if found is None:
                    break
                running[asyncio.create_task(_ask(client, team, worker, *found))] = found
            await asyncio.wait({*running, team.news}, return_when=asyncio.FIRST_COMPLETED)
            for task, (jobs, job) in list(running.items()):
                if jobs is not team.jobs:
                    task.cancel()
                    del running[task]
                elif task.done():
                    del running[task]
                    _got(team, worker, jobs, job, task)
        return worker.unwanted
    except asyncio.CancelledError as exc:
        lost = LOST in exc.args
        raise
    finally:
        del team.workers[worker.address]
        for task, (jobs, job) in running.items():
            task.cancel()
            error = job.lose(worker.address) if lost else None
            jobs.put_back(job)
            if error is not None:
                jobs.fail(error)
        team.tell()


def only_on(address: str) -> dict[str, Any]:
    """Returns the arguments with which Dask runs a task on one worker and nowhere else."""
    key = f"undrift-{uuid.uuid4().hex}"
    return {"workers": [address], "allow_other_workers": False, "pure": False, "key": key}


async def _ask(client: DaskClient, team: Team, worker: Worker, jobs: Jobs, job: Job) -> Answer | None:
    """Returns a worker's answer to a task; None: it is not the worker that was checked.

    Raises:
        _Lost: the worker or the scheduler was lost.
    """
    from distributed import KilledWorker

    program, received = jobs.program not in worker.programs, jobs.sent != worker.sent
    worker.programs.add(jobs.program)
    worker.sent = jobs.sent
    while True:
        part = job.pickled(program, received, team.exchange.folder if worker.shares else "")
        asked = client.submit(on_worker(compute), machine.digest(), part, **only_on(worker.address))
        try:
            answer: bytes = await client.gather(asked, direct=worker.direct)
        except (CancelledError, KilledWorker, OSError) as exc:
            if asked.status == "error" and not isinstance(exc, KilledWorker):
                raise
            await asyncio.sleep(_PAUSE)
            raise _Lost from exc
        if answer == REFUSED:
            return None
        if answer == MISSING:
            program = received = True
            continue
        try:
            loaded: Answer = team.exchange.loaded(answer)
        except OSError:  # the file did not come: the folder is not shared any more
            worker.shares = False
            continue
        return loaded


def _got(team: Team, worker: Worker, jobs: Jobs, job: Job, task: "asyncio.Task[Answer | None]") -> None:
    """Deals with a worker's answer to a task."""
    error = task.exception()
    answer = None if error is not None else task.result()
    if answer is not None and not answer.unread:
        for other, its in job.unread.items():
            reason = next(iter(its.unread.values()), "")
            team.refuse(other, f"it cannot read data that {worker.address} can read: {reason}")
        jobs.finish(job, answer)
        return
    jobs.put_back(job)
    if isinstance(error, RunError):
        jobs.fail(error)
    elif error is not None and not isinstance(error, _Lost):
        job.failed[worker.address] = one_line(error)
        worker.unwanted = f"it failed: {one_line(error)}"
    elif answer is not None:
        job.unread[worker.address] = answer
    elif error is None:
        worker.unwanted = "it began again, with other code"
    team.tell()
