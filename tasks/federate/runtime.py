"""Where TFF's computations run: `federate.runtime`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow_federated as tff

from tasks.settings import RuntimeSettings

# A computation called outside of `runtime` is a mistake: TFF's default context would start a worker that nobody owns.
tff.test.set_no_default_context()


@contextmanager
def runtime(settings: RuntimeSettings) -> Iterator[None]:
    """Runs TFF's computations of this thread where `settings` says; nothing of it is left after the block."""
    threads = settings.threads or len(os.sched_getaffinity(0))
    if settings.kind == "in_process":
        from tasks.federate.in_process import in_process

        context = in_process(threads)
    else:
        from tasks.federate.worker import owned_worker

        context = owned_worker(threads, settings.deadline, settings.restarts)
    with context as opened, tff.framework.get_context_stack().install(opened):
        yield
