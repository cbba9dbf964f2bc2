"""TensorFlow blocks that NumPy computes: sums and products of numbers, entry by entry.

TFF weights and adds up the clients' updates in such blocks. For a small one, a session takes several times as long as
NumPy.
"""

import itertools
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import tensorflow as tf

from tasks.runtime.blocks import Block, arguments_of, leaves, packer, tensor_names
from tasks.runtime.values import Value

_OPERATIONS: dict[str, Callable[..., Any]] = {
    "AddV2": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Neg": np.negative,
}
"""Operations of TensorFlow by name; NumPy rounds them in the same way."""

_NUMBERS = {kind.as_datatype_enum for kind in (tf.float32, tf.float64, tf.int32, tf.int64)}


P = ParamSpec("P")
T = TypeVar("T")


def without_warnings(function: Callable[P, T]) -> Callable[P, T]:
    """Returns the function, but without NumPy's warnings: TensorFlow does not warn of an overflow either.

    It is for all that a thread does for a computation. For each block, it would take as long as a small block itself.
    `numpy.errstate` is no decorator for this: it keeps the earlier state in itself, which several threads would share.
    """

    @wraps(function)
    def silent(*args: P.args, **kwargs: P.kwargs) -> T:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return silent


class _OtherOperationError(Exception):
    """A block holds something that NumPy does not compute."""


def arithmetic_call(block: Block) -> Callable[[Value], Value] | None:
    """Returns a block as a function from its argument to its result; None if NumPy does not compute it.

    Call the function within `without_warnings`. The result can hold the arrays of the argument, and of earlier results:
    they must not be changed.
    """
    plan = _Plan(block)
    try:
        results = [plan.place_of(tensor) for tensor in tensor_names(block.result)]
    except (_OtherOperationError, RecursionError):  # a chain of hundreds of operations gains nothing from NumPy
        return None
    constants, steps, pack = plan.constants, plan.steps, packer(block.result)

    def run(argument: Value) -> Value:
        values = {**constants, **dict(enumerate(leaves(argument)))}
        for place, operation, operands in steps:
            values[place] = operation(*[values[operand] for operand in operands])
        return pack(iter([values[place][()] for place in results]))  # a single number is no array, as in a session

    return run


class _Plan:
    """The steps of a block. Each tensor has a place among the values; those of the argument come first.

    Attributes:
        constants: by place.
        steps: place of the result, operation, places of the operands; in an order in which they can be computed.
    """

    def __init__(self, block: Block) -> None:
        graph_def = tf.compat.v1.GraphDef()
        block.graph_def.Unpack(graph_def)
        self._nodes = {node.name: node for node in graph_def.node}
        self._free = itertools.count()
        self._places = {tensor: next(self._free) for tensor in arguments_of(block)}
        self.constants: dict[int, Any] = {}
        self.steps: list[tuple[int, Callable[..., Any], list[int]]] = []

    def place_of(self, tensor: str) -> int:
        """Returns the place of a tensor, and adds the steps to it.

        Raises:
            _OtherOperationError: NumPy does not compute it.
        """
        name, _, output = tensor.partition(":")
        tensor, node = f"{name}:{output or 0}", self._nodes.get(name)
        if node is None:  # "^name", which another operation only waits for
            raise _OtherOperationError
        if any(kind.type and kind.type not in _NUMBERS for kind in (node.attr["dtype"], node.attr["T"])):
            raise _OtherOperationError
        if tensor not in self._places:
            self._places[tensor] = self._computed(node)
        return self._places[tensor]

    def _computed(self, node: Any) -> int:
        if node.op not in ("Const", "Identity", *_OPERATIONS):
            raise _OtherOperationError
        operands = [self.place_of(tensor) for tensor in node.input]
        if node.op == "Identity":
            return operands[0]
        place = next(self._free)
        if node.op == "Const":
            value = tf.make_ndarray(node.attr["value"].tensor)
            value.flags.writeable = False
            self.constants[place] = value
        else:
            self.steps.append((place, _OPERATIONS[node.op], operands))
        return place
