"""Layers of zeros that no training can move, and layers of zeros that train."""

import numpy as np
import pytest
from tensorflow.keras import Sequential, layers

from tasks.diagnose.evidence.dead_layers import dead_layers


def dense(units, activation=None, zero=False, **more):
    return layers.Dense(units, activation, kernel_initializer="zeros" if zero else "glorot_uniform", **more)


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    return rng.standard_normal((40, 6)).astype(np.float32), rng.integers(0, 3, 40).astype(np.int32)


def dead(examples, *parts):
    model = Sequential([layers.Input((6,)), *parts])
    places = {layer.name: number for number, layer in enumerate(model.layers, start=1)}
    return [places[name] for name in dead_layers(model, examples, 0)]


def test_zeros_in_every_layer_are_dead(examples):
    assert dead(examples, dense(8, "relu", zero=True), dense(3, zero=True)) == [1, 2]
    assert dead(examples, dense(8, "tanh", zero=True), dense(3, zero=True)) == [1, 2]


def test_a_hidden_layer_of_zeros_with_the_rectifier_is_dead_and_the_others_are_not_named(examples):
    """Its outputs are 0, where the rectifier's derivative is 0; the layers around it have weights."""
    assert dead(examples, dense(8, "relu"), dense(8, "relu", zero=True), dense(3)) == [2]


def test_a_last_layer_of_zeros_trains(examples):
    """Its gradient is h (p - y), and h is not 0. The layer before it has no gradient at first, and weights."""
    assert dead(examples, dense(8, "relu"), dense(3, zero=True)) == []


def test_one_layer_of_zeros_trains(examples):
    assert dead(examples, dense(3, zero=True)) == []


def test_a_hidden_layer_of_zeros_with_the_hyperbolic_tangent_trains(examples):
    """The derivative of tanh at 0 is 1."""
    assert dead(examples, dense(8, "tanh", zero=True), dense(3)) == []


def test_a_layer_that_gets_its_gradient_only_after_another_one_has_moved_trains(examples):
    """The first layer has no gradient while the second one is zero, and the second one moves by the first's bias."""
    first = dense(8, "tanh", zero=True, bias_initializer="ones")
    assert dead(examples, first, dense(3, zero=True)) == []


def test_zero_biases_are_no_dead_layer(examples):
    assert dead(examples, dense(8, "relu", bias_initializer="zeros"), dense(3, bias_initializer="zeros")) == []
