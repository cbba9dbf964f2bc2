"""Which loss rose, and the fields of the rise."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tasks.detection import find_increase
from tasks.diagnose.observe.own_losses import ClientRise, client_rises
from tasks.diagnose.observe.own_rises import increase_of
from tasks.diagnose.observe.rise import Rise, find_rise
from tasks.round_log.cells import Measurements
from tasks.round_log.read import ClientLog, RoundLog


def test_two_losses_that_rise_at_once_need_less_each() -> None:
    rounds, rng = np.arange(1, 31), np.random.default_rng(5)
    noise = {name: np.exp(0.1 * rng.standard_normal(30)) for name in ("val_loss", "train_loss")}
    share = {"val_loss": 0.3, "train_loss": 0.2}
    # Each loss has a step in round 18 that is a rise at half of the significance, but not at the loss's own share.
    unsure = {}
    for name, flat in noise.items():
        steps = [np.where(rounds >= 18, height, 1.0) * flat for height in np.arange(1.1, 3, 0.01)]
        unsure[name] = next(
            step
            for step in steps
            if find_increase(rounds, step, 0.005).detected
            and not find_increase(rounds, step, 0.01 * share[name]).detected
        )

    def rise_of(**losses: np.ndarray) -> Rise:
        given = np.ones(30, dtype=np.bool_)
        columns = {name: Measurements(values, given) for name, values in {**noise, **losses}.items()}
        none = np.zeros(1, dtype=np.bool_)
        clients = ClientLog(np.array([1]), ("00",), {"update_norm": np.ones(1)}, none, none)
        return find_rise(RoundLog(rounds, ("federate",) * 30, columns, None), clients, 0.01)

    for name, step in unsure.items():
        assert not rise_of(**{name: step}).detected
    both = rise_of(**unsure)
    assert both.detected
    assert (both.loss, both.round) == ("val_loss", 18)
    # No rise if the second step is over before the first begins.
    early = np.where(rounds <= 5, 3.0, 1.0) * noise["train_loss"]
    assert not rise_of(val_loss=unsure["val_loss"], train_loss=early).detected


def few_rise(seed: int = 0) -> ClientLog:
    """A log of 8 clients, 30 rounds and 10 % noise; from round 16 on, client 03 has 20 times its loss."""
    rng = np.random.default_rng(seed)
    rows = [(t, f"{k:02}") for t in range(1, 31) for k in range(8)]
    losses = np.array([20.0 if client == "03" and t >= 16 else 1.0 for t, client in rows])
    losses *= np.exp(0.1 * rng.standard_normal(len(rows)))
    none = np.zeros(len(rows), dtype=np.bool_)
    rounds, clients = np.array([t for t, _ in rows]), tuple(client for _, client in rows)
    return ClientLog(rounds, clients, {"loss_before": losses}, none, none)


def log_of(**losses: np.ndarray) -> RoundLog:
    given = np.ones(30, dtype=np.bool_)
    columns = {name: Measurements(values, given) for name, values in losses.items()}
    return RoundLog(np.arange(1, 31), ("federate",) * 30, columns, None)


def test_a_rise_of_few_clients_has_their_levels_and_half_of_the_significance() -> None:
    clients, flat = few_rise(), np.exp(0.1 * np.random.default_rng(1).standard_normal(30))
    rise = find_rise(log_of(val_loss=flat), clients, 0.01)
    assert (rise.clients, rise.round, rise.until, rise.loss) == (("03",), 16, 30, "val_loss")
    own = clients.signals["loss_before"][clients.of("03")]
    assert rise.loss_before == pytest.approx(own[11:15].mean())  # of rounds 12 to 15
    assert rise.loss_after == pytest.approx(own[15:].mean())
    (alone,) = client_rises(clients.ids, clients.codes, clients.rounds, clients.signals["loss_before"], 0.005)
    assert 1 - rise.confidence == pytest.approx(2 * (1 - alone.confidence))


@pytest.mark.parametrize(("broken", "loss", "first"), [(10, "train_loss", 10), (25, "val_loss", 19)])
def test_a_value_that_is_not_finite_is_explained_if_it_came_first(broken: int, loss: str, first: int) -> None:
    rounds, rng = np.arange(1, 31), np.random.default_rng(2)
    val = np.where(rounds >= 19, 3.0, 1.0) * np.exp(0.05 * rng.standard_normal(30))
    train = np.where(rounds == broken, np.inf, np.exp(0.05 * rng.standard_normal(30)))
    none = np.zeros(1, dtype=np.bool_)
    clients = ClientLog(np.array([1]), ("00",), {"update_norm": np.ones(1)}, none, none)
    rise = find_rise(log_of(val_loss=val, train_loss=train), clients, 0.01)
    assert (rise.loss, rise.round) == (loss, first)


FLAT = np.exp(0.05 * np.random.default_rng(2).standard_normal(30))
NONE = np.zeros(1, dtype=np.bool_)
SILENT = ClientLog(np.array([1]), ("00",), {"update_norm": np.ones(1)}, NONE, NONE)


def test_a_rise_known_from_elsewhere_is_as_sure_as_it_was_and_of_train_loss() -> None:
    # The known rise has all of the significance, so its confidence stays. train_loss consists of the clients' losses.
    rounds = np.arange(1, 31)
    noise = np.exp(0.2 * np.random.default_rng(3).standard_normal(30))
    clients = one_client(np.where((rounds >= 16) & (rounds <= 20), 1.3, 1.0) * noise)
    known = [ClientRise("00", 16, 20, 17, 0.9)]
    assert not find_rise(log_of(val_loss=FLAT, train_loss=FLAT), clients, 0.01).detected
    rise = find_rise(log_of(val_loss=FLAT, train_loss=FLAT), clients, 0.01, known)
    assert (rise.loss, rise.clients, rise.confidence) == ("train_loss", ("00",), pytest.approx(0.9))
    assert find_rise(log_of(val_loss=FLAT), clients, 0.01, known).loss == "val_loss"
    # A report that says "rose from 0.07 to 0.05" would contradict itself.
    assert not find_rise(log_of(val_loss=FLAT), one_client(1 / rounds), 0.01, known).detected


def test_losses_of_a_rise_of_clients_are_those_around_the_rise_of_each() -> None:
    # Client 00 is at 1 and rises to 5 in rounds 11 to 14; client 01 is at 2 and rises to 4 in rounds 21 to 30.
    rounds = np.repeat(np.arange(1, 31), 2)
    first, second = np.where((rounds > 10) & (rounds < 15), 5.0, 1.0), np.where(rounds > 20, 4.0, 2.0)
    none = np.zeros(60, dtype=np.bool_)
    losses = np.where(np.arange(60) % 2 == 0, first, second)
    clients = ClientLog(rounds, ("00", "01") * 30, {"loss_before": losses}, none, none)
    known = [ClientRise("00", 11, 14, 11, 0.9), ClientRise("01", 21, 30, 21, 0.9)]
    rise = increase_of(known, clients, 1.0)
    assert (rise.round, rise.until) == (11, 30)
    # Each client counts once, however long its rise is.
    assert (rise.loss_before, rise.loss_after) == ((1 + 2) / 2, (5 + 4) / 2)


def one_client(losses: np.ndarray) -> ClientLog:
    none = np.zeros(30, dtype=np.bool_)
    return ClientLog(np.arange(1, 31), ("00",) * 30, {"loss_before": losses}, none, none)


@pytest.mark.parametrize(
    ("sparsity", "rising"),
    [
        ([0.1] * 15 + [0.2] * 3 + [0.5] * 3 + [0.8] * 2 + [0.7] * 2 + [0.9] * 5, (0.2, 0.8)),
        ([0.1] * 18 + [0.1] * 12, None),  # it stayed
        ([0.3] * 18 + [0.1] * 12, None),  # it fell
        ([0.1] * 15 + [0.4] * 3 + [0.3] * 12, None),  # it fell in the end
        ([0.1] * 25 + [0.3] * 5, None),  # it rose after the rise of the loss
        ([np.nan] * 18 + [0.5] * 12, None),  # not known before the rise
        ([0.1] * 18 + [np.nan] * 12, None),  # not known during the rise
    ],
)
def test_sparsity_of_a_rise_is_that_before_it_and_its_highest(
    sparsity: Sequence[float], rising: tuple[float, float] | None
) -> None:
    # The loss is 3 times as high in rounds 19 to 25.
    column = Measurements(np.array(sparsity), np.isfinite(sparsity))
    rounds = np.arange(1, 31)
    losses = np.where((rounds >= 19) & (rounds <= 25), 3, 1) * FLAT
    rise = find_rise(replace(log_of(val_loss=losses), sparsity=column), SILENT, 0.01)
    assert (rise.round, rise.until, rise.sparsity) == (19, 25, rising)


def test_sparsity_is_none_without_a_rise() -> None:
    column = Measurements(np.linspace(0, 0.9, 30), np.ones(30, dtype=np.bool_))
    rise = find_rise(replace(log_of(val_loss=FLAT), sparsity=column), SILENT, 0.01)
    assert (rise.detected, rise.sparsity) == (False, None)


@pytest.mark.parametrize(("onset", "loss", "val_loss_round"), [(10, "train_loss", 19), (18, "val_loss", None)])
def test_a_rise_of_train_loss_tells_from_which_round_val_loss_rose_too(
    onset: int, loss: str, val_loss_round: int | None
) -> None:
    # val_loss rises in round 19; train_loss is explained only if it rose more than 2 rounds earlier.
    rounds = np.arange(1, 31)
    log = log_of(val_loss=np.where(rounds >= 19, 3, 1) * FLAT, train_loss=np.where(rounds >= onset, 3, 1) * FLAT[::-1])
    rise = find_rise(log, SILENT, 0.01)
    assert (rise.loss, rise.val_loss_round) == (loss, val_loss_round)
    assert rise.round == (onset if loss == "train_loss" else 19)


@pytest.mark.parametrize(("first", "before"), [(5, 0.25), (1, None)])
def test_failures_are_a_rise_where_the_loss_of_all_stayed(first: int, before: float | None) -> None:
    # The loss of round t is 1 / t: 1/4 in round 4, the last round before the first failure in round 5.
    losses = 1 / np.arange(1, 31)
    rows = [(t, client) for t in range(1, 31) for client in ("00", "01", "02")]
    failed = np.array([row in {(first, "02"), (9, "00"), (7, "02")} for row in rows])
    log = ClientLog(np.array([t for t, _ in rows]), tuple(c for _, c in rows), {}, failed, failed)
    rise = find_rise(log_of(val_loss=losses), log, 0.01)
    assert (rise.kind, rise.round, rise.until, rise.alarm) == ("not_finite", first, 9, first)
    assert (rise.clients, rise.loss, rise.confidence) == (("00", "02"), "val_loss", 1.0)
    assert (rise.loss_before, rise.loss_after) == (before, None)
    # Failures for other reasons are no rise.
    assert not find_rise(log_of(val_loss=losses), replace(log, not_finite=failed & False), 0.01).detected
