"""Runs TFF's computations in this process: no child process, no open port, no copies over gRPC.

TFF's own compiler brings a computation into its native form: a lambda over calls to intrinsics and TensorFlow blocks.
This context walks the native form. It runs each TensorFlow block in a session of this process, or in NumPy if the block
only adds and multiplies (arithmetic.py), the clients on a few threads (in_turn.py). Each block runs on its caller's
thread. The results are added up in the order of the arguments, in blocks of a fixed number of clients (sums.py). So one
thread and many threads give the same bits. Only a few clients' results exist at a time (taking.py).

If the call of a client raises, only this client fails, not the computation. It takes no further part: its place in
every CLIENTS-placed result holds a `Failed`, and aggregates are over the other clients.

The whole computation runs on a thread of its own (see tasks/signals.py). So a cancellation is never raised inside a
computation, where it would look like the failure of a client.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any

import tensorflow_federated as tff

from tasks.runtime.arithmetic import without_warnings
from tasks.runtime.attempt import attempted
from tasks.runtime.in_turn import InTurn
from tasks.runtime.native import Compiled, Evaluated
from tasks.runtime.taking import taken
from tasks.runtime.values import Value
from tasks.scrub import scrubbing
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
    """Runs TFF computations in this process; see the module's docstring."""

    def __init__(self, threads: int) -> None:
        """Computes at most `threads` >= 1 clients at a time."""
        self._threads = threads
        # It starts a thread only when one is needed. The thread that runs the computation computes clients too.
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="client")
        self._compiled: dict[int, tuple[weakref.ref[Any], Compiled]] = {}
        self._apart = Apart("computations", self._end)

    def close(self) -> None:
        """Waits for the clients that are running, and starts no others."""
        self._apart.close()

    def _end(self) -> None:
        self._compiled.clear()
        self._pool.shutdown(cancel_futures=True)

    def invoke(self, comp: Any, arg: Any) -> Any:
        """Returns the result of `comp` for `arg`. In CLIENTS-placed results, a client that failed is a `Failed`.

        Raises:
            RunError: a part that runs on the server's side failed.
        """
        take = taken()

        def run(under_way: Call[Any]) -> Any:
            self._under_way = under_way
            try:
                return scrubbing("the server's computation failed", lambda: self._compile(comp)(arg, self._carry, take))
            finally:
                del self._under_way  # it holds the argument and the result

        return self._apart.call(run)

    def _compile(self, comp: Any) -> Compiled:
        # By its identity, because the hash of a computation serialises it: that takes half a millisecond or more.
        key, compiled = id(comp), self._compiled
        if key not in compiled:
            compiled[key] = weakref.ref(comp, lambda _: compiled.pop(key, None)), Compiled(comp, self._attempt)
        return compiled[key][1]

    def _carry(self, evaluated: Evaluated, ready: Sequence[int]) -> None:
        """See `tasks.runtime.native.Carry`.

        `Evaluated.compute` runs on several threads at once, and `Evaluated.add` on any of them, one at a time.
        """
        in_turn = InTurn(
            evaluated.num, partial(evaluated.compute, ready), partial(evaluated.add, ready), 2 * self._threads
        )
        running: list[Future[None]] = []
        try:
            for _ in range(min(self._threads, evaluated.num) - 1):
                running.append(self._pool.submit(without_warnings(in_turn.work)))
            in_turn.work()
        except BaseException:
            in_turn.stop()  # also if a thread could not be started
            raise
        finally:
            wait(running)
        for future in running:
            future.result()

    def _attempt(self, function: Callable[[Value], Value], value: Value) -> Value:
        """See `tasks.runtime.values.Attempt`."""
        self._under_way.check()  # after a cancellation, only clients that have begun run to their end
        return attempted(function, value)
