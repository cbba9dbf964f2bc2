"""A Keras model as a function of its parameters, because the rounds send, train and average parameters.

1. A call of the model is traced. The trace reads the model's variables.
2. TensorFlow replaces the variables with constants, also inside loops and functions, as when a model is exported.
3. The constants of the trainable variables become arguments of the function.

So the rounds compute the user's own model. No layer is made again from its configuration, and frozen parameters stay in
as constants. A layer that keeps a state or draws without a seed is found among the operations, and refused.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tasks.errors import SettingsError, reading

Forward = Callable[[Sequence[tf.Tensor], tf.Tensor, tf.Tensor | None], tuple[tf.Tensor, tf.Tensor | float]]
"""(parameters, batch (B, ...), seed (2,) int32 or None) -> (logits (B, C), penalty of the regularisers).

If the model has no regularisers, the penalty is the number 0.0.

With a seed, layers such as Dropout draw from the seed, each layer its own numbers. Without a seed they do nothing, as
when a model predicts.
"""

_NO_SEED = (0, 0)

_IMPURE = {
    "draws random numbers that no seed reproduces in a federated round: use Keras's own random layers (Dropout, "
    "GaussianNoise, RandomFlip, …)": ("Random", "Rng", "Multinomial", "StatefulUniform", "Normal"),
    "changes a state of its own while it trains, which belongs to no client and cannot be averaged with the "
    "parameters: leave it out, or freeze it (trainable=False)": ("Assign", "Scatter"),
    "calls Python, which no file can hold: write it with TensorFlow's operations": ("PyFunc",),
}
"""What is wrong with an operation that TensorFlow calls stateful, and the parts of names that show it."""

_READING = (
    "Assert",
    "NoOp",
    "Case",
    "If",
    "While",
    "PartitionedCall",
    "VarHandleOp",
    "ReadVariableOp",
    "ResourceGather",
)
"""Beginnings or ends of the names of stateful operations that only read, or that only contain other operations."""


def build_forward(name: str, model: tf.keras.Model) -> tuple[Forward, bool]:
    """Returns (`model` as a function of its trainable parameters, whether it draws random numbers in training).

    The parameters are in the order of `trainable_weights`. Call the function inside a TensorFlow graph. `name` is the
    value of federate.model.

    Raises:
        SettingsError: a part of the model (1) keeps a state, (2) draws without a seed, (3) draws when it predicts, or
            (4) calls Python.
    """
    training, draws = _traced(name, model, training=True)
    # A user's layer can behave differently in training even if it draws nothing; the built-in models do not.
    inference, draws_too = _traced(name, model, training=False) if ":" in name else (training, False)
    if draws_too:
        raise SettingsError(
            f"federate.model {name} must give the same logits for the same example, got a layer that draws random "
            "numbers when the model predicts too: call its layers without training=True"
        )

    def forward(
        params: Sequence[tf.Tensor], x: tf.Tensor, seed: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor | float]:
        if seed is None:
            return inference(params, x, tf.constant(_NO_SEED))
        return training(params, x, seed)

    return forward, draws


def _traced(
    name: str, model: tf.keras.Model, training: bool
) -> tuple[Callable[[Sequence[tf.Tensor], tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor | float]], bool]:
    draws = _Draws()

    @tf.function(autograph=False)
    def call(x: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        with draws.of(model, seed):
            logits = model(x, training=training)
        penalties = [tf.reduce_sum(each) for each in model.losses]
        return [tf.identity(logits), *([tf.add_n(penalties)] if penalties else [])]

    with reading(f"federate.model {name} must be a model that TensorFlow can trace", SettingsError):
        spec = tf.TensorSpec(model.input_shape, tf.float32), tf.TensorSpec((2,), tf.int32)
        traced = call.get_concrete_function(*spec)
        _check_pure(name, traced.graph.as_graph_def())
        frozen = convert_variables_to_constants_v2(traced, lower_control_flow=False)
    read = {id(outer): inner.op.name for outer, inner in traced.graph.captures}
    constants = frozen.graph.as_graph_def()
    nodes = {node.name for node in constants.node}
    graph = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(constants, name=""), [])
    # A variable that the model never reads is in no graph: it gets no place, and its gradient is zero.
    variables = model.trainable_weights
    places = [place for place, variable in enumerate(variables) if read.get(id(variable.handle), "") in nodes]
    of_params = [f"{read[id(variables[place].handle)]}:0" for place in places]
    inputs = [tensor.name for tensor in frozen.inputs]
    tensor_of = graph.graph.get_tensor_by_name
    pruned = graph.prune(
        [tensor_of(each) for each in (*of_params, *inputs)], [tensor_of(tensor.name) for tensor in frozen.outputs]
    )

    def function(params: Sequence[tf.Tensor], x: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | float]:
        logits, *penalty = pruned(*(params[place] for place in places), *(x, seed)[: len(inputs)])
        return logits, penalty[0] if penalty else 0.0

    return function, draws.count > 0


class _Draws:
    """Replaces each layer's `keras.backend.RandomGenerator` while a model is traced.

    The n-th draw of a trace gets the seed of the call with n folded in.
    """

    def __init__(self) -> None:
        self.count = 0
        self._seed: Any = None

    @contextmanager
    def of(self, model: tf.keras.Model, seed: tf.Tensor) -> Iterator[None]:
        """Replaces the generators of the layers of `model` within the block."""
        self._seed, self.count = seed, 0
        layers = [layer for layer in model._flatten_layers() if hasattr(layer, "_random_generator")]
        own = [layer._random_generator for layer in layers]
        for layer in layers:
            layer._random_generator = self
        try:
            yield
        finally:
            for layer, generator in zip(layers, own, strict=True):
                layer._random_generator = generator

    def make_seed_for_stateless_op(self) -> tf.Tensor:
        """Returns the seed (2,) of the next draw."""
        self.count += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self.count)

    def random_normal(
        self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, nonce: Any = None
    ) -> Any:
        """See Keras. `nonce`, by which Keras separates draws of one seed, is not needed: each draw has its own."""
        seed = self.make_seed_for_stateless_op()
        return tf.random.stateless_normal(shape, seed, mean, stddev, dtype or tf.float32)

    def random_uniform(
        self, shape: Any, minval: Any = 0.0, maxval: Any = None, dtype: Any = None, nonce: Any = None
    ) -> Any:
        """See Keras."""
        seed = self.make_seed_for_stateless_op()
        return tf.random.stateless_uniform(shape, seed, minval, maxval, dtype or tf.float32)

    def truncated_normal(
        self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, nonce: Any = None
    ) -> Any:
        """See Keras."""
        seed = self.make_seed_for_stateless_op()
        return tf.random.stateless_truncated_normal(shape, seed, mean, stddev, dtype or tf.float32)

    def dropout(self, inputs: tf.Tensor, rate: Any, noise_shape: Any = None) -> tf.Tensor:
        """See Keras."""
        seed = self.make_seed_for_stateless_op()
        return tf.nn.experimental.stateless_dropout(inputs, rate, seed, noise_shape=noise_shape)


def _check_pure(name: str, graph: Any) -> None:
    for node in _executed(graph):
        described = op_def_registry.get(node.op)
        if described is None or not described.is_stateful or node.op.startswith(_READING) or node.op.endswith(_READING):
            continue
        wrong = (says for says, parts in _IMPURE.items() if any(part in node.op for part in parts))
        says = next(wrong, "keeps a state, which cannot be averaged with the parameters: leave it out")
        raise SettingsError(f"federate.model {name}: {node.name} ({node.op}) {says}")


def _executed(graph: Any) -> Iterator[Any]:
    """Yields the nodes of a graph, and of the functions that it calls.

    The library holds more functions, such as LSTM's for GPUs. A function that is never called is not yielded.
    """
    library = {function.signature.name: function for function in graph.library.function}
    waiting, seen = [graph.node], set[str]()
    while waiting:
        for node in waiting.pop():
            yield node
            functions = [each.func.name for each in node.attr.values() if each.HasField("func")]
            functions += [called.name for each in node.attr.values() for called in each.list.func]
            for function in {node.op, *functions} & library.keys() - seen:
                seen.add(function)
                waiting.append(library[function].node_def)
