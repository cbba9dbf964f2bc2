"""TFF's computations in this process: no child process, no open port, no copies over gRPC.

TFF's own compiler brings a computation into its native form (a lambda over calls to intrinsics and TensorFlow blocks);
this context walks that form and runs each TensorFlow block in a session of this process, clients on a few threads.
Each block runs on its caller's thread, so what the clients share is only the order in which their results are added
up, which is the order of the arguments: one thread and many give the same bits.

A client whose call raises is one failed call, not a failed computation: it takes no further part, its place in every
CLIENTS-placed result holds a `Failed`, and what is aggregated is aggregated over the others.

All of it runs apart from the thread that calls (see tasks/signals.py): a cancellation is raised beside a computation,
never in it, so that it cannot be taken for a client's failure.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import tensorflow_federated as tff

from tasks.runtime.failed import Failed
from tasks.runtime.native import Compiled
from tasks.runtime.values import Value, embed, extract, num_clients
from tasks.scrub import scrubbed, scrubbing
from tasks.signals import Apart, Call


@contextmanager
def in_process(threads: int) -> Iterator["InProcessContext"]:
    """Yields a context that computes at most `threads` clients at a time."""
    context = InProcessContext(threads)
    try:
        yield context
    finally:
        context.close()


class InProcessContext(tff.framework.SyncContext):
    """Runs TFF computations here; see the module's docstring."""

    def __init__(self, threads: int) -> None:
        """Computes at most `threads` >= 1 clients at a time."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="client") if threads > 1 else None
        self._compiled: weakref.WeakKeyDictionary[Any, Callable[[int], Value]] = weakref.WeakKeyDictionary()
        self._apart = Apart("computations", self._end)

    def close(self) -> None:
        """Waits for the clients under way, and starts no others."""
        self._apart.close()

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def invoke(self, comp: Any, arg: Any) -> Any:
        """Returns what `comp` gives for `arg`; a client that failed is a `Failed` in the CLIENTS-placed results.

        Raises:
            RunError: what runs on the server's side failed.
        """

        def run(under_way: Call[Any]) -> Any:
            self._under_way = under_way
            return scrubbing("what the server computes failed", lambda: self._invoke(comp, arg))

        return self._apart.call(run)

    def _invoke(self, comp: Any, arg: Any) -> Any:
        if comp not in self._compiled:
            self._compiled[comp] = Compiled(comp, self._map)
        signature = comp.type_signature
        if signature.parameter is None:
            return extract(self._compiled[comp](0)(None), signature.result)
        embedded = embed(arg, signature.parameter)
        return extract(self._compiled[comp](num_clients(embedded))(embedded), signature.result)

    def _map(self, function: Callable[[Value], Value], values: Sequence[Value]) -> list[Value]:
        under_way = self._under_way

        def call(value: Value) -> Value:
            under_way.check()  # after a cancellation, only the clients that have begun go on to their end
            if isinstance(value, Failed):
                return value
            try:
                return function(value)
            except Exception as exc:
                # Whatever a client's data or a user's model does to TensorFlow: no list of it could be whole.
                return Failed(scrubbed(exc))

        if self._pool is None or len(values) < 2:
            return [call(value) for value in values]
        futures = [self._pool.submit(call, value) for value in values]
        return [future.result() for future in futures]
