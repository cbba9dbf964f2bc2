"""Where TFF's computations run: `federate.runtime`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow_federated as tff
from threadpoolctl import threadpool_limits

from tasks.runtime.in_process import in_process
from tasks.settings import RuntimeSettings

# A computation called outside of `runtime` is a mistake: TFF's default context would start a worker that nobody owns.
tff.test.set_no_default_context()


@contextmanager
def runtime(settings: RuntimeSettings) -> Iterator[None]:
    """Runs TFF's computations of this thread in this process; nothing of it is left after the block.

    NumPy's BLAS has one thread meanwhile. Left to itself it parts a product among as many as there are cores, and how
    it is parted decides the last bits: of the statistics of a round, from about 100 clients on.
    """
    threads = settings.threads or len(os.sched_getaffinity(0))
    with (
        threadpool_limits(1, "blas"),
        in_process(threads) as context,
        tff.framework.get_context_stack().install(context),
    ):
        yield
