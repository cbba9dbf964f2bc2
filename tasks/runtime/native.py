"""A computation in TFF's native form, run in passes over the clients.

walk.py says what the clients have to compute. One pass over the clients computes all that can be computed. A client's
values are dropped as soon as they have been added up and taken. If clients need a sum over the clients, such as a mean
that is sent back to them, a second pass computes what still waits.

The clients can be computed elsewhere (on_dask): a pass over some of the clients needs only what the server has sent
(`Evaluated.received`) and the inputs of these clients (`Evaluated.argument_of`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import tensorflow_federated as tff

from tasks.local.tff_names import Computation, TffType
from tasks.runtime.arithmetic import without_warnings
from tasks.runtime.failed import Failed
from tasks.runtime.sums import Sum
from tasks.runtime.taking import Take
from tasks.runtime.values import (
    Answers,
    AtClients,
    Attempt,
    Later,
    Memo,
    Value,
    clients_of,
    embedder,
    extractor,
    is_known,
    num_clients,
    of_clients,
    placed_at_clients,
    settled,
)
from tasks.runtime.walk import Walk


class Taken:
    """A CLIENTS-placed result, of which `take` decides what is kept."""

    def __init__(self, of: AtClients, member: TffType, take: Take) -> None:
        self.of, self.waits, self.member = of, of.waits, member
        self._extract, self._take = extractor(member), take
        self.answers = Answers([])

    def add(self, place: int, value: Value) -> None:
        """Takes the value of the next client."""
        del place  # they come in their order
        self.answers.values.append(self._take(value if isinstance(value, Failed) else self._extract(value)))

    def finish(self) -> None:
        """Does nothing: there is nothing left to do after the last client."""


class Evaluated:
    """One run of a computation: what is wanted of its clients.

    Attributes:
        compiled: the computation.
        num: the number of clients.
        wanted: the sums over them and the results, in the order of the walk.
    """

    def __init__(
        self, compiled: "Compiled", argument: Any, wanted: Sequence[Sum | Taken], sent: Sequence[Value]
    ) -> None:
        self.compiled, self.num, self.wanted = compiled, compiled.num_clients(argument), wanted
        self._argument, self._sent = argument, sent

    def passes(self) -> Iterator[list[int]]:
        """Yields what is computed in each pass over the clients: places in `wanted`."""
        waiting = list(range(len(self.wanted)))
        while waiting:
            ready = [i for i in waiting if all(other.known for other in self.wanted[i].waits)]
            yield ready
            for i in ready:
                self.wanted[i].finish()
            waiting = [i for i in waiting if i not in ready]

    def compute(self, ready: Sequence[int], place: int) -> list[Value]:
        """Returns the values of one client in a pass."""
        memo: Memo = {}
        return [self.wanted[i].of.of(place, memo) for i in ready]

    def add(self, ready: Sequence[int], place: int, values: Sequence[Value]) -> None:
        """Takes the values of the next client in a pass."""
        for i, value in zip(ready, values, strict=True):
            self.wanted[i].add(place, value)

    def received(self) -> dict[int, Value]:
        """Returns what the clients have received from the server when a pass begins: place in the walk -> value."""
        return {number: settled(value) for number, value in enumerate(self._sent) if is_known(value)}

    def argument_of(self, places: slice) -> Any:
        """Returns the part of the argument that some clients need: without the server's values."""
        return of_clients(self._argument, self.compiled.parameter, places)

    def clients(self, places: slice) -> Sequence[str]:
        """Returns the names of some clients, for messages: their numbers if the argument has no names."""
        named = clients_of(self._argument, self.compiled.parameter)
        return [str(place) for place in range(self.num)[places]] if named is None else named[places]


Carry = Callable[[Evaluated, Sequence[int]], None]
"""Computes a pass over the clients, and adds the values of all clients in their order."""


class Compiled:
    """A computation in native form, with one session for each of its TensorFlow blocks."""

    def __init__(self, comp: Computation, attempt: Attempt) -> None:
        self._native = tff.backends.native.desugar_and_transform_to_native(comp)
        self._signature = comp.type_signature
        self.parameter = self._signature.parameter
        self._embed = None if self.parameter is None else embedder(self.parameter, attempt)
        self._extract = extractor(self._signature.result)
        self._walk = Walk(attempt)
        self._evaluate = self._walk.program(self._native.to_building_block())

    @without_warnings
    def __call__(self, argument: Any, carry: Carry, take: Take) -> Any:
        """Returns the result for `argument`, both Python's values; `take` says what is kept of the clients' results."""
        embedded = None if self._embed is None else self._embed(argument)
        self._walk.begin()
        try:
            value = self._evaluate({})
            value = value(embedded) if callable(value) else value
            answers = [Taken(part, member, take) for part, member in placed_at_clients(value, self._signature.result)]
            evaluated = Evaluated(self, argument, [*self._walk.sums, *answers], self._walk.sent)
            for ready in evaluated.passes():
                carry(evaluated, ready)
            return self._extract(_with_answers(value, {one.of: one.answers for one in answers}))
        finally:
            self._walk.begin()  # what it has of this call holds the argument

    def num_clients(self, argument: Any) -> int:
        """Returns the number of clients of an argument; 0 if no part of it is CLIENTS-placed."""
        return 0 if self.parameter is None else num_clients(argument, self.parameter)

    @cached_property
    def proto(self) -> bytes:
        """The native form, from which another process makes the same walk (on_dask/remote.py)."""
        return bytes(tff.framework.serialize_computation(self._native).SerializeToString())


def _with_answers(value: Value, answers: Mapping[AtClients, Answers]) -> Value:
    if isinstance(value, AtClients):
        return answers[value]
    if isinstance(value, tuple):
        return tuple(_with_answers(part, answers) for part in value)
    return _with_answers(settled(value), answers) if isinstance(value, Later) else value
