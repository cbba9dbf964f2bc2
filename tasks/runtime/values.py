"""Values of a computation in this process, and their conversion from and to Python's values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_federated as tff

from tasks.local.tff_names import TffType
from tasks.runtime.failed import Failed

Value = Any
"""A tensor is an array, a structure a tuple, a function a callable, a CLIENTS-placed value an `AtClients`."""


@dataclass(frozen=True)
class AtClients:
    """One value for each client, in the order of the clients."""

    values: Sequence[Value]


def embed(value: Any, signature: TffType) -> Value:
    """Returns Python's `value`, of TFF's type `signature`, as a `Value`."""
    if isinstance(signature, tff.FederatedType):
        if signature.placement is tff.CLIENTS and not signature.all_equal:
            return AtClients([embed(client, signature.member) for client in value])
        return embed(value, signature.member)
    if isinstance(signature, tff.StructType):
        elements = tff.structure.from_container(value) if not isinstance(value, tff.structure.Struct) else value
        return tuple(
            embed(elements[i], element) for i, (_, element) in enumerate(tff.structure.iter_elements(signature))
        )
    if not isinstance(signature, tff.TensorType):
        raise NotImplementedError(f"the in_process runtime takes tensors and structures of them, not {signature}")
    return np.asarray(value, dtype=object if signature.dtype is np.str_ else signature.dtype)


def extract(value: Value, signature: TffType) -> Any:
    """Returns a `Value` of TFF's type `signature` as Python's, with structures in their Python containers."""
    if isinstance(value, Failed):
        return value
    if isinstance(signature, tff.FederatedType):
        if isinstance(value, AtClients):
            return [extract(client, signature.member) for client in value.values]
        return extract(value, signature.member)
    if isinstance(signature, tff.StructType):
        items = [
            (name, extract(v, t)) for (name, t), v in zip(tff.structure.iter_elements(signature), value, strict=True)
        ]
        container = signature.python_container if isinstance(signature, tff.types.StructWithPythonType) else None
        if all(name is None for name, _ in items):
            return (container or list)(v for _, v in items)
        return container(**dict(items)) if container not in (None, dict) else dict(items)
    return value


def num_clients(value: Value) -> int:
    """Returns the number of clients in a value; 0 if no part of it is CLIENTS-placed."""
    if isinstance(value, AtClients):
        return len(value.values)
    return max((num_clients(element) for element in value), default=0) if isinstance(value, tuple) else 0
