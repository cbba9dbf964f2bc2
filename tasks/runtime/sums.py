"""Sums over the clients, in blocks: the same bits for any number of threads or machines."""

from collections.abc import Callable

import numpy as np
import tensorflow_federated as tff

from tasks.local.tff_names import TffType
from tasks.runtime.failed import Failed
from tasks.runtime.values import AtClients, Value, waits_of

BLOCK = 8
"""Clients whose values are added up one after the other; the sums of the blocks are then merged in their order.

A floating-point sum depends on its order. With blocks of a fixed number of clients, a block can be added up anywhere.
"""


class Sum:
    """One aggregate over the clients: TFF's `accumulate` within a block, and `merge` from block to block.

    The values of the clients come in the order of the clients. A client that failed is left out.
    """

    def __init__(
        self,
        of: AtClients,
        zero: Value,
        accumulate: Callable[[Value], Value],
        merge: Callable[[Value], Value],
        report: Callable[[Value], Value],
    ) -> None:
        """Begins with no client. `accumulate` and `merge` take a pair."""
        self.of, self.waits = of, of.waits | waits_of(zero)
        self._zero, self._accumulate, self._merge, self._report = zero, accumulate, merge, report
        self._block = -1
        self._parts: list[Value] = []
        self._results: list[Value] = []

    @property
    def known(self) -> bool:
        """Whether all clients have been added."""
        return bool(self._results)

    @property
    def result(self) -> Value:
        """The aggregate over all clients."""
        return self._results[0]

    def add(self, place: int, value: Value) -> None:
        """Adds the value of the client at `place`."""
        if isinstance(value, Failed):
            return
        if place // BLOCK != self._block:
            self._close_block()
            self._block = place // BLOCK
            self._parts.append(self._zero)
        self._parts[-1] = self._accumulate((self._parts[-1], value))

    def part(self) -> Value | None:
        """Returns the sum over the clients that were added, all of one block, and begins again; None: all failed."""
        self._block = -1
        return self._parts.pop() if self._parts else None

    def add_part(self, part: Value | None) -> None:
        """Adds the `part` of the next block."""
        if part is not None:
            self._parts.append(part)
            self._close_block()

    def finish(self) -> None:
        """Ends the sum after the last client."""
        self._close_block()
        self._results.append(self._report(self._parts[0] if self._parts else self._zero))
        self._parts.clear()

    def _close_block(self) -> None:
        if len(self._parts) == 2:
            self._parts = [self._merge((self._parts[0], self._parts[1]))]


def plain_sum(of: AtClients, member: TffType) -> Sum:
    """Returns the sum of values of TFF's type `member`, entry by entry."""
    return Sum(of, _zeros(member), add_pair, add_pair, lambda total: total)


def add_pair(pair: Value) -> Value:
    """Returns the sum of two values of one type, entry by entry; NumPy rounds it as TensorFlow does."""
    left, right = pair
    if isinstance(left, tuple):
        return tuple(map(add_pair, zip(left, right, strict=True)))
    return left + right


def _zeros(signature: TffType) -> Value:
    if isinstance(signature, tff.StructType):
        return tuple(_zeros(element) for _, element in tff.structure.iter_elements(signature))
    return np.zeros(signature.shape, signature.dtype)
