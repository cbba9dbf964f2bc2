"""A remedy at the end of the run, with scripted losses: what it is compared with, where it starts, what it costs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scripted_replays import FIRST, LAST, LEVEL, RISEN, START, ScriptedReplayer, confirmation, loss_of

from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.settings import parse
from tests.diagnosis_values import client_log

SLOWER = Change("slower", {"federate.client.learning_rate": 0.01})
WITHOUT = Change("without 03", {"federate.exclude": ["03"]})


def test_chance_is_the_entropy_of_the_hold_out_labels() -> None:
    to_the_end = confirmation(ScriptedReplayer(cohort=SimpleNamespace(test_y=np.array([0, 0, 0, 1]))))
    assert to_the_end.chance == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    # A label that nothing has does not count, and no model is better than one that knows the only label.
    assert confirmation(ScriptedReplayer(cohort=SimpleNamespace(test_y=np.array([2, 2])))).chance == np.inf


def test_the_log_is_what_a_remedy_is_compared_with() -> None:
    replays = ScriptedReplayer({"slower": 0.8})
    to_the_end = confirmation(replays)
    ending = to_the_end.from_round_one(SLOWER)
    assert ending is not None
    assert replays.ran_from_start == ["slower"]
    assert to_the_end.spent == 30
    assert (ending.hold_out, ending.unchanged) == (pytest.approx(loss_of(0.8)), pytest.approx(RISEN))
    assert ending.by_seed == pytest.approx([-0.8 * np.log(RISEN / LEVEL)])
    assert ending.recovers == pytest.approx(0.8)
    assert (ending.holds, ending.recovered) == (True, False)


def test_a_run_that_has_no_loss_at_its_end_is_replayed_with_nothing_changed_once() -> None:
    replays = ScriptedReplayer({"slower": 0.8})
    to_the_end = confirmation(replays)
    logged = {at: loss for at, loss in to_the_end.incident.hold_out.items() if at <= LAST}
    to_the_end.incident = replace(to_the_end.incident, hold_out=logged)
    for _ in range(2):
        ending = to_the_end.from_round_one(SLOWER)
    assert replays.ran_from_start == ["slower", NO_CHANGE.says, "slower"]
    assert to_the_end.spent == 90
    assert ending is not None
    assert (ending.unchanged, ending.logged) == (pytest.approx(RISEN), False)


@pytest.mark.parametrize(("allowed", "affordable"), [(30, True), (29, False)])
def test_it_starts_from_round_1_if_the_rounds_are_enough(allowed: int, affordable: bool) -> None:
    to_the_end = confirmation(ScriptedReplayer({"slower": 0.8}), allowed)
    ending = to_the_end.from_round_one(SLOWER)
    assert (ending is not None) is affordable
    assert to_the_end.spent == 30 * affordable


@pytest.mark.parametrize(("allowed", "affordable"), [(15, True), (14, False)])
def test_a_short_replay_is_run_on_to_the_end(allowed: int, affordable: bool) -> None:
    replays = ScriptedReplayer({"slower": 0.8}, late={"slower": 0.5})
    to_the_end = confirmation(replays, allowed)
    short = replays.begin(SLOWER, 0)
    replays.advance(short, LAST)
    ending = to_the_end.run_on(short)
    assert (ending is not None) is affordable
    # Rounds 16 to 19 of the short replay are not run again.
    assert to_the_end.spent == (30 - START if affordable else LAST - START)
    if ending:
        assert (ending.from_round, ending.last) == (START, 30)
        assert ending.hold_out == pytest.approx(loss_of(0.5))
        assert ending.recovers == pytest.approx((4 * 0.8 + 11 * 0.5) / 15)


def test_replays_that_start_from_round_1_are_not_run_twice() -> None:
    replays = ScriptedReplayer({"slower": 0.8}, from_round=0)
    to_the_end = confirmation(replays)
    assert to_the_end.from_round_one(SLOWER) is None
    ending = to_the_end.run_on(replays.begin(SLOWER, 0))
    assert (ending and ending.from_round) == 0
    assert to_the_end.spent == 30


def test_other_seeds_start_from_the_checkpoint_as_far_as_the_rounds_are_enough() -> None:
    for allowed, seeds in ((30, 1), (45, 2), (59, 2), (60, 3), (1000, 3)):
        to_the_end = confirmation(ScriptedReplayer({"slower": (0.8, 0.6, 0.4)}), allowed)
        ending = to_the_end.from_round_one(SLOWER)
        assert ending is not None
        over = [-share * np.log(RISEN / LEVEL) for share in (0.8, 0.6, 0.4)[:seeds]]
        assert to_the_end.with_more_seeds(SLOWER, ending).by_seed == pytest.approx(over)


def test_a_run_that_was_stopped_early_is_compared_up_to_its_last_round() -> None:
    replays = ScriptedReplayer({"slower": 0.8}, settings=parse({"federate": {"early_stopping": {"patience": 3}}}))
    to_the_end = confirmation(replays)
    logged = {at: loss for at, loss in to_the_end.incident.hold_out.items() if at <= 24}
    to_the_end.incident = replace(to_the_end.incident, hold_out=logged)
    ending = to_the_end.from_round_one(SLOWER)
    assert ending is not None
    assert (ending.last, ending.logged) == (24, True)


def test_a_loss_that_went_back_is_measured_in_the_rounds_of_the_rise() -> None:
    # A spike: from round 20 on, the run is below its level, and there is no rise up to its end.
    to_the_end = confirmation(ScriptedReplayer({"slower": 0.5}))
    fallen = {at: 0.01 if at > LAST else loss for at, loss in to_the_end.incident.hold_out.items()}
    incident = to_the_end.incident
    to_the_end.incident = replace(incident, hold_out=fallen, rise=replace(incident.rise, until=LAST))
    ending = to_the_end.from_round_one(SLOWER)
    assert ending is not None
    assert ending.recovers == pytest.approx(0.5)
    assert not ending.holds


def test_own_losses_are_those_of_clients_that_take_part_in_both() -> None:
    # In the log, client 03 goes from 0.5 to 1.5 in round 16, client 04 stays at 0.5. All are alike in the replay.
    to_the_end = confirmation(ScriptedReplayer({"slower": 0.5, "without 03": 1.0}))
    to_the_end.clients = client_log(["03", "04"], 30)
    rise = replace(to_the_end.incident.rise, loss="train_loss")
    to_the_end.incident = replace(to_the_end.incident, rise=rise)
    kept, left_out = to_the_end.from_round_one(SLOWER), to_the_end.from_round_one(WITHOUT)
    assert kept is not None
    # ln(0.6 / 0.5) is left of ln(1 / 0.5).
    assert kept.recovers == pytest.approx(1 - np.log(loss_of(0.5) / 0.5) / np.log(2))
    # Without client 03, whose loss is the whole rise, there is no rise to take back.
    assert left_out is not None
    assert left_out.recovers is None


def test_failures_that_are_gone_are_counted_up_to_the_end() -> None:
    to_the_end = confirmation(ScriptedReplayer({"slower": 0.8}, failed={"slower": 1}, num_clients=1))
    log = client_log(["03", "04"], 30)
    to_the_end.clients = replace(log, failed=log.rounds >= FIRST)
    ending = to_the_end.from_round_one(SLOWER, of_failures=True)
    assert ending is not None
    # Two clients in each of 15 rounds failed, one is left in each.
    assert ending.recovers == pytest.approx(0.5)
