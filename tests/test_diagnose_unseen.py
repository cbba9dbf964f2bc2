"""Overfitting, or hold-out data that are unlike the clients' data: a model that half of the clients did not train."""

import math

import numpy as np
import pytest

from tasks.clients import TEST
from tasks.diagnose.evidence.unseen import Compared, compared, earliest_start, halves, together, unseen_losses
from tasks.diagnose.hold_out import MOST_REPLAYS, prove_hold_out_shift
from tasks.diagnose.replay.engine import replayer
from tasks.federate import federate
from tasks.local.probe import Probe, Spread


def losses(**by_label):
    """l0=(examples, mean loss), … -> the spread by label, with a variance of 4."""
    return {int(name[1:]): Spread(number, mean, 4.0) for name, (number, mean) in by_label.items()}


def test_labels_have_the_same_weight_on_all_sides():
    seen = together([losses(l0=(10, 0.1), l1=(30, 0.2)), losses(l0=(10, 0.3))])
    unseen = losses(l0=(5, 1.0), l1=(40, 2.0), l2=(9, 9.0))
    test = losses(l0=(100, 1.5), l1=(100, 2.5), l3=(100, 9.0))
    # Label 0 weighs 5 (of 20 and 5), label 1 weighs 30 (of 30 and 40). Labels 2 and 3 are on one side only.
    found = compared(seen, unseen, test)
    assert found.trained == pytest.approx((5 * 0.2 + 30 * 0.2) / 35)
    assert found.loss == pytest.approx((5 * 1.0 + 30 * 2.0) / 35)
    assert found.hold_out == pytest.approx((5 * 1.5 + 30 * 2.5) / 35)
    # The variance of a mean of n examples is 4 / n; independent means add up.
    label_0, label_1 = 4 / 5 + 4 / 100, 4 / 40 + 4 / 100
    assert found.error == pytest.approx(math.sqrt((5 / 35) ** 2 * label_0 + (30 / 35) ** 2 * label_1))
    assert compared(losses(l0=(9, 1.0)), losses(l1=(9, 1.0)), test) is None


def test_the_spread_of_two_groups_is_that_of_all_examples():
    first, second = np.array([1.0, 2.0, 6.0]), np.array([3.0, 5.0])
    both = np.concatenate([first, second])
    parts = [{7: Spread(len(part), part.mean(), part.var())} for part in (first, second)]
    assert together(parts)[7] == pytest.approx((5, both.mean(), both.var()))


@pytest.mark.parametrize(
    ("loss", "hold_out", "error", "unlike"),
    [
        (0.2, 2.0, 0.5, True),
        (1.1, 2.0, 0.1, False),  # more than half of the way from the training loss, 0.1, to the hold-out loss
        (0.2, 2.0, 1.0, False),  # 1.8 standard errors
        (0.4, 0.7, 0.01, False),  # not twice as high: merely harder
        (0.15, 0.31, 0.01, True),
    ],
)
def test_hold_out_data_are_unlike_if_they_are_far_beyond_unseen_clients_data(loss, hold_out, error, unlike):
    assert Compared(0.1, loss, hold_out, error).unlike(deviations=2.0) is unlike


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
    measured = Compared(trained, loss, hold_out, error=0.0)
    assert measured.share == pytest.approx(share, nan_ok=True)
    assert measured.overfits is overfits


@pytest.fixture(scope="module")
def learned(make_clients, settings_of, tmp_path_factory):
    """(change of the hold-out labels) -> a finished run of 4 clients, whose labels a linear model learns."""

    def run(change):
        settings = settings_of(
            {"federate.model": "logistic", "federate.rounds": 6, "federate.client.learning_rate": 0.5}
            | {"federate.client.batch_size": 10}
        )
        made = make_clients(sizes=(60,) * 4, num_classes=2, num_test=60)
        rule = np.random.default_rng(1).standard_normal(9)
        for site, (x, _) in made.data.items():
            centred = 4 * (x - 0.5)
            labels = centred.reshape(len(x), -1) @ rule > 0
            made.data[site] = centred, (change(labels) if site == TEST else labels).astype(np.int32)
        folder = made.write(tmp_path_factory.mktemp("learned"))
        federate(settings, folder)
        return settings, folder

    return run


@pytest.fixture(scope="module")
def foreign(learned):
    """A run whose hold-out labels are the other way round."""
    return learned(lambda labels: ~labels)


def test_clients_that_were_not_trained_on_are_like_the_others_and_unlike_a_foreign_hold_out(foreign, computations):
    settings, folder = foreign
    with replayer(settings, folder, computations) as replays:
        replays.go_to(4)
        left_out, others = halves(list(replays.cohort.clients))
        assert (left_out, others) == (("01", "03"), ("00", "02"))
        assert (earliest_start(replays, 6, most_rounds=6), earliest_start(replays, 6, most_rounds=0)) == (0, None)
        measured = unseen_losses(replays, Probe(replays.model), 0, 6, left_out)
        assert replays.spent == 6
    assert (measured.clients, measured.from_round, measured.last) == (left_out, 0, 6)
    assert measured.trained < measured.loss < 0.5 < measured.hold_out
    assert not measured.overfits
    assert measured.by_round[-1] == (measured.hold_out, measured.loss)
    assert len(measured.by_round) == 6


def test_hold_out_data_unlike_the_clients_are_proven_by_both_halves(foreign, computations):
    settings, folder = foreign
    with replayer(settings, folder, computations) as replays:
        replays.go_to(4)
        proof, first = prove_hold_out_shift(replays, Probe(replays.model), 0, 6)
        assert replays.spent <= MOST_REPLAYS * 6
    assert (proof.candidate.cause, proof.kind, proof.from_round) == ("hold_out_shift", "hold_out", 0)
    assert proof.effect.proven
    assert proof.effect.by_seed[0] == pytest.approx(1 - first.share)
    assert proof.without[-1] > 2 * proof.with_change[-1]
    assert [each.signal for each in proof.evidence] == ["hold_out_loss_beside_unseen_clients"] * 2
    assert proof.evidence[0].value == pytest.approx(first.hold_out)


@pytest.mark.slow
def test_honest_hold_out_data_are_not_called_unlike(learned, computations):
    settings, folder = learned(lambda labels: labels)
    with replayer(settings, folder, computations) as replays:
        replays.go_to(4)
        proof, first = prove_hold_out_shift(replays, Probe(replays.model), 0, 6)
    assert proof is None
    assert first.hold_out < 2 * first.loss
