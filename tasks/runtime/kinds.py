"""Where TFF's computations run: `federate.runtime`."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import tensorflow_federated as tff
from threadpoolctl import threadpool_limits

from tasks.runtime.in_process import InProcessContext, in_process
from tasks.settings import RuntimeSettings

# A computation outside of `runtime` is a mistake: TFF's default context would start a worker process and never end it.
tff.test.set_no_default_context()


@contextmanager
def runtime(settings: RuntimeSettings, folder: Path | None = None) -> Iterator[None]:
    """Runs the TFF computations of this thread: in this process, or their clients on a Dask cluster.

    Both give the same bits. Nothing of it is left after the block.

    NumPy's BLAS has one thread within the block. By default it divides a product among as many threads as there are
    cores, and the division changes the last bits: in the statistics of a round, from about 100 clients on.

    Args:
        settings: which of the two, and for Dask the scheduler's address and the deadline.
        folder: for large answers of the workers that share it; None: they come over Dask's connections.
    """
    with (
        threadpool_limits(1, "blas"),
        _context(settings, folder) as context,
        tff.framework.get_context_stack().install(context),
    ):
        yield


def _context(settings: RuntimeSettings, folder: Path | None) -> AbstractContextManager[InProcessContext]:
    if settings.kind == "dask":
        from tasks.runtime.on_dask.context import on_dask

        return on_dask(settings.address, settings.deadline, folder)
    return in_process(settings.threads or len(os.sched_getaffinity(0)))
