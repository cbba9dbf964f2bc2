"""The variants that round_speed.py compares with our rounds: they begin with given parameters and run single rounds."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from numpy.typing import NDArray
from tensorflow.keras import Model, Sequential, layers

from tasks.clients import read_client
from tasks.federate import schedule
from tasks.federate.aggregators import aggregator
from tasks.federate.client_updates import CLIENT_UPDATES
from tasks.federate.cohort import Cohort
from tasks.federate.round import build_round
from tasks.federate.server_optimizers import SERVER_OPTIMIZERS
from tasks.local.architecture import whole
from tasks.local.descent import LocalTraining
from tasks.local.own_examples import own_examples
from tasks.models import num_params
from tasks.settings import Settings

BATCH, LEARNING_RATE = 20, 0.05


def emnist_cnn(input_shape: tuple[int, ...], num_classes: int) -> Model:
    """The CNN of FedJAX's and TFF's EMNIST examples (1.2 M parameters), without its dropout."""
    return Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(32, 3, activation="relu", name="conv_1"),
            layers.Conv2D(64, 3, activation="relu", name="conv_2"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, activation="relu", name="hidden"),
            layers.Dense(num_classes, name="logits"),
        ]
    )


class Variant(Protocol):
    """A way to run rounds."""

    def start(self, params: list[NDArray[np.float32]]) -> None:
        """Sets the global model."""

    def round(self, round_num: int) -> None:
        """Runs one round; they count from 1."""

    @property
    def params(self) -> NDArray[np.float32]:
        """The global model (P,)."""


class Unrecorded:
    """The product's computations, called only for the next state."""

    def __init__(self, settings: Settings, cohort: Cohort, model: Model, context: Any) -> None:
        self._seed, self._clients, self._context = settings.seed, sorted(cohort.clients.items()), context
        federate = settings.federate
        algorithm = CLIENT_UPDATES[federate.client.kind](federate.client)
        self._computations = build_round(
            [whole(federate.model, model)],
            LocalTraining(cohort.input_shape, cohort.num_classes, num_params(model), BATCH, algorithm),
            aggregator(federate.aggregator, len(self._clients)),
            SERVER_OPTIMIZERS[federate.server_optimizer.kind](federate.server_optimizer),
            masked=False,
        )

    def start(self, params: list[NDArray[np.float32]]) -> None:
        with _installed(self._context):
            self._state = self._computations.initialize(flat(params))

    def round(self, round_num: int) -> None:
        inputs = [
            OrderedDict(
                zip("xy", own_examples(client.stored), strict=True),
                num_examples=np.int32(client.num_examples),
                order=visits(self._seed, round_num, name, client.num_examples),
                weight=np.float32(client.weight),
                share=np.float32(client.share),
                learning_rate=np.float32(LEARNING_RATE),
                seed=schedule.draw_seed(self._seed, round_num, name),
                brightness=client.brightness,
                architecture=np.int32(0),
            )
            for name, client in self._clients
        ]
        with _installed(self._context):
            self._state, _ = self._computations.next(self._state, inputs, lambda place, result: None)

    @property
    def params(self) -> NDArray[np.float32]:
        return self._state.params


class HandWritten:
    """A loop as one writes it without TFF."""

    def __init__(self, settings: Settings, cohort: Cohort, model: Model) -> None:
        self._model, self._seed = tf.keras.models.clone_model(model), settings.seed
        self._data = {c: tuple(map(tf.constant, read_client(i.stored))) for c, i in cohort.clients.items()}
        self._step = self._build_step()
        self.num_steps = 0

    def _build_step(self) -> Callable[..., None]:
        model, variables = self._model, self._model.trainable_weights

        @tf.function(reduce_retracing=True)
        def step(x: tf.Tensor, y: tf.Tensor, visits: tf.Tensor) -> None:
            with tf.GradientTape() as tape:
                logits = model(tf.gather(x, visits), training=True)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.gather(y, visits), logits)
                loss = tf.reduce_mean(losses)
            for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
                variable.assign_sub(LEARNING_RATE * gradient)

        return step  # type: ignore[no-any-return]

    def start(self, params: list[NDArray[np.float32]]) -> None:
        self._global = params

    def round(self, round_num: int) -> None:
        variables, start = self._model.trainable_weights, [tf.constant(w) for w in self._global]
        total, num_examples, self.num_steps = [np.zeros_like(w) for w in self._global], 0, 0
        for client, (x, y) in self._data.items():
            for variable, value in zip(variables, start, strict=True):
                variable.assign(value)
            order = visits(self._seed, round_num, client, len(y))
            for begin in range(0, len(order), BATCH):
                self._step(x, y, order[begin : begin + BATCH])
                self.num_steps += 1
            for sum_, variable in zip(total, variables, strict=True):
                sum_ += len(y) * variable.numpy()
            num_examples += len(y)
        self._global = [sum_ / np.float32(num_examples) for sum_ in total]

    @property
    def params(self) -> NDArray[np.float32]:
        return flat(self._global)


class Stock:
    """TFF's federated averaging in TFF's own runtime."""

    def __init__(self, settings: Settings, cohort: Cohort, model: Model, context: Any) -> None:
        self._context = context
        data = {c: read_client(i.stored) for c, i in cohort.clients.items()}
        orders = {c: visits(settings.seed, 1, c, len(y)) for c, (_, y) in data.items()}
        self._in_our_order = [_batches(x[orders[c]], y[orders[c]]) for c, (x, y) in data.items()]
        self._shuffled = [_batches(x, y, shuffle=True) for x, y in data.values()]
        with _installed(context):
            self._process = tff.learning.algorithms.build_weighted_fed_avg(
                tff.learning.models.functional_model_from_keras(
                    model,
                    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                    self._shuffled[0].element_spec,
                ),
                tff.learning.optimizers.build_sgdm(LEARNING_RATE),
            )
        # TFF traced the model in a graph. Without this clone, Keras then refuses the models that were made before.
        tf.keras.models.clone_model(model)

    def start(self, params: list[NDArray[np.float32]]) -> None:
        weights = tff.learning.models.ModelWeights(tuple(params), ())
        with _installed(self._context):
            self._state = self._process.set_model_weights(self._process.initialize(), weights)

    def round(self, round_num: int) -> None:
        with _installed(self._context):
            self._state = self._process.next(
                self._state, self._in_our_order if round_num == 1 else self._shuffled
            ).state

    @property
    def params(self) -> NDArray[np.float32]:
        with _installed(self._context):
            return flat(self._process.get_model_weights(self._state).trainable)


def _installed(context: Any) -> Any:
    return tff.framework.get_context_stack().install(context)


def flat(params: Any) -> NDArray[np.float32]:
    return np.concatenate([np.ravel(w) for w in params])


def visits(seed: int, round_num: int, client: str, num_examples: int) -> NDArray[np.int32]:
    """Returns the order in which our client visits its examples."""
    return schedule.visits(num_examples, 1, schedule.client_rng(seed, round_num, client))


def _batches(x: NDArray[np.float32], y: NDArray[np.int32], shuffle: bool = False) -> tf.data.Dataset:
    examples = tf.data.Dataset.from_tensor_slices((x, y))
    return (examples.shuffle(len(y)) if shuffle else examples).batch(BATCH)
