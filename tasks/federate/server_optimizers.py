"""The server optimisers, which apply the combined update: TFF's SGD, and the adaptive ones as in their paper."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tasks.settings import ServerOptimizerSettings

Optimizer = Any
"""A `tff.learning.optimizers.Optimizer`: TFF has no types for mypy."""

State = OrderedDict[str, tf.Tensor]

SecondMoment = Callable[[tf.Tensor, tf.Tensor, float], tf.Tensor]
"""(v, Δ², β₂) -> the next v."""


def _adagrad(v: tf.Tensor, square: tf.Tensor, beta_2: float) -> tf.Tensor:
    del beta_2  # Adagrad forgets nothing.
    return v + square


def _adam(v: tf.Tensor, square: tf.Tensor, beta_2: float) -> tf.Tensor:
    return beta_2 * v + (1 - beta_2) * square


def _yogi(v: tf.Tensor, square: tf.Tensor, beta_2: float) -> tf.Tensor:
    return v - (1 - beta_2) * square * tf.sign(v - square)


class _Adaptive(tff.learning.optimizers.Optimizer):
    """FedAdagrad, FedAdam and FedYogi: Algorithm 2 of Reddi 2021 (arXiv 2003.00295).

    m ← β₁m + (1 − β₁)Δ; v by the rule; x ← x + ηm / (√v + τ). m begins at 0, v at τ². TFF's own optimisers are other
    algorithms than the paper's: its Adam and Yogi correct the bias of m and v, and its Adagrad adds τ under the root.
    """

    def __init__(self, settings: ServerOptimizerSettings, second_moment: SecondMoment, beta_1: float) -> None:
        self._settings, self._second_moment, self._beta_1 = settings, second_moment, beta_1

    def initialize(self, specs: tf.TensorSpec) -> State:
        tau = self._settings.epsilon
        return OrderedDict(
            m=tf.zeros(specs.shape, specs.dtype), v=tf.fill(specs.shape, tf.constant(tau**2, specs.dtype))
        )

    def next(self, state: State, weights: tf.Tensor, gradients: tf.Tensor) -> tuple[State, tf.Tensor]:
        m = self._beta_1 * state["m"] + (1 - self._beta_1) * gradients
        v = self._second_moment(state["v"], tf.square(gradients), self._settings.beta_2)
        step = self._settings.learning_rate * m / (tf.sqrt(v) + self._settings.epsilon)
        return OrderedDict(m=m, v=v), weights - step


SERVER_OPTIMIZERS: dict[str, Callable[[ServerOptimizerSettings], Optimizer]] = {
    "sgd": lambda s: tff.learning.optimizers.build_sgdm(s.learning_rate),
    "momentum": lambda s: tff.learning.optimizers.build_sgdm(s.learning_rate, s.momentum),
    # The paper runs FedAdagrad with β₁ = 0 throughout.
    "adagrad": lambda s: _Adaptive(s, _adagrad, beta_1=0.0),
    "adam": lambda s: _Adaptive(s, _adam, s.beta_1),
    "yogi": lambda s: _Adaptive(s, _yogi, s.beta_1),
}
