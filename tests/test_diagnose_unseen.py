"""Overfitting, or hold-out data that are unlike the clients' data: a model that half of the clients did not train."""

import math

import numpy as np
import pytest

from tasks.clients import TEST
from tasks.diagnose.evidence.unseen import Unseen, compared, unseen_losses
from tasks.diagnose.replay.engine import replayer
from tasks.federate import federate
from tasks.local.probe import Fit, Probe


def fit(**by_label):
    """l0=(examples, loss), … -> Fit."""
    labels = {int(name[1:]): (count, loss, 0.5) for name, (count, loss) in by_label.items()}
    return Fit(math.nan, math.nan, labels)


def test_labels_have_the_same_weight_on_all_sides():
    seen = {"00": fit(l0=(10, 0.1), l1=(30, 0.2)), "02": fit(l0=(10, 0.3))}
    unseen = {"01": fit(l0=(5, 1.0), l1=(40, 2.0), l2=(9, 9.0))}
    test = fit(l0=(100, 1.5), l1=(100, 2.5), l3=(100, 9.0))
    # Label 0 weighs 5 (of 20 and 5), label 1 weighs 30 (of 30 and 40). Labels 2 and 3 are on one side only.
    trained, other, held_out = compared(seen, unseen, test)
    assert trained == pytest.approx((5 * 0.2 + 30 * 0.2) / 35)
    assert other == pytest.approx((5 * 1.0 + 30 * 2.0) / 35)
    assert held_out == pytest.approx((5 * 1.5 + 30 * 2.5) / 35)
    assert compared({"00": fit(l0=(9, 1.0))}, {"01": fit(l1=(9, 1.0))}, test) is None


@pytest.mark.parametrize(
    ("trained", "loss", "hold_out", "share", "overfits"),
    [
        (0.1, 1.1, 2.1, 0.5, True),
        (0.1, 1.0, 2.1, 0.45, False),
        (0.1, 2.3, 2.1, 1.1, True),
        (0.1, 0.1, 2.1, 0.0, False),
        (0.5, 0.9, 0.4, math.nan, False),  # the hold-out loss is not above the training loss
    ],
)
def test_overfitting_is_a_high_loss_on_unseen_data_wherever_they_come_from(trained, loss, hold_out, share, overfits):
    measured = Unseen(("01",), 0, 20, trained, loss, hold_out)
    assert measured.share == pytest.approx(share, nan_ok=True)
    assert measured.overfits is overfits


@pytest.fixture(scope="module")
def foreign(make_clients, settings_of, tmp_path_factory):
    """A run on labels that a linear model learns; the hold-out labels are the other way round."""
    settings = settings_of(
        {"federate.model": "logistic", "federate.rounds": 6, "federate.client.learning_rate": 0.5}
        | {"federate.client.batch_size": 10}
    )
    made = make_clients(sizes=(60,) * 4, num_classes=2, num_test=60)
    rule = np.random.default_rng(1).standard_normal(9)
    for site, (x, _) in made.data.items():
        centred = 4 * (x - 0.5)
        labels = centred.reshape(len(x), -1) @ rule > 0
        made.data[site] = centred, (~labels if site == TEST else labels).astype(np.int32)
    folder = made.write(tmp_path_factory.mktemp("foreign"))
    federate(settings, folder)
    return settings, folder


def test_clients_that_were_not_trained_on_are_like_the_others_and_unlike_a_foreign_hold_out(foreign, computations):
    settings, folder = foreign
    with replayer(settings, folder, computations) as replays:
        replays.go_to(4)
        measured = unseen_losses(replays, Probe(replays.model), last=6, most_rounds=6)
        assert replays.spent == 6
        assert unseen_losses(replays, Probe(replays.model), last=6, most_rounds=0) is None
    assert (measured.clients, measured.from_round, measured.last) == (("01", "03"), 0, 6)
    assert measured.trained < measured.loss < 0.5 < measured.hold_out
    assert not measured.overfits
