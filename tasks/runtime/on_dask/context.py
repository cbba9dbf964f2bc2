"""Runs TFF's computations with their clients on the workers of a Dask cluster."""

import math
import pickle
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from tasks.runtime.in_process import InProcessContext
from tasks.runtime.native import Evaluated, Taken
from tasks.runtime.on_dask.cluster import Cluster
from tasks.runtime.on_dask.exchange import exchange
from tasks.runtime.on_dask.jobs import Job, Jobs
from tasks.runtime.on_dask.remote import Part
from tasks.runtime.sums import BLOCK, Sum
from tasks.runtime.values import num_values

_TASKS = 4
"""Tasks of a pass for each thread of the workers: fewer cost less, more let a slow worker delay the pass less."""
_MOST_BYTES = 1 << 25
"""Most bytes of the answer to a task, unless one block has more: 32 MB."""


@contextmanager
def on_dask(address: str, deadline: float, folder: Path | None) -> Iterator["DaskContext"]:
    """Yields a context whose clients are computed by the workers of the scheduler at `address`.

    Args:
        address: of the scheduler.
        deadline: most seconds without a worker.
        folder: for large answers of workers that share it (exchange.py); None: they come over the connections.

    Raises:
        SettingsError: no scheduler answers there.
    """
    with exchange(folder) as large:
        context = DaskContext(Cluster(address, deadline, large))
        try:
            context.open()
            yield context
        finally:
            context.close()


class DaskContext(InProcessContext):
    """As `InProcessContext`, but the clients are computed elsewhere."""

    def __init__(self, cluster: Cluster) -> None:
        """Takes over a cluster that is not open."""
        super().__init__(threads=1)
        self._cluster = cluster

    def open(self) -> None:
        """Connects to the cluster.

        Raises:
            SettingsError: see `Cluster.open`.
        """
        self._apart.call(lambda under_way: self._cluster.open())

    def _end(self) -> None:
        self._cluster.close()
        super()._end()

    def _carry(self, evaluated: Evaluated, ready: Sequence[int]) -> None:
        """See `tasks.runtime.native.Carry`."""
        if not evaluated.num:
            return
        proto = evaluated.compiled.proto
        program, sent = sha256(proto).hexdigest(), uuid.uuid4().hex
        received = evaluated.received()
        size = BLOCK * self._blocks(evaluated, ready)

        def pickled(begin: int, with_program: bool, with_received: bool, answers: str) -> bytes:
            places = slice(begin, min(begin + size, evaluated.num))
            part = Part(
                program,
                sent,
                ready,
                evaluated.argument_of(places),
                places.stop - begin,
                proto if with_program else None,
                received if with_received else None,
                answers,
            )
            return pickle.dumps(part, protocol=5)

        begins = range(0, evaluated.num, size)
        jobs = [
            Job(number, evaluated.clients(slice(begin, begin + size)), partial(pickled, begin))
            for number, begin in enumerate(begins)
        ]
        with closing(self._cluster.compute(Jobs(jobs, program, sent), self._under_way.check)) as answers:
            for begin, answer in zip(begins, answers, strict=True):
                self._add(evaluated, ready, begin, answer.parts)

    def _add(self, evaluated: Evaluated, ready: Sequence[int], begin: int, parts: Sequence[Sequence[Any]]) -> None:
        for i, values in zip(ready, parts, strict=True):
            want = evaluated.wanted[i]
            for number, value in enumerate(values):
                if isinstance(want, Sum):
                    want.add_part(value)
                else:
                    want.add(begin + number, value)

    def _blocks(self, evaluated: Evaluated, ready: Sequence[int]) -> int:
        """Returns the number of blocks in a task. The bits do not depend on it."""
        taken = [evaluated.wanted[i] for i in ready]
        of_client = 4 * sum(num_values(want.member) for want in taken if isinstance(want, Taken))
        shared = evaluated.num / BLOCK / (_TASKS * max(self._cluster.threads, 1))
        return max(1, min(math.ceil(shared), _MOST_BYTES // max(1, BLOCK * of_client)))
