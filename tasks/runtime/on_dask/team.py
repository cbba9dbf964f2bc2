"""The workers that take part, and the tasks of the present pass: what cluster.py and lane.py share.

Everything here is called in the thread of Dask's event loop.
"""

import asyncio
from dataclasses import dataclass, field

from tasks.errors import RunError, listed
from tasks.runtime.on_dask.exchange import Exchange
from tasks.runtime.on_dask.jobs import Job, Jobs


@dataclass
class Worker:
    """A worker that was checked and takes part.

    Attributes:
        address: of Dask, such as tls://10.0.0.2:40001.
        threads: tasks that it computes at the same time.
        direct: whether its answers come straight from it, or through the scheduler.
        shares: whether its large answers come as files (exchange.py).
        programs: digests of the computations that were sent to it.
        sent: names the last of the server's values that were sent to it.
        unwanted: why it may not take part any more; empty if it may.
    """

    address: str
    threads: int
    direct: bool
    shares: bool
    programs: set[str] = field(default_factory=set)
    sent: str = ""
    unwanted: str = ""


class Team:
    """The workers that take part, and what they have to do.

    Attributes:
        exchange: for large answers.
        workers: by address.
        jobs: the tasks of the present pass; None between two passes.
        news: ends when a worker should look for tasks.
        over: the error that has ended the connection; None while it lasts.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.workers: dict[str, Worker] = {}
        self.jobs: Jobs | None = None
        self.news = asyncio.get_running_loop().create_future()
        self.over: Exception | None = None

    @property
    def threads(self) -> int:
        """The number of tasks that the workers compute at the same time; 0 without a worker."""
        return sum(worker.threads for worker in list(self.workers.values()))

    def begin(self, jobs: Jobs) -> None:
        """Begins a pass."""
        self.jobs = jobs
        if self.over is not None:
            jobs.fail(self.over)
        self.tell()

    def finish(self, jobs: Jobs) -> None:
        """Ends a pass, if it is the present one."""
        if self.jobs is jobs:
            self.jobs = None
            self.tell()

    def fail(self, error: Exception) -> None:
        """Ends the present pass with an error."""
        if self.jobs is not None:
            self.jobs.fail(error)

    def tell(self) -> None:
        """Has every worker look for tasks."""
        news, self.news = self.news, asyncio.get_running_loop().create_future()
        news.set_result(None)
        if self.jobs is not None and self.workers:
            self._settle(self.jobs)

    def next(self, worker: Worker, busy: bool) -> tuple[Jobs, Job] | None:
        """Returns the next task of a worker; see `Jobs.next`."""
        if self.jobs is None or worker.unwanted:
            return None
        job = self.jobs.next(worker.address, sorted(self.workers), self.threads, busy)
        return None if job is None else (self.jobs, job)

    def refuse(self, address: str, reason: str) -> None:
        """Lets a worker take part no longer."""
        if address in self.workers:
            self.workers[address].unwanted = reason
            self.tell()

    def _settle(self, jobs: Jobs) -> None:
        """Ends the tasks that every worker has tried: a client whose data none of them can read has failed."""
        for job in jobs.tried_by_all(sorted(self.workers)):
            if job.unread:
                jobs.finish(job, min(job.unread.values(), key=lambda answer: len(answer.unread)))
            else:
                said = [f"{address}: {reason}" for address, reason in job.failed.items()]
                jobs.fail(RunError(f"the Dask workers failed: {listed(said, between='; ')}"))
