"""The tasks of one pass over the clients, handed out to workers, and their answers in the order of the clients."""

import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tasks.errors import RunError, listed
from tasks.runtime.on_dask.remote import Answer

_MOST_LOST = 4
"""Most workers that may be lost while they compute one task. Before the last ones, the task has a worker for itself."""
_AHEAD = 3
"""Tasks of each thread that may be handed out before the answer to an earlier task was taken: they are in memory."""


@dataclass
class Job:
    """One task.

    Attributes:
        number: its place among the tasks of the pass.
        clients: their names, for messages.
        pickled: (whether to send the computation, whether to send the server's values, the folder for a large answer or
            an empty text) -> the pickled `Part`.
        lost: the workers that were lost while they had this task.
        failed: workers on which it raised an error: address -> the error in one line.
        unread: workers that could not read the data of some of its clients: address -> their answer.
    """

    number: int
    clients: Sequence[str]
    pickled: Callable[[bool, bool, str], bytes]
    lost: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    unread: dict[str, Answer] = field(default_factory=dict)

    @property
    def tried(self) -> set[str]:
        """The workers that cannot compute it."""
        return {*self.failed, *self.unread}

    @property
    def alone(self) -> bool:
        """Whether nothing else may run on its worker, so that it is known which task ended the worker."""
        return len(self.lost) > 1

    def lose(self, worker: str) -> RunError | None:
        """Notes that a worker was lost; returns the error that ends the run if it was one too many."""
        self.lost.append(worker)
        if len(self.lost) < _MOST_LOST:
            return None
        return RunError(
            f"the Dask workers {listed(self.lost)} were lost one after the other while they computed the clients "
            f"{listed(self.clients)}: look into their logs; a worker that needs more than its memory limit is killed"
        )


class Jobs:
    """The tasks of one pass. All but `ordered` is called in the thread of Dask's event loop.

    Attributes:
        program: the digest of the computation.
        sent: names what the server has sent in this pass.
    """

    def __init__(self, jobs: Sequence[Job], program: str, sent: str) -> None:
        self.program, self.sent = program, sent
        self._all, self._waiting = jobs, list(jobs)
        self._answers: queue.SimpleQueue[tuple[Job, Answer] | Exception] = queue.SimpleQueue()
        self._taken = 0

    def next(self, worker: str, workers: Sequence[str], threads: int, busy: bool) -> Job | None:
        """Returns the next task for a worker, and takes it from the waiting ones; None: there is none now.

        Of the tasks that may be handed out, a worker first gets its own share: the same one in each round, because it
        remembers examples (tasks/local/own_examples.py).

        Args:
            worker: its address.
            workers: all that take part, this one included.
            threads: of all of them.
            busy: whether the worker has other tasks.
        """
        most = self._taken + _AHEAD * max(threads, 1)
        allowed = [
            job for job in self._waiting if job.number < most and worker not in job.tried and not (job.alone and busy)
        ]
        own = (job for job in allowed if workers[job.number % len(workers)] == worker)
        chosen = next(own, allowed[0] if allowed else None)
        if chosen is not None:
            self._waiting.remove(chosen)
        return chosen

    def put_back(self, job: Job) -> None:
        """Lets a task wait again."""
        self._waiting = sorted([*self._waiting, job], key=lambda each: each.number)

    def tried_by_all(self, workers: Sequence[str]) -> Iterator[Job]:
        """Yields the waiting tasks that each of `workers` has tried, and takes them from the waiting ones."""
        for job in [job for job in self._waiting if job.tried and {*workers} <= job.tried]:
            self._waiting.remove(job)
            yield job

    def finish(self, job: Job, answer: Answer) -> None:
        """Gives the answer to a task."""
        self._answers.put((job, answer))

    def fail(self, error: Exception) -> None:
        """Ends the pass with an error."""
        self._answers.put(error)

    def ordered(self, check: Callable[[], None], took: Callable[[], None]) -> Iterator[Answer]:
        """Yields the answers in the order of the tasks, in the thread of the run.

        Args:
            check: is called a few times a second while an answer is awaited, and may raise.
            took: is called after each answer.
        """
        found: dict[int, Answer] = {}
        for number in range(len(self._all)):
            while number not in found:
                check()
                try:
                    got = self._answers.get(timeout=_LOOK)
                except queue.Empty:
                    continue
                if isinstance(got, Exception):
                    raise got
                found[got[0].number] = got[1]
            self._taken = number + 1
            took()
            yield found.pop(number)


_LOOK = 0.2
"""Seconds between two checks whether the run was cancelled."""
