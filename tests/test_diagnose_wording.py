from dataclasses import replace

import pytest
from diagnosis_values import (
    LOOKED_FOR,
    MINIMAL,
    RISE,
    diagnosis,
    standing,
    standing_ruled_out,
    standing_too_slow,
    with_cause,
    with_replay,
    with_rise,
)

from tasks.diagnose.diagnosis import Curve, NotFinished, Removed, ReplayResult
from tasks.diagnose.ended.ending import Ending
from tasks.diagnose.investigation import Standing
from tasks.diagnose.observe.chance import Chance
from tasks.diagnose.observe.events import Event
from tasks.diagnose.report.replay_wording import during, no_replay, replayed
from tasks.diagnose.report.short import lines
from tasks.diagnose.report.wording import facts, headline, title


def test_headline_names_rise_cause_proof_and_remedy() -> None:
    assert headline(diagnosis()) == (
        "The loss of the global model (val_loss) rose in round 7 from 0.41 to 0.82 because the updates or the data of "
        "client 03 are faulty (proven by replay: in the same rounds without client 03, the mean val_loss is 0.39 "
        "instead of 0.85); remedy: SCAFFOLD (-S federate.client.kind=scaffold), which removes 86 % of the rise."
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("labels", "because the labels of client 03 are wrong (proven"),
        ("data", "because the data of client 03 are faulty (proven"),
        ("updates", "because the updates of client 03 are faulty (proven"),
        ("", "because the updates or the data of client 03 are faulty (proven"),
    ],
)
def test_headline_says_what_is_faulty_if_that_is_known(fault: str, words: str) -> None:
    assert words in headline(with_cause(diagnosis(), fault=fault))


def test_headline_says_both_of_two_causes() -> None:
    (cause,) = diagnosis().causes
    first, second = replace(cause, cause="client_learning_rate", clients=()), replace(cause, fault="labels")
    apart = replace(second, replay=replace(cause.replay, seeds=1))
    text = headline(replace(diagnosis(), causes=(first, apart)))
    assert "because the clients' learning rate is too high (proven" in text
    assert ", and because the labels of client 03 are wrong; remedy:" in text
    # One replay takes both away: it proves both.
    text = headline(replace(diagnosis(), causes=(first, second)))
    assert "because the clients' learning rate is too high and the labels of client 03 are wrong (proven by" in text


def test_headline_without_a_rise_says_so() -> None:
    answer = with_rise(MINIMAL, loss="train_loss", num_losses=1)
    assert headline(answer) == (
        "The loss of the global model (train_loss) did not rise beyond its noise in 1 measured round."
    )
    answer = with_rise(answer, confidence=0.861)
    assert headline(answer).endswith("in 1 measured round (confidence in a rise: 86.1 %; 99 % is needed).")


def test_a_rise_of_a_few_is_described_by_their_own_loss() -> None:
    answer = replace(with_rise(diagnosis(), clients=("03",)), causes=())
    assert headline(answer).startswith(
        "The loss of client 03 on its own data rose in round 7 from 0.41 to 0.82 (the mean loss of all clients did not "
        "clearly rise); "
    )


def test_failures_that_the_mean_hides_name_who_failed() -> None:
    answer = with_rise(diagnosis(), kind="not_finite", loss_after=None, clients=("03", "07"))
    assert headline(answer).startswith(
        "The updates of clients 03 and 07 were not finite in round 7 and up to round 12 "
    )


def test_headline_without_a_proven_cause_says_what_was_tried() -> None:
    answer = replace(diagnosis(), causes=())
    assert headline(answer) == (
        "The loss of the global model (val_loss) rose in round 7 from 0.41 to 0.82; no cause is proven (ruled "
        "out: different label mixes)."
    )
    nothing = replace(answer, ruled_out=())
    assert headline(nothing).endswith("; no cause is proven, because no possible cause was found.")
    assert answer.budget is not None
    other = replace(nothing, budget=replace(answer.budget, reproduced=False))
    assert headline(other).endswith("because the loss did not rise again in a replay with nothing changed.")
    assert headline(replace(nothing, budget=None)).endswith("because no round could be replayed.")
    pruned = with_rise(replace(nothing, budget=None), phase="prune")
    assert headline(pruned).endswith("; rounds of pruning are not replayed, so no cause is proven.")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("data", "because client 03 had faulty data in round 7 (proven"),
        ("updates", "because client 03 sent faulty updates in round 7 (proven"),
        ("", "because client 03 had faulty data or sent faulty updates in round 7 (proven"),
    ],
)
def test_a_fault_that_has_gone_is_told_in_the_past(fault: str, words: str) -> None:
    assert words in headline(with_cause(with_replay(diagnosis(), kind="log_without"), fault=fault, rounds=(7, 7)))


def test_no_replay_says_why() -> None:
    nothing = replace(diagnosis(), causes=(), ruled_out=())
    assert nothing.budget is not None
    other = replace(nothing, budget=replace(nothing.budget, reproduced=False))
    assert no_replay(replace(nothing, budget=None)) == "No round was replayed: the limits of this diagnosis say why."
    assert no_replay(nothing) == "No cause was replayed, because no possible cause was found."
    assert no_replay(standing_ruled_out()) == (
        "No replay is shown, because no cause is proven. The tables below say where the loss of each replay ended."
    )
    assert no_replay(other).startswith("No cause was replayed: the limits of this diagnosis say what")


def test_the_short_answer_says_why_no_cause_is_proven_and_whether_a_remedy_was_tried() -> None:
    why = "No cause is proven, because every cause that was tried is ruled out."
    unproven = replace(diagnosis(), causes=(), limits=("Another limit.", why, "A third limit."))
    assert list(lines(unproven))[-1] == why
    without = with_cause(diagnosis(), remedy=None)
    assert list(lines(without))[-1] == "remedy: none of the settings that were tried helps"
    assert list(lines(replace(without, remedies=())))[-1] == "remedy: none was tried"


def test_headline_of_a_loss_that_did_not_rise_says_where_it_ends_and_would_end() -> None:
    assert headline(standing()) == (
        "The loss of the global model (val_loss) did not rise, but it is higher than it should be because the labels "
        "of client h3 are wrong (proven by replay with 3 seeds: in the same rounds without client h3, val_loss ends at "
        "0.19 instead of 0.31); remedy: leave out client h3 (-S 'federate.exclude=[h3]'), which removes 97 % of the "
        "excess loss."
    )
    trained = with_rise(standing(), loss="train_loss")
    assert headline(trained).startswith(
        "The loss of the global model (train_loss) did not rise, but the hold-out loss (val_loss) is higher than it"
    )


def test_headline_of_a_model_that_never_learned_says_why() -> None:
    assert headline(standing_too_slow()) == (
        "The model never learned: it has been at chance since round 1 (no better than the class frequencies, 2.3) "
        "because the clients' learning rate is too low (proven by replay with 3 seeds: in the same rounds at a client "
        "learning rate of 0.1, val_loss ends at 0.19 instead of 2.3); remedy: set the client learning rate to 0.1 "
        "(-S federate.client.learning_rate=0.1), which removes 100 % of the excess loss."
    )


def test_headline_of_a_loss_that_did_not_rise_says_what_became_of_suspects() -> None:
    calm = "The loss of the global model (val_loss) did not rise beyond its noise in 12 measured rounds, and "
    answer = standing_ruled_out()
    assert headline(answer) == (
        f"{calm}no cause is proven that makes it higher than it should be (ruled out: faulty clients)."
    )
    open_ = (NotFinished("server_learning_rate", "", None, "", fault="too_low"),)
    assert headline(replace(answer, ruled_out=(), not_finished=open_)) == (
        f"{calm}no cause is proven that makes it higher than it should be (not finished: too low a server learning "
        "rate)."
    )
    assert answer.budget is not None
    other = replace(answer, ruled_out=(), budget=replace(answer.budget, reproduced=False))
    assert headline(other) == (
        f"{calm}no cause is proven, because a replay with nothing changed does not give the logged losses."
    )


def test_headline_without_a_sign_says_that_causes_from_the_start_were_looked_for() -> None:
    looked = replace(MINIMAL, looked_for=LOOKED_FOR)
    assert headline(looked) == (
        "The loss of the global model (val_loss) did not rise beyond its noise in 12 measured rounds, and there is no "
        "sign of a cause that keeps it higher than it should be."
    )
    assert "no sign" not in headline(MINIMAL)


def test_facts_of_a_loss_that_did_not_rise_hold_its_end_with_and_without_the_causes() -> None:
    assert dict(facts(standing())) == {
        "Loss at the end (val_loss, mean of rounds 8 to 12)": "0.31",
        "Its standard deviation over seeds": "0.012",
        "Loss at the end without the cause": "0.19",
        "Cause": "faulty clients",
        "Clients": "client h3",
        "Excess loss removed by the remedy": "97 %",
    }
    unproven = dict(facts(replace(standing_ruled_out(), standing=Standing(0.31, None, None, (12, 12)))))
    assert unproven == {"Loss at the end (val_loss, mean of round 12)": "0.31", "Cause": "not proven"}
    assert dict(facts(standing_too_slow()))["Loss of a guess (chance)"] == "2.3"


def test_each_of_several_causes_of_a_high_loss_has_its_share() -> None:
    answer = standing()
    (first,) = answer.causes
    assert "of the excess loss" not in replayed(first, answer)
    second = replace(first, cause="server_learning_rate", clients=(), fault="too_low", remedy=None)
    second = replace(second, replay=replace(first.replay, removes=Removed(0.4, None, None), ends_at=0.25))
    both = replace(answer, causes=(first, second))
    assert replayed(second, both).endswith("The change removes 40 % of the excess loss.")
    assert ", and because the server's learning rate is too low; remedy: leave out" in headline(both)
    assert dict(facts(both))["Loss at the end without the causes"] == "0.19"
    # One replay that takes both away proves both.
    shared = replace(answer, causes=(first, replace(second, replay=first.replay)))
    assert "are wrong and the server's learning rate is too low (proven by replay with 3 seeds" in headline(shared)


def test_title_asks_why_only_if_something_rose_or_ended() -> None:
    assert title(diagnosis()) == "Why did the loss go up?"
    assert title(MINIMAL) == "Did the loss go up?"
    assert title(standing()) == "Why is the loss higher than it should be?"
    assert title(standing_ruled_out()) == "Is the loss higher than it should be?"
    ending = Ending(3, "federate", "every client failed", False, ("00",), (), 1, 3, 2, 0.4)
    assert title(replace(MINIMAL, ending=ending)) == "Why did the run end?"
    assert title(replace(MINIMAL, ending=replace(ending, goes_on=True))) == "Did the loss go up?"


def test_a_model_at_chance_is_said_to_be_at_chance_since_when() -> None:
    def says(since: int, never: bool) -> str:
        return headline(with_rise(replace(diagnosis(), causes=()), chance=Chance(2.3, since, never)))

    assert "to 0.82 (the model has been at chance since then); no cause" in says(7, False)
    assert "to 0.82 (the model has been at chance since round 9); no cause" in says(9, False)
    assert "to 0.82 (the model never learned: it has been at chance since round 1); no cause" in says(1, True)
    calm = with_rise(MINIMAL, chance=Chance(2.303, 1, True))
    assert headline(calm) == (
        "The model never learned: it has been at chance since round 1 (no better than the class frequencies, 2.3); its "
        "loss (val_loss) did not rise."
    )


def test_rise_while_pruning_says_so() -> None:
    answer = with_rise(diagnosis(), phase="prune")
    assert headline(answer).startswith(
        "The loss of the global model (val_loss) rose in round 7 (while pruning) from 0.41"
    )


def replay(from_round: int, unchanged: Curve, changed: Curve) -> ReplayResult:
    return ReplayResult("", {}, from_round, "val_loss", unchanged, changed, 1, Removed(0.9, None, None))


def test_loss_during_the_rise_leaves_out_the_rounds_around_it() -> None:
    # Rounds 6 to 9, of which 7 and 8 lie in the rise.
    of_rounds_6_to_9 = replay(5, (9.0, 1.0, 2.0, 9.0), (9.0, 0.5, 0.7, None))
    changed, unchanged = during(of_rounds_6_to_9, replace(RISE, round=7, until=8))
    assert (changed, unchanged) == (pytest.approx((0.5 + 0.7) / 2), pytest.approx((1 + 2) / 2))


def test_loss_during_the_rise_is_unknown_if_it_was_not_finite() -> None:
    assert during(replay(6, (1.0, None), (0.5, 0.5)), replace(RISE, round=7, until=8)) == (0.5, None)


def test_loss_of_a_replay_that_ended_before_the_rise_is_that_of_its_rounds() -> None:
    assert during(replay(4, (1.0, 2.0), (3.0, 5.0)), replace(RISE, round=7, until=8)) == (4.0, 1.5)


def test_a_cause_from_the_start_behind_an_unexplained_rise_does_not_say_that_nothing_rose():
    calm = standing()
    rose = Event(24, 25, 0.26, 1.1, "train_loss", ("04",), "federate")
    says = headline(replace(calm, rise=replace(calm.rise, events=(rose,))))
    assert says.startswith("The hold-out loss (val_loss) has been higher than it should be from the start because the ")
    pruned = Event(32, 40, 0.2, 0.4, "val_loss", (), "prune")
    assert "did not rise" in headline(replace(calm, rise=replace(calm.rise, events=(pruned,))))
