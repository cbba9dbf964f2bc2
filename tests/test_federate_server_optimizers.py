from typing import get_args

import numpy as np
import pytest
import tensorflow as tf

from tasks.federate.server_optimizers import SERVER_OPTIMIZERS
from tasks.settings import ServerOptimizerSettings

KINDS = get_args(ServerOptimizerSettings.model_fields["kind"].annotation)


def run(settings, params, updates):
    """The parameters after each of the `updates` (T, P), by our optimisers."""
    optimizer = SERVER_OPTIMIZERS[settings.kind](settings)
    weights = tf.constant(params, tf.float32)
    state = optimizer.initialize(tf.TensorSpec(weights.shape, tf.float32))
    trace = []
    for update in updates:
        # As in round.py: an optimiser steps against a gradient, so it gets the negative update.
        state, weights = optimizer.next(state, weights, -tf.constant(update, tf.float32))
        trace.append(weights.numpy())
    return np.array(trace)


def reddi_algorithm_2(settings, params, updates):
    """FedOpt (Reddi 2021, Algorithm 2), one parameter after the other; FedAdagrad has β₁ = 0."""
    eta, tau, beta_2 = settings.learning_rate, settings.epsilon, settings.beta_2
    beta_1 = 0.0 if settings.kind == "adagrad" else settings.beta_1
    trace = np.zeros((len(updates), len(params)))
    for i in range(len(params)):
        x, m, v = float(params[i]), 0.0, tau**2
        for t in range(len(updates)):
            delta = float(updates[t][i])
            m = beta_1 * m + (1 - beta_1) * delta
            if settings.kind == "adagrad":
                v = v + delta**2
            elif settings.kind == "yogi":
                v = v - (1 - beta_2) * delta**2 * np.sign(v - delta**2)
            else:
                v = beta_2 * v + (1 - beta_2) * delta**2
            x = x + eta * m / (np.sqrt(v) + tau)
            trace[t, i] = x
    return trace


@pytest.fixture(scope="module")
def updates():
    # From far below to far above τ. Some values give v − Δ² > 0, others < 0 (Yogi).
    return np.random.default_rng(0).normal(size=(6, 8)) * np.logspace(-4, 1, 8)


PARAMS = np.linspace(-1, 1, 8)


def test_registry_has_the_kinds_of_the_settings():
    assert set(SERVER_OPTIMIZERS) == set(KINDS)


@pytest.mark.parametrize("kind", ["adagrad", "adam", "yogi"])
@pytest.mark.parametrize("options", [{}, {"learning_rate": 0.03, "epsilon": 0.05}], ids=["defaults", "others"])
def test_adaptive_optimizers_are_algorithm_2_of_reddi(kind, options, updates):
    settings = ServerOptimizerSettings(kind=kind, **options)
    np.testing.assert_allclose(
        run(settings, PARAMS, updates), reddi_algorithm_2(settings, PARAMS, updates), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["adam", "yogi"])
def test_betas_of_adaptive_optimizers(kind, updates):
    settings = ServerOptimizerSettings(kind=kind, beta_1=0.3, beta_2=0.6)
    np.testing.assert_allclose(
        run(settings, PARAMS, updates), reddi_algorithm_2(settings, PARAMS, updates), rtol=1e-5, atol=1e-5
    )


def test_first_step_of_adagrad_in_closed_form():
    # v = τ² + Δ² = 0.09 + 0.16 = 0.5²: x = 1 + 2 · 0.4 / (0.5 + 0.3) = 2
    settings = ServerOptimizerSettings(kind="adagrad", learning_rate=2.0, epsilon=0.3)
    np.testing.assert_allclose(run(settings, [1.0], [[0.4]]), [[2.0]], rtol=1e-6)


def test_sgd_of_rate_one_is_fedavg(updates):
    expected = PARAMS + np.cumsum(updates, axis=0)
    np.testing.assert_allclose(run(ServerOptimizerSettings(), PARAMS, updates), expected, rtol=1e-5, atol=1e-5)


def test_sgd_scales_the_update(updates):
    expected = PARAMS + 0.25 * np.cumsum(updates, axis=0)
    found = run(ServerOptimizerSettings(learning_rate=0.25), PARAMS, updates)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beta", [0.9, 0.5])
def test_momentum_is_fedavgm(beta, updates):
    # Hsu 2019: v ← βv + Δ, w ← w + ηv
    settings = ServerOptimizerSettings(kind="momentum", momentum=beta, learning_rate=0.7)
    w, v, expected = PARAMS.copy(), np.zeros(8), []
    for update in updates:
        v = beta * v + update
        w = w + 0.7 * v
        expected.append(w)
    np.testing.assert_allclose(run(settings, PARAMS, updates), expected, rtol=1e-5, atol=1e-5)


def test_momentum_zero_is_sgd(updates):
    still = run(ServerOptimizerSettings(kind="momentum", momentum=0.0), PARAMS, updates)
    np.testing.assert_array_equal(still, run(ServerOptimizerSettings(), PARAMS, updates))


@pytest.mark.parametrize("kind", KINDS)
def test_no_update_leaves_the_first_model_where_it_is(kind):
    found = run(ServerOptimizerSettings(kind=kind), PARAMS, np.zeros((2, 8)))
    np.testing.assert_array_equal(found, np.float32([PARAMS, PARAMS]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_goes_the_way_of_the_update(kind):
    # One sign everywhere: update = local − global.
    (after,) = run(ServerOptimizerSettings(kind=kind), np.zeros(2), [[0.5, -0.5]])
    assert after[0] > 0 > after[1]
