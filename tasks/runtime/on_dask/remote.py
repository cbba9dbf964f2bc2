"""Some clients of a computation, computed in a worker's process."""

import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import tensorflow_federated as tff
from tensorflow_federated.proto.v0.computation_pb2 import Computation as Message

from tasks.runtime.arithmetic import without_warnings
from tasks.runtime.attempt import attempted
from tasks.runtime.failed import Failed
from tasks.runtime.on_dask.exchange import written
from tasks.runtime.on_dask.task import MISSING
from tasks.runtime.sums import BLOCK, Sum
from tasks.runtime.values import AtClients, Memo, Value, embedder, placed_at_clients
from tasks.runtime.walk import Walk
from tasks.scrub import scrubbing

T = TypeVar("T")

_PROGRAMS = 32
"""Most computations that a worker keeps: as many as a diagnosis does (`ComputationCache`)."""
_ROUNDS = 4
"""Most values of servers that a worker keeps: one for each run that uses the worker at the same time."""


@dataclass(frozen=True)
class Part:
    """Some clients of a pass.

    Attributes:
        program: the digest of the computation.
        sent: names what the server has sent in this pass.
        ready: what is computed, as places in `tasks.runtime.native.Evaluated.wanted`.
        argument: the part of the computation's argument that the clients need.
        num: the number of clients. The first one begins a block.
        proto: the computation; None if the worker has it.
        received: what the server has sent; None if the worker has it.
        folder: where the worker writes a large answer; empty if it cannot (exchange.py).
    """

    program: str
    sent: str
    ready: Sequence[int]
    argument: Any
    num: int
    proto: bytes | None = None
    received: Mapping[int, Value] | None = None
    folder: str = ""


@dataclass(frozen=True)
class Answer:
    """What a part gives.

    Attributes:
        parts: for each of `ready`: the sum of each block (None if all of its clients failed), or each client's value.
        unread: the places of the clients, from the first of the part, whose input could not be made: its reason.
    """

    parts: Sequence[Sequence[Value]]
    unread: Mapping[int, str]


def answer(part: bytes) -> bytes:
    """Returns the answer to a pickled `Part`: `MISSING`, or an `Answer` for `Exchange.loaded`.

    Raises:
        RunError: TensorFlow failed outside of a client's own computation.
    """
    wanted: Part = pickle.loads(part)
    program = _PROGRAM.get(wanted.program, lambda: None if wanted.proto is None else Program(wanted.proto))
    received = _RECEIVED.get(wanted.sent, lambda: wanted.received)
    if program is None or received is None:
        return MISSING
    found = scrubbing("the server's computation failed", lambda: program.compute(wanted, received))
    return written(found, wanted.folder)


class Program:
    """A computation in native form, of which a process computes some of the clients."""

    def __init__(self, proto: bytes) -> None:
        """Makes the walk of the computation in `proto`; see `tasks.runtime.native.Compiled.proto`."""
        computation = tff.framework.deserialize_computation(Message.FromString(proto))
        self._signature = computation.type_signature
        self._walk = Walk(attempted)
        self._evaluate = self._walk.program(computation.to_building_block())
        self._walking = threading.Lock()

    @without_warnings
    def compute(self, part: Part, received: Mapping[int, Value]) -> Answer:
        """Returns what `part` asks for."""
        unread: dict[int, str] = {}

        def reading(make: Callable[[Any], Value], place: Any) -> Value:
            value = attempted(make, place)
            if isinstance(value, Failed):
                unread[place] = value.reason
            return value

        argument = embedder(self._signature.parameter, reading, elsewhere=True)(part.argument)
        with self._walking:  # a worker can have several threads
            self._walk.begin(received)
            result = self._evaluate({})(argument)
            answers = [each for each, _ in placed_at_clients(result, self._signature.result)]
            everything: list[Sum | AtClients] = [*self._walk.sums, *answers]
        wanted = [everything[i] for i in part.ready]
        parts: list[list[Value]] = [[] for _ in wanted]
        for begin in range(0, part.num, BLOCK):
            _block(wanted, range(begin, min(begin + BLOCK, part.num)), parts)
        return Answer(parts, unread)


def _block(wanted: Sequence[Sum | AtClients], places: range, parts: Sequence[list[Value]]) -> None:
    """Computes the clients of a block, and appends its sums, or its clients' values, to `parts`."""
    for place in places:
        memo: Memo = {}
        for want, found in zip(wanted, parts, strict=True):
            if isinstance(want, Sum):
                want.add(place, want.of.of(place, memo))
            else:
                found.append(want.of(place, memo))
    for want, found in zip(wanted, parts, strict=True):
        if isinstance(want, Sum):
            found.append(want.part())


class _Kept:
    """The last few values by key."""

    def __init__(self, most: int) -> None:
        self._most, self._values, self._using = most, OrderedDict[str, Any](), threading.Lock()

    def get(self, key: str, make: Callable[[], T | None]) -> T | None:
        """Returns the value of `key`. If there is none, it is made; None: it cannot be made."""
        with self._using:
            if key not in self._values:
                made = make()
                if made is None:
                    return None
                self._values[key] = made
                if len(self._values) > self._most:
                    self._values.popitem(last=False)
            self._values.move_to_end(key)
            found: T = self._values[key]
            return found


_PROGRAM, _RECEIVED = _Kept(_PROGRAMS), _Kept(_ROUNDS)
