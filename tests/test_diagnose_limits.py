"""The limits of a diagnosis: each sentence appears exactly if it is true."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from diagnosis_values import LOSSES, NO_RISE, RISE, client_log, round_log

from tasks.diagnose.evidence.unseen import Unseen
from tasks.diagnose.investigation import Standing
from tasks.diagnose.limits import (
    NEAR_CHANCE,
    ONLY_SINGLE_ROUNDS,
    limits_of_logs,
    no_standing_cause,
    not_proven,
    not_replayed,
    why_none_is_proven,
)
from tasks.diagnose.observe.chance import Chance
from tasks.diagnose.observe.drift import Drift
from tasks.diagnose.observe.events import Event
from tasks.diagnose.observe.observation import Observation
from tasks.diagnose.observe.rise import Rise
from tasks.round_log.read import RoundLog

DRIFT = Drift("03", "update_norm", 4.0, 1.0, 1.0, 9.0, True)
STANDING = Standing(0.31, 0.19, None, (8, 12))
HOLD_OUT = "The loss on the hold-out data (val_loss) did not rise beyond its noise"
NOT_VAL = "train_loss was tested, because val_loss has too few values"


def limits(rise: Rise, rounds: RoundLog | None = None, drifts: tuple[Drift, ...] = (DRIFT,)) -> str:
    observation = Observation(rise, None, drifts, {}, ("00", "03"), np.nan, np.nan)
    return " ".join(limits_of_logs(observation, rounds or round_log(LOSSES), client_log(["03", "00"], 12)))


def both_losses() -> RoundLog:
    rounds = round_log(LOSSES)
    rounds.losses["train_loss"] = rounds.losses["val_loss"]
    return rounds


def test_a_rise_that_all_is_known_of_has_no_limits() -> None:
    assert limits(RISE) == ""


@pytest.mark.parametrize(("num_losses", "says"), [(5, True), (6, False)])
def test_fewer_than_6_losses_are_too_few(num_losses: int, says: bool) -> None:
    text = limits(replace(NO_RISE, num_losses=num_losses))
    assert (f"val_loss was measured in only {num_losses} rounds. A rise" in text) is says
    assert (f"val_loss was measured in only {num_losses} of 12 rounds" in text) is not says


def test_which_loss_rose_is_said_unless_it_is_val_loss() -> None:
    train = replace(RISE, loss="train_loss")
    later = replace(train, val_loss_round=9, events=(Event(9, 12, 0.4, 0.7, "val_loss", (), "federate"),))
    assert limits(later, both_losses()) == (
        "In rounds 9 to 12, val_loss rose too, from 0.4 to 0.7. This report explains train_loss, because it rose first."
    )
    assert HOLD_OUT in limits(train, both_losses())
    assert NOT_VAL in limits(train, round_log(LOSSES, "train_loss"))
    assert not any(says in limits(RISE, both_losses()) for says in (HOLD_OUT, NOT_VAL))


def test_the_same_rise_of_the_other_loss_is_no_other_rise() -> None:
    # RISE is of val_loss, in rounds 7 to 12. train_loss shows the update of round 12 in round 13.
    def says(*rounds: int, loss: str = "train_loss", phase: str = "federate", clients: tuple[str, ...] = ()) -> str:
        return limits(replace(RISE, events=(Event(*rounds, 0.5, 0.9, loss, clients, phase),)))

    assert says(13, 14) == "In rounds 13 to 14, train_loss rose too, from 0.5 to 0.9. This report explains val_loss."
    assert says(3, 7).startswith("In rounds 3 to 7, train_loss rose too")
    for other in (says(14, 15), says(3, 6), says(3, 5, loss="val_loss"), says(13, 14, phase="prune")):
        assert other.startswith("Another rise: ")
        assert other.endswith("from 0.5 to 0.9. This report does not explain it.")
    assert "Another rise: the loss of client 03 on its own data rose" in says(8, 9, clients=("03",))


def test_a_model_at_chance_is_said_and_changes_near_chance_are_no_rise_only_if_none_is_reported() -> None:
    # The entropy of 10 equal classes is ln 10 = 2.303.
    chance = Chance(2.303, 1, never_learned=True)
    never = "The model never learned: it has been at chance since round 1. A guess that knows only how"
    assert limits(replace(NO_RISE, chance=chance)).startswith(never)
    assert NEAR_CHANCE in limits(replace(NO_RISE, chance=chance))
    above = limits(replace(RISE, chance=chance))
    assert above.startswith(never)
    assert above.endswith("no better. The rise is reported because the loss went above that.")
    broken = limits(replace(RISE, chance=Chance(2.303, 7, never_learned=False)))
    assert broken.startswith("The model has been at chance since round 7.")
    assert broken.endswith("and the model is no better.")


def test_rising_sparsity_is_said() -> None:
    assert "The sparsity rose from 0 to 0.5 in the same rounds." in limits(replace(RISE, sparsity=(0.0, 0.5)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"visible": 0.123}, "a rise by less than 12.3 % of the loss"),
        ({"visible": 0.123, "relative": False}, "a rise by less than 0.123 cannot"),
        ({"visible": None}, "The loss is too noisy, or its curve is too short:"),
        ({"visible": 0.123, "significance": 1e-5}, "diagnose.significance is 1e-05. At a level below"),
    ],
)
def test_the_least_visible_rise_is_said_if_none_was_seen(changes: dict[str, Any], says: str) -> None:
    assert says in limits(replace(NO_RISE, noise=0.03, **changes))
    assert ("diagnose.significance" in limits(replace(RISE, noise=0.03, **changes))) is ("significance" in changes)


def test_what_the_clients_could_be_compared_with_is_said() -> None:
    assert (
        "The loss did not rise. So the clients were checked only for failed updates, and for single rounds"
        in limits(NO_RISE)
    )
    assert "No client could be compared" in limits(RISE, drifts=())
    other = replace(DRIFT, client="00")
    assert "The log shows no client before" in limits(RISE, drifts=(replace(DRIFT, before=None),))
    assert "The log shows no client before" not in limits(RISE, drifts=(replace(DRIFT, before=None), other))
    assert "compared with its own past only" in limits(RISE, drifts=(replace(DRIFT, expected=None),))
    assert "compared with its own past only" not in limits(RISE, drifts=(replace(DRIFT, expected=None), other))


def test_what_cannot_be_replayed_is_said(tmp_path: Path) -> None:
    rounds = round_log(LOSSES, phases=("federate",) * 10 + ("prune",) * 2)
    assert "data are missing in this folder" in not_replayed(RISE, None, rounds, 10)[0]
    assert "data are missing in this folder" in not_replayed(RISE, tmp_path, rounds, 10)[0]
    (tmp_path / "data/clients").mkdir(parents=True)
    (tmp_path / "data/clients/preprocess.json").touch()
    assert not_replayed(RISE, tmp_path, rounds, 10) == []
    assert "The log has 10 rounds of training, but federate.rounds is 9." in not_replayed(RISE, tmp_path, rounds, 9)[0]
    assert "while the model was pruned" in not_replayed(replace(RISE, phase="prune"), tmp_path, rounds, 10)[0]


def test_why_replays_prove_nothing_is_said() -> None:
    def says(
        reproduced: bool,
        *causes: str,
        unseen: Unseen | None = None,
        differs: str = "",
        open_: tuple[str, ...] = (),
        own_losses: tuple[str, ...] = (),
    ) -> list[str]:
        replays = SimpleNamespace(
            reproduced=reproduced,
            causes=causes,
            findings=SimpleNamespace(unseen=unseen),
            differs=differs,
            window=(7, 9),
            ruled_out=("a cause that is ruled out",) if reproduced and not causes else (),
            not_finished=[SimpleNamespace(candidate=SimpleNamespace(cause=cause, fault="")) for cause in open_],
        )
        return not_proven(replays, own_losses)  # type: ignore[arg-type]

    assert says(False)[0].startswith("The replay gives the numbers of the log again, but in the rounds that were")
    assert "(rounds 7 to 9)" in says(False)[0]
    assert "Something else was different in the run" in says(False, differs="In round 7.")[0]
    assert says(False, differs="In round 7.")[0].endswith("so no cause is proven. In round 7.")
    assert says(True) == ["No cause is proven, because every cause that was tried is ruled out."]
    assert says(True, open_=("overfitting", "overfitting", "label_skew")) == [
        "No cause is proven. It is not known whether the cause is overfitting or different label mixes: the table of "
        "the causes that are not finished says why."
    ]
    assert says(True, own_losses=("04",))[1] == (
        "Not looked at: different amounts of data and different label mixes. Their replays give the clients other "
        "examples, so the loss of client 04 would change even if the skew was not its cause."
    )
    assert says(True, "a cause", own_losses=("04",)) == []
    assert says(True, "a cause") == []
    assert says(False, "a cause that has gone") == []
    # A tenth of the way from the training loss to the hold-out loss: the clients' data are like their own kind.
    unlike = "So the hold-out data are unlike the clients' data, and overfitting is not claimed."
    assert says(True, unseen=Unseen(0.1, 0.3, 2.1, 0.0, ("01",), 0, 20))[1].endswith(unlike)
    assert says(True, "a cause", unseen=Unseen(0.1, 0.3, 2.1, 0.0, ("01",), 0, 20))[0].endswith(unlike)
    assert len(says(True, unseen=Unseen(0.1, 1.9, 2.1, 0.0, ("01",), 0, 20))) == 1


def test_that_no_cause_was_tried_is_said() -> None:
    none = SimpleNamespace(ruled_out=(), not_finished=())
    assert why_none_is_proven(none).startswith("No cause was tried, so none is proven.")  # type: ignore[arg-type]


def test_why_no_cause_of_a_high_loss_is_proven_is_said() -> None:
    def says(
        standing: object, reproduced: bool = True, *causes: str, differs: str = "", dead: tuple[str, ...] = ()
    ) -> list[str]:
        replays = SimpleNamespace(
            standing=standing,
            reproduced=reproduced,
            causes=causes,
            differs=differs,
            ruled_out=("x",),
            not_finished=(),
            dead_layers=dead,
        )
        return no_standing_cause(replays)  # type: ignore[arg-type]

    assert says(None) == says(STANDING, True, "a cause") == says(STANDING, False, "a cause") == []
    assert says(STANDING) == ["No cause is proven, because every cause that was tried is ruled out."]
    one, two = says(STANDING, dead=("dense",))[0], says(STANDING, dead=("dense", "dense_1"))[0]
    assert one.startswith("All weights of the layer dense are zero in the first model,")
    assert two.startswith("All weights of the layers dense and dense_1 are zero in the first model,")
    other = (
        "A replay with the data and settings in this folder does not give the losses of the log. Something else was "
        "different in the run, so no cause is proven."
    )
    assert says(STANDING, False) == [other]
    assert says(STANDING, False, differs="In round 7.") == [f"{other} In round 7."]


def test_only_single_rounds_were_looked_at_unless_something_else_was() -> None:
    calm = Observation(NO_RISE, None, (), {}, ("00", "03"), np.nan, np.nan)
    log = round_log(LOSSES), client_log(["03", "00"], 12)
    assert any(ONLY_SINGLE_ROUNDS in each for each in limits_of_logs(calm, *log))
    assert not any(ONLY_SINGLE_ROUNDS in each for each in limits_of_logs(calm, *log, ("Labels.",)))


@pytest.mark.parametrize(("significance", "says"), [(2.4999e-4, True), (2.49997e-4, False)])
def test_the_least_significance_is_that_of_one_of_40_001_ranks(significance: float, says: bool) -> None:
    # With 40,000 draws and the loss itself, a rank has the probability 1 / 40,001. A loss is tested in two ways, and
    # the smallest share of a loss is 0.2: 2 / 40,001 / 0.2 = 2.499938e-4. 40,000 ranks would give 2.5e-4, and 40,002
    # ranks 2.499875e-4.
    assert ("At a level below 0.00025" in limits(replace(NO_RISE, noise=0.03, significance=significance))) is says


def test_a_report_that_leaves_clients_out_says_so() -> None:
    failures = {f"{k:02}": (1,) for k in range(31)}
    observation = Observation(RISE, None, (DRIFT,), failures, tuple(failures), np.nan, np.nan)
    said, *_ = limits_of_logs(observation, round_log(LOSSES), client_log(["03", "00"], 12))
    assert said.startswith("31 clients failed and 1 client had unusual signals. This report shows at most 30 of each")
