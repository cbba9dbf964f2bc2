"""A TensorFlow block of a computation: the names of its tensors, and the structures that they make up."""

from collections.abc import Callable, Iterator
from typing import Any

from tasks.runtime.values import Value

Block = Any
"""The protocol buffer of a TFF computation in TensorFlow."""

Binding = Any
"""The tensors of a block's graph that make up a structure."""


def arguments_of(block: Block) -> list[str]:
    """Returns the names of the tensors that a block is given."""
    return tensor_names(block.parameter) if block.HasField("parameter") else []


def tensor_names(binding: Binding) -> list[str]:
    """Returns the names of the tensors of a structure, in its order."""
    match binding.WhichOneof("binding"):
        case "tensor":
            return [binding.tensor.tensor_name]
        case "struct":
            return [name for element in binding.struct.element for name in tensor_names(element)]
    raise NotImplementedError("the in_process runtime runs computations on tensors, not on sequences")


def leaves(value: Value) -> list[Any]:
    """Returns the tensors of a value, in the order of its structure."""
    if value is None:
        return []
    if isinstance(value, tuple):
        return [leaf for element in value for leaf in leaves(element)]
    return [value]


def packer(binding: Binding) -> Callable[[Iterator[Any]], Value]:
    """Returns the function that puts the leaves of a structure, in their order, into their places."""
    if binding.WhichOneof("binding") != "struct":
        return next
    parts = [packer(element) for element in binding.struct.element]
    return lambda leaves: tuple([part(leaves) for part in parts])
