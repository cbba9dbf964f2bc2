"""Values of a computation in this process, and their conversion from and to Python's values."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_federated as tff

from tasks.local.tff_names import TffType
from tasks.runtime.failed import Failed

Value = Any
"""A tensor is an array, a structure a tuple, a function a callable; see also `AtClients` and `Later`."""

Attempt = Callable[[Callable[[Any], Value], Any], Value]
"""(function, argument) -> its result, or `Failed` if it raises: the call of one client."""

Memo = dict["AtClients", Value]
"""What has been computed for one client in one pass over the clients."""


@dataclass(frozen=True, eq=False)
class AtClients:
    """One value for each client, computed when it is asked for, so that no more clients' values than needed exist.

    Attributes:
        compute: (place of the client, memo) -> its value.
        waits: the sums over the clients that must be known first.
    """

    compute: Callable[[int, Memo], Value]
    waits: frozenset[Any] = frozenset()

    def of(self, place: int, memo: Memo) -> Value:
        """Returns the value of the client at `place`."""
        if self not in memo:
            memo[self] = self.compute(place, memo)
        return memo[self]


class Later:
    """A value at the server that follows from sums over the clients, and so is known after a pass over them."""

    def __init__(self, compute: Callable[[], Value], waits: frozenset[Any]) -> None:
        """Keeps how to compute the value, and the sums in `waits` that must be known first."""
        self._compute, self.waits = compute, waits
        self._values: list[Value] = []

    @property
    def value(self) -> Value:
        """The value; it is computed once."""
        if not self._values:
            self._values.append(self._compute())
        return self._values[0]


@dataclass(frozen=True)
class Answers:
    """What was taken of each client's part of a CLIENTS-placed result, in the order of the clients."""

    values: list[Any]


def waits_of(value: Value) -> frozenset[Any]:
    """Returns the sums over the clients that `value` waits for."""
    if isinstance(value, (AtClients, Later)):
        return value.waits
    return frozenset().union(*map(waits_of, value)) if isinstance(value, tuple) else frozenset()


def is_known(value: Value) -> bool:
    """Returns whether all sums over the clients that `value` waits for are known."""
    return all(one.known for one in waits_of(value))


def settled(value: Value) -> Value:
    """Returns `value`, without CLIENTS-placed parts, with what it waits for in its place."""
    if isinstance(value, Later):
        return settled(value.value)
    return tuple(map(settled, value)) if isinstance(value, tuple) else value


def _not_here() -> Value:
    raise RuntimeError("the value is in the server's process")


_ELSEWHERE = Later(_not_here, frozenset({object()}))
"""A value at the server, in a process in which it is not known. What follows from it is a `Later`, too."""

Embed = Callable[[Any], Value]
"""Python's value -> the `Value`."""

Extract = Callable[[Value], Any]
"""A `Value` -> Python's value, with structures in their Python containers."""


def embedder(signature: TffType, attempt: Attempt, elsewhere: bool = False) -> Embed:
    """Returns the function that embeds Python's values of TFF's type `signature`.

    The clients' values are asked for one at a time, when they are needed. A client for which `value[place]` raises has
    failed. The type is looked at once, not for each client: that would take as long as a small client's training.

    Args:
        signature: of the values.
        attempt: makes a client's value.
        elsewhere: whether the server's values are in another process. Nothing that follows from them can be computed.
    """
    if isinstance(signature, tff.FederatedType):
        if elsewhere and signature.placement is tff.SERVER:
            return lambda value: _ELSEWHERE
        member = embedder(signature.member, attempt)
        if not _one_each(signature):
            return member
        return lambda value: AtClients(lambda place, _: attempt(lambda at: member(value[at]), place))
    if isinstance(signature, tff.StructType):
        names = [name for name, _ in tff.structure.iter_elements(signature)]
        parts = [embedder(element, attempt, elsewhere) for _, element in tff.structure.iter_elements(signature)]

        def embed_struct(value: Any) -> Value:
            if isinstance(value, Mapping):
                elements = [value[name] for name in names]
            else:
                elements = [
                    *(value if isinstance(value, tff.structure.Struct) else tff.structure.from_container(value))
                ]
            return tuple(part(element) for part, element in zip(parts, elements, strict=True))

        return embed_struct
    if not isinstance(signature, tff.TensorType):
        raise NotImplementedError(f"the in_process runtime takes tensors and structures of them, not {signature}")
    dtype = object if signature.dtype is np.str_ else signature.dtype
    return lambda value: np.asarray(value, dtype=dtype)


def _one_each(signature: TffType) -> bool:
    return signature.placement is tff.CLIENTS and not signature.all_equal


def num_clients(value: Any, signature: TffType) -> int:
    """Returns the number of clients of Python's `value`, of TFF's type `signature`; 0 if no part is CLIENTS-placed."""
    if isinstance(signature, tff.FederatedType):
        return len(value) if _one_each(signature) else 0
    if not isinstance(signature, tff.StructType):
        return 0
    elements = tff.structure.from_container(value) if not isinstance(value, tff.structure.Struct) else value
    parts = [num_clients(elements[i], t) for i, (_, t) in enumerate(tff.structure.iter_elements(signature))]
    return max(parts, default=0)


def of_clients(value: Any, signature: TffType, places: slice) -> Any:
    """Returns the part of Python's `value`, of TFF's type `signature`, that the clients at `places` need.

    The server's values are None in it. Of the clients' values, only the slice `value[places]` is taken, so that the
    other clients' values need not exist.
    """
    if isinstance(signature, tff.FederatedType):
        if signature.placement is not tff.CLIENTS:
            return None
        return value[places] if _one_each(signature) else value
    if not isinstance(signature, tff.StructType):
        return None
    elements = tff.structure.from_container(value) if not isinstance(value, tff.structure.Struct) else value
    return [of_clients(elements[i], t, places) for i, (_, t) in enumerate(tff.structure.iter_elements(signature))]


def clients_of(value: Any, signature: TffType) -> Sequence[str] | None:
    """Returns the names of the clients of Python's `value`, of TFF's type `signature`, if it has names in `clients`."""
    if isinstance(signature, tff.FederatedType):
        return getattr(value, "clients", None) if _one_each(signature) else None
    if not isinstance(signature, tff.StructType):
        return None
    elements = tff.structure.from_container(value) if not isinstance(value, tff.structure.Struct) else value
    found = (clients_of(elements[i], t) for i, (_, t) in enumerate(tff.structure.iter_elements(signature)))
    return next((names for names in found if names is not None), None)


def num_values(signature: TffType) -> int:
    """Returns the number of values of TFF's type `signature`; a dimension of unknown length counts as 0."""
    if isinstance(signature, tff.StructType):
        return sum(num_values(element) for _, element in tff.structure.iter_elements(signature))
    return math.prod(length or 0 for length in signature.shape)


def placed_at_clients(value: Value, signature: TffType) -> Iterator[tuple[AtClients, TffType]]:
    """Yields each CLIENTS-placed part of `value`, of TFF's type `signature`, with the type of a client's value."""
    if isinstance(value, AtClients):
        yield value, signature.member
    elif isinstance(signature, tff.StructType):
        for (_, element), part in zip(tff.structure.iter_elements(signature), value, strict=True):
            yield from placed_at_clients(part, element)


def extractor(signature: TffType) -> Extract:
    """Returns the function that extracts values of TFF's type `signature`. A client that failed stays a `Failed`."""
    if isinstance(signature, tff.FederatedType):
        member = extractor(signature.member)
        return lambda value: value.values if isinstance(value, Answers) else member(value)
    if not isinstance(signature, tff.StructType):
        return lambda value: value
    names = [name for name, _ in tff.structure.iter_elements(signature)]
    parts = [extractor(element) for _, element in tff.structure.iter_elements(signature)]
    container = signature.python_container if isinstance(signature, tff.types.StructWithPythonType) else None

    def extract_struct(value: Value) -> Any:
        if isinstance(value, Failed):
            return value
        elements = [part(element) for part, element in zip(parts, value, strict=True)]
        if all(name is None for name in names):
            return (container or list)(elements)
        named = dict(zip(names, elements, strict=True))
        return named if container in (None, dict) else container(**named)

    return extract_struct
