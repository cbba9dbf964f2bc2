"""How a run ended and since when something was wrong, from its two logs."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tasks.diagnose.ended.ending import as_rise, find_ending
from tasks.diagnose.observe.observation import observe
from tasks.round_log.cells import Measurements
from tasks.round_log.read import ClientLog, RoundLog

CLIENTS = ("00", "01", "02")


def rounds_log(val: list[float], failure: str = "every client failed", first_train: float | None = 2.3) -> RoundLog:
    """Each round's val_loss; train_loss is known of the first round only, if at all."""
    train = np.full(len(val), np.nan)
    train[0] = math.nan if first_train is None else first_train
    columns = {
        "train_loss": Measurements(train, np.isfinite(train)),
        "val_loss": Measurements(np.array(val), np.ones(len(val), np.bool_)),
    }
    return RoundLog(np.arange(1, len(val) + 1), ("federate",) * len(val), columns, None, failure=failure)


def clients_log(num_rounds: int, failed: dict[int, tuple[str, ...]], finite: tuple[str, ...] = ()) -> ClientLog:
    """All clients in every round; `failed` by round. The clients in `finite` failed for another reason."""
    rows = [(t, client) for t in range(1, num_rounds + 1) for client in CLIENTS]
    fails = np.array([client in failed.get(t, ()) for t, client in rows])
    not_finite = fails & np.array([client not in finite for _, client in rows])
    return ClientLog(
        np.array([t for t, _ in rows]), tuple(client for _, client in rows), {"loss_before": np.ones(len(rows))}, fails,
        not_finite,
    )  # fmt: skip


def test_a_run_whose_last_round_had_an_update_did_not_end_early() -> None:
    assert find_ending(rounds_log([2.0, 1.5, 1.2], failure=""), clients_log(3, {2: ("01",)})) is None


def test_a_run_ended_if_every_client_of_the_last_round_failed_whoever_wrote_the_log() -> None:
    log = replace(rounds_log([2.0, 1.5, 1.2], failure=""), phases=("",) * 3)
    ending = find_ending(log, clients_log(3, {3: CLIENTS}))
    assert ending is not None
    assert (ending.round, ending.failure, ending.by_guard, ending.all_failed) == (3, "every client failed", False, True)


def test_the_guard_is_named_and_so_are_the_clients_that_failed() -> None:
    log = rounds_log([2.0, 1.5], failure="federate.guard: clients failed")
    ending = find_ending(log, clients_log(2, {2: ("01", "02")}, finite=("02",)))
    assert ending is not None
    assert (ending.by_guard, ending.failure, ending.all_failed) == (True, "clients failed", False)
    assert (ending.failed, ending.not_finite) == (("01", "02"), ("01",))


@pytest.mark.parametrize(("says", "by_rise"), [("val_loss has risen since round 2, from 1 to 2", True), ("x", False)])
def test_a_stop_for_a_rise_is_explained_as_a_rise(says: str, by_rise: bool) -> None:
    ending = find_ending(rounds_log([2.0, 3.5], failure=f"federate.guard: {says}"), clients_log(2, {}))
    assert ending is not None
    assert ending.by_rise == by_rise


@pytest.mark.parametrize(
    ("val", "sound", "since", "before"),
    [
        # 0.52 ≤ 1.1 · 0.5 is still sound, 0.6 is not, and 1.3 > 2 · 0.5 is the first sign.
        ([2.0, 0.5, 0.52, 0.6, 1.3, 40.0, 40.0], 3, 5, 0.52),
        # Nothing was wrong before the last round: the model after round 2 is sound.
        ([2.0, 0.5, 0.5], 2, 3, 0.5),
        # The model was never as good as at the start (2.3): 1e29 is a sign, and the start is the last sound model.
        ([1e29, 1e29], 0, 1, 2.3),
        ([math.nan, math.nan], 0, 1, 2.3),
        ([1e29], 0, 1, 2.3),  # the only round is that of the end
    ],
)
def test_replays_begin_at_the_last_model_as_good_as_ever(
    val: list[float], sound: int, since: int, before: float
) -> None:
    ending = find_ending(rounds_log(val), clients_log(len(val), {len(val): CLIENTS}))
    assert ending is not None
    assert (ending.sound_after, ending.since, ending.loss_before) == (sound, since, before)


def test_a_failure_is_a_sign_before_the_loss_is() -> None:
    ending = find_ending(rounds_log([2.0, 1.9, 2.2, 2.2, 2.2]), clients_log(5, {4: ("01",), 5: CLIENTS}))
    assert ending is not None
    assert (ending.sound_after, ending.since) == (2, 4)  # 2.2 > 1.1 · 1.9, and < 2 · 1.9


def test_the_rounds_up_to_the_end_stand_for_a_rise() -> None:
    log, clients = rounds_log([2.0, 1.5, 9.0, 9.0]), clients_log(4, {4: CLIENTS})
    ending = find_ending(log, clients)
    assert ending is not None
    rise = as_rise(observe(log, clients, 0.01), ending).rise
    assert (rise.kind, rise.detected, rise.round, rise.until, rise.clients) == ("ended", True, 3, 4, ())
    assert (rise.loss_before, rise.loss_after) == (1.5, None)
    some = replace(ending, failed=("01",))
    assert as_rise(observe(log, clients, 0.01), some).rise.clients == ("01",)
