"""The signals of the clients' local models, compared with closed forms and a slow reference."""

import numpy as np
import pytest

P = 4  # two features to two classes, without a bias


@pytest.fixture(scope="module")
def probe():
    import tensorflow as tf

    from tasks.local.probe import Probe

    return Probe(tf.keras.Sequential([tf.keras.layers.Dense(2, use_bias=False, input_shape=(2,))]))


def measured(probe, params, updates, weights=None, steps=None, test=None):
    from tasks.diagnose.evidence.local_models import local_models, sent_model

    names, at = list(updates), np.asarray(params, np.float32)
    one = (np.eye(2, dtype=np.float32), np.array([0, 1], np.int32))
    return local_models(
        probe,
        at,
        {client: np.asarray(update, np.float32) for client, update in updates.items()},
        weights or dict.fromkeys(names, 1.0),
        steps or dict.fromkeys(names, 1),
        dict.fromkeys(names, probe.fit(at, one)),
        {client: probe.fit(sent_model(at, np.asarray(updates[client], np.float32)), one).loss for client in names},
        test or one,
    )


def test_cosines_are_those_of_the_slow_reference(probe):
    rng = np.random.default_rng(0)
    updates = {f"{k}": rng.standard_normal(P) for k in range(5)}
    weights = {client: float(rng.uniform(1, 3)) for client in updates}
    found = measured(probe, np.ones(P), updates, weights)

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    for client, update in updates.items():
        others = [name for name in updates if name != client]
        pairwise = np.mean([cosine(update, updates[name]) for name in others])
        together = np.sum([weights[name] * updates[name] for name in others], axis=0)
        assert found[client].pairwise_cosine == pytest.approx(pairwise, abs=1e-5)
        assert found[client].leave_one_out_cosine == pytest.approx(cosine(update, together), abs=1e-5)


def test_client_that_owns_the_mean_does_not_own_the_others(probe):
    # Two honest clients send e1, the third sends -10 e1. The mean is -8/3 e1, so the third client agrees with it. The
    # sum of the other updates is 2 e1 for the third client, and -9 e1 for an honest one.
    e1 = np.eye(P)[0]
    found = measured(probe, np.ones(P), {"a": e1, "b": e1, "c": -10 * e1})
    assert [found[client].leave_one_out_cosine for client in "abc"] == pytest.approx([-1, -1, -1])
    assert [found[client].pairwise_cosine for client in "abc"] == pytest.approx([0, 0, -1])


def test_weights_of_plain_averaging_are_fednovas(probe):
    # p = 1/4, 3/4; steps 6 and 1: p τ = 1.5 and 0.75, shares 2/3 and 1/3.
    found = measured(probe, np.ones(P), {"a": np.eye(P)[0], "b": np.eye(P)[1]}, {"a": 1.0, "b": 3.0}, {"a": 6, "b": 1})
    assert [found[client].intended_weight for client in "ab"] == pytest.approx([1 / 4, 3 / 4])
    assert [found[client].effective_weight for client in "ab"] == pytest.approx([2 / 3, 1 / 3])


def test_losses_recalls_and_growth_are_those_of_the_model_that_the_client_sends(probe):
    # x = 0 gives both classes the logit 0, so the loss is ln 2. The kernel (2, 2) after the update is ((a, 0), (0, a)),
    # so the right class has the logit a, the other 0, and the loss is ln(1 + e^-a). In a test with both examples of
    # class 0, one is right: the recall is 1/2.
    a = 3.0
    test = np.eye(2, dtype=np.float32), np.array([0, 0], np.int32)
    (one,) = measured(probe, np.zeros(P), {"a": [a, 0, 0, a]}, test=test).values()
    assert one.loss_before == pytest.approx(np.log(2))
    assert one.loss_after == pytest.approx(np.log1p(np.exp(-a)), rel=1e-5)
    assert one.val_loss == pytest.approx((np.log1p(np.exp(-a)) + np.log1p(np.exp(a))) / 2, rel=1e-5)
    assert one.recalls == {0: 0.5}
    assert np.isnan(one.growth)  # x has the length 0
    assert np.isnan(one.pairwise_cosine)
    assert np.isnan(one.leave_one_out_cosine)  # no other client
    # The length grows from 2 to sqrt(1 + 1 + 1 + 16).
    (grown,) = measured(probe, np.ones(P), {"a": [0, 0, 0, 3]}).values()
    assert grown.growth == pytest.approx(np.sqrt(19) / 2)


def test_no_update_gives_nothing(probe):
    assert measured(probe, np.ones(P), {}) == {}
