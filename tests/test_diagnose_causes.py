"""The causes: the registry, their order, what makes each possible, and what a replay of each changes."""

import re
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from tasks.diagnose.causes import CAUSES, candidates, evidence_for, fault_of, order, remedies
from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation, Words
from tasks.diagnose.diagnosis import RuledOut
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.phrases import every_client
from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.surgery import sizes_made_equal
from tasks.diagnose.report.vocabulary import words_of
from tasks.settings import Settings, parse, with_settings
from tests.documents import ROOT, tables
from tests.plain_findings import (
    AWAY,
    DRIFTED,
    EVERYTHING,
    MIXED_UP,
    SHIFT,
    WRONG_LABELS,
    a_client,
    everything,
    findings,
    overshooting,
)

NAN = float("nan")
RATE = Settings().federate.client.learning_rate


def proposed(seen: Findings, **federate: object) -> list[str]:
    return [candidate.cause for candidate in candidates(seen, parse({"federate": federate}))]


def candidate(cause: str, seen: Findings, **federate: object) -> Candidate:
    (first, *_) = [one for one in candidates(seen, parse({"federate": federate})) if one.cause == cause]
    return first


# The registry


def test_registry_has_the_causes_of_the_documents_and_a_module_of_the_same_name_each() -> None:
    document = (ROOT / "docs/diagnosis.md").read_text(encoding="utf-8")
    (table,) = (table for table in tables(document) if table[0][0] == "cause")
    assert sorted(row[0] for row in table[1:]) == sorted(f"`{cause}`" for cause in CAUSES), (
        "docs/diagnosis.md, the table of causes: a row for each cause in CAUSES"
    )
    modules = {path.stem for path in (ROOT / "tasks/diagnose/causes").glob("*.py")}
    assert modules - {"__init__", "base", "shared"} == set(CAUSES)


# Cause: the clients through which it acts in `everything()`, and its flags; the most specific cause first.
EXPECTED: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "non_finite": (("00",), {"fault_of_clients"}),
    "missing_clients": (("05",), {"evident", "beside_another"}),
    "data_drift": (("00", "01", "02", "03", "04"), {"evident", "beside_another", "changed_data"}),
    "hold_out_shift": ((), {"evident"}),
    "faulty_clients": (("02",), {"evident", "beside_another", "changed_data", "fault_of_clients"}),
    "architecture_variation": (("01",), {"evident", "beside_another"}),
    "unequal_local_work": (("04",), {"evident", "beside_another"}),
    "feature_shift": (("03",), {"evident", "beside_another", "changed_data"}),
    "server_learning_rate": ((), {"evident", "beside_another", "harms_the_model"}),
    "quantity_skew": ((), {"skew"}),
    "label_skew": ((), {"skew"}),
    "client_learning_rate": ((), {"beside_another"}),
    "overfitting": ((), {"harms_the_model"}),
    "changed_setting": ((), set()),
}
MISSING = "add to everything() or EVERYTHING in tests/plain_findings.py what makes {} possible"


def test_order_and_flags_are_the_expected() -> None:
    flags = {field.name for field in fields(CauseKind) if field.type in (bool, "bool")}
    recorded = {cause: {flag for flag in flags if getattr(kind, flag)} for cause, kind in CAUSES.items()}
    assert list(recorded) == list(EXPECTED), "EXPECTED, above: a row for each cause, in the order of CAUSES"
    for cause, (_, expected) in EXPECTED.items():
        assert recorded[cause] == expected, cause


@pytest.mark.parametrize("cause", CAUSES)
def test_words_end_the_sentence_the_loss_rose_because(cause: str) -> None:
    general = CAUSES[cause].words
    for words in (general, *general.by_fault.values()):
        for text in (words.alone, words.because.format("client 03")):
            assert re.fullmatch(r"(the|some|numbers) [^{}]*[^{}. ]", text)
        assert "client 03" in words.because.format("client 03") or words.because == words.alone
        assert words.name == words.name.strip().lower()
        assert re.fullmatch(r"[A-Z].*\.", words.means)
    assert [general.of(fault) for fault in ("", "unknown", *general.by_fault)] == [
        general, general, *general.by_fault.values(),
    ]  # fmt: skip


# What findings of one run never propose: only a comparison of two runs claims it, with evidence of its own.
OF_TWO_RUNS = ("changed_setting",)


@pytest.mark.parametrize("cause", [cause for cause in CAUSES if cause not in OF_TWO_RUNS])
def test_record_is_complete(cause: str) -> None:
    seen, settings = everything(), parse({"federate": EVERYTHING})
    mine = [one for one in candidates(seen, settings) if one.cause == cause]
    assert mine, MISSING.format(cause)
    assert list(evidence_for(cause, mine[0].clients, seen, settings))
    assert remedies(cause, settings, mine[0].clients, seen)
    assert {one.cause for one in CAUSES[cause].candidates(Situation(seen, settings))} == {cause}


def test_skews_are_no_candidates_where_single_clients_own_losses_rose() -> None:
    seen, settings = everything(), parse({"federate": EVERYTHING})
    causes = {one.cause for one in candidates(seen, settings)}
    of_own_loss = {one.cause for one in candidates(seen, settings, of_own_loss=True)}
    assert causes - of_own_loss == {"label_skew", "quantity_skew"}


def test_candidates_come_in_the_order_of_the_registry() -> None:
    causes = list(dict.fromkeys(one.cause for one in candidates(everything(), parse({"federate": EVERYTHING}))))
    assert causes == [cause for cause in CAUSES if cause in causes]


def test_cause_is_added_by_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def clouds(at: Situation) -> list[Candidate]:
        return [Candidate("clouds", Change("under a clear sky"))] if at.findings.label_skew > 0 else []

    def evidence(clients: object, at: Situation) -> Any:
        yield Indication("cover", at.findings.label_skew, None, "It was cloudy.")

    toy = CauseKind(
        words=Words("clouds", "clouds hang over {}", "there are clouds", "No sun."),
        candidates=clouds,
        evidence=evidence,
        remedies=lambda clients, at: [Remedy("wait", {"seed": 3})],
        skew=True,
    )
    monkeypatch.setitem(CAUSES, "clouds", toy)
    seen = findings()
    assert proposed(seen) == ["clouds"]
    assert order(seen)[-1] == "clouds"
    assert [one.says for one in evidence_for("clouds", (), seen, Settings())] == ["It was cloudy."]
    assert remedies("clouds", Settings(), (), seen) == [Remedy("wait", {"seed": 3})]
    assert fault_of("clouds", ("01",), seen) == ""
    assert words_of(RuledOut("clouds", "", None)).name == "clouds"


# The order


def test_order_is_that_of_the_registry() -> None:
    assert order(findings()) == order(findings(steepness=3.0)) == order(findings(steepness=NAN)) == tuple(CAUSES)


def test_client_rate_comes_before_the_skews_where_training_diverges() -> None:
    rest = [cause for cause in CAUSES if cause != "client_learning_rate"]
    first_skew = rest.index("quantity_skew")
    assert order(findings(steepness=3.01)) == (*rest[:first_skew], "client_learning_rate", *rest[first_skew:])


# What makes a cause possible


def test_nothing_is_a_candidate_without_a_reason() -> None:
    assert proposed(findings()) == []


def test_client_rate_is_a_candidate_where_training_diverges_or_raises_most_clients_own_losses() -> None:
    for steepness, possible in ((3.01, True), (3.0, False), (NAN, False)):
        assert (proposed(findings(steepness=steepness)) == ["client_learning_rate"]) is possible
    assert proposed(overshooting(findings(num_clients=4), "00", "01")) == []  # half of them
    assert proposed(overshooting(findings(num_clients=5), "00", "01", "02")) == ["client_learning_rate"]
    # Failed clients count. Clients whose data contradict the model do not: 2 of 3 are left.
    odd = (a_client("00", failed=3), a_client("01", **WRONG_LABELS), a_client("02", **WRONG_LABELS))
    assert "client_learning_rate" in proposed(overshooting(findings(*odd), "03"))
    assert "client_learning_rate" not in proposed(overshooting(findings(*odd)))


@pytest.mark.parametrize("changes", [WRONG_LABELS, {"failed": 20}, SHIFT])
@pytest.mark.parametrize(("num", "of_all", "minority"), [(1, 5, True), (2, 5, True), (2, 4, False), (3, 5, False)])
def test_only_a_minority_is_left_out(changes: dict[str, object], num: int, of_all: int, minority: bool) -> None:
    odd = [a_client(f"{k:02}", **changes) for k in range(num)]
    left_out = [one for one in candidates(findings(*odd, num_clients=of_all), Settings()) if one.change.without]
    assert bool(left_out) is minority
    for one in left_out:
        assert one.clients == one.change.without == tuple(client.client for client in odd)
        assert one.change.says == f"without {every_client(one.clients)}"


def test_labels_that_were_mixed_up_are_changed_back_if_they_are_known_of_every_client() -> None:
    known, unknown = a_client("01", memory=MIXED_UP), a_client("02", **WRONG_LABELS)
    (back,) = [candidate("faulty_clients", findings(known)).instead]
    assert back is not None
    assert back.says == "with the labels of client 01 changed back"
    (change_back,) = back.surgery.values()
    y = np.array([0, 0, 1], np.int32)
    assert change_back({"01": (np.zeros((3, 1), np.float32), y)})["01"][1].tolist() == [1, 1, 0]
    assert candidate("faulty_clients", findings(known, unknown)).instead is None
    assert candidate("faulty_clients", findings(unknown)).instead is None


def test_shift_is_aligned_first_and_left_out_then() -> None:
    shift = [one for one in candidates(findings(a_client("03", **SHIFT)), Settings()) if one.cause == "feature_shift"]
    assert [(list(one.change.surgery), one.change.without, one.clients) for one in shift] == [
        (["features standardised by each client"], (), ("03",)),
        ([], ("03",), ("03",)),
    ]


def test_shift_of_most_clients_is_only_aligned() -> None:
    odd = [a_client(f"{k:02}", **SHIFT) for k in range(3)]
    shift = [one for one in candidates(findings(*odd), Settings()) if one.cause == "feature_shift"]
    assert [one.change.without for one in shift] == [()]


def test_labels_are_dealt_beside_a_minority_with_other_data() -> None:
    odd = a_client("01", **WRONG_LABELS), a_client("02", **SHIFT)
    (deal,) = candidate("label_skew", findings(*odd, label_skew=1.0)).change.surgery.values()
    x = np.arange(20, dtype=np.float32).reshape(5, 4, 1)
    sites = {f"{k:02}": (x[k], np.array([0, 0, 1, 1], np.int32)) for k in range(5)}
    dealt = deal(sites)
    for client in ("01", "02"):
        np.testing.assert_array_equal(dealt[client][0], sites[client][0])
    assert any(not np.array_equal(dealt[client][0], sites[client][0]) for client in ("00", "03", "04"))


def test_labels_are_dealt_among_all_where_the_data_of_most_have_changed() -> None:
    odd = [a_client(f"{k:02}", **WRONG_LABELS) for k in range(5)]
    (deal,) = candidate("label_skew", findings(*odd, label_skew=1.0)).change.surgery.values()
    sites = {one.client: (np.zeros((4, 1), np.float32), np.array([0, 0, 1, 1], np.int32)) for one in odd}
    assert sum(len(y) for _, y in deal(sites).values()) == 20


def skewed_by(mixes: dict[str, list[int]]) -> tuple[str, ...]:
    odd = [a_client(client, labels=np.array(mix)) for client, mix in mixes.items()]
    return candidate("label_skew", findings(*odd, num_clients=len(odd), label_skew=1.0)).clients


def test_most_skewed_clients_come_first_and_the_usual_are_not_named() -> None:
    # The mix of all clients is 52 to 46; the distances are 0.06, 0.54, 0.66, 1.06, 0.94 and 0.24.
    mixes = {"00": [10, 10], "01": [16, 4], "02": [4, 16], "03": [0, 9], "04": [9, 0], "05": [13, 7]}
    assert skewed_by(mixes) == ("03", "04", "02", "01")


def test_client_is_skewed_from_a_distance_of_two_fifths_equal_ones_by_id() -> None:
    # The mixes are mirrored, so the mix of all clients is even; the distances are 0.41, 0.39, 0.39 and 0.41.
    mixes = {"00": [705, 295], "01": [695, 305], "02": [305, 695], "03": [295, 705]}
    assert skewed_by(mixes) == ("00", "03")


@pytest.mark.parametrize(
    ("cause", "run", "possible"),
    [
        ("label_skew", {"label_skew": 0.41}, True),
        ("label_skew", {"label_skew": 0.4}, False),
        ("quantity_skew", {"size_skew": 0.31}, True),
        ("quantity_skew", {"size_skew": 0.3}, False),
        ("quantity_skew", {"size_skew": 0.31, "resized": True}, True),
        ("quantity_skew", {"size_skew": 0.31, "resized": False}, False),
        ("overfitting", {"train_trend": -0.3, "val_trend": 0.2}, True),
        ("overfitting", {"train_trend": -0.3, "val_trend": 0.0}, True),  # only the training loss falls
        ("overfitting", {"train_trend": -0.3, "val_trend": -0.04}, True),
        ("overfitting", {"train_trend": -0.3, "val_trend": -0.05}, False),  # both losses fall
        ("overfitting", {"train_trend": -0.11, "val_trend": -0.005}, True),
        ("overfitting", {"train_trend": -0.125, "val_trend": -0.025}, False),  # the two losses hardly part
        ("overfitting", {"train_trend": -0.1, "val_trend": 0.3}, False),  # the training loss hardly falls
        ("overfitting", {"train_trend": 0.3, "val_trend": 0.9}, False),
        ("overfitting", {"train_trend": -0.3, "val_trend": 0.2, "train_rise": 0.0}, True),
        ("overfitting", {"train_trend": -0.3, "val_trend": 0.2, "train_rise": 0.01}, False),  # the training loss rose
        ("overfitting", {"train_trend": -0.3, "val_trend": 0.2, "train_rise": NAN}, False),
        ("overfitting", {"train_trend": NAN, "val_trend": 0.3}, False),
        ("overfitting", {"train_trend": -0.3, "val_trend": NAN}, False),
    ],
)
def test_measures_of_the_run_make_causes_possible(cause: str, run: dict[str, float], possible: bool) -> None:
    assert (cause in proposed(findings(**run))) is possible


@pytest.mark.parametrize(
    ("cause", "federate", "possible"),
    [
        ("architecture_variation", {"width": {"01": 0.5}}, True),
        ("architecture_variation", {"width": {"01": 1.0}}, False),
        ("server_learning_rate", {"server_optimizer": {"learning_rate": 1.01}}, True),
        ("server_learning_rate", {"server_optimizer": {"learning_rate": 1.0}}, False),
        ("server_learning_rate", {"server_optimizer": {"kind": "adam", "learning_rate": 0.1}}, True),
        ("unequal_local_work", {"local_work": {"kind": "per_client", "by_client": {"01": 8}}}, True),
        ("unequal_local_work", {"local_work": {"kind": "range"}}, True),
        ("unequal_local_work", {}, False),  # the settings give every client the same work
    ],
)
def test_settings_make_causes_possible(cause: str, federate: dict[str, Any], possible: bool) -> None:
    assert (cause in proposed(findings(a_client("01", epochs=8.0)), **federate)) is possible


def test_work_that_the_settings_allow_to_differ_is_no_cause_where_it_does_not() -> None:
    assert "unequal_local_work" not in proposed(findings(), local_work={"kind": "range", "low": 4, "high": 9})


def test_work_that_is_drawn_widely_in_each_round_is_a_cause_also_if_its_means_agree() -> None:
    (one,) = candidates(findings(), parse({"federate": {"local_work": {"kind": "range", "low": 4, "high": 10}}}))
    assert (one.cause, one.clients) == ("unequal_local_work", ())


def test_equal_work_is_tried_at_the_median_and_then_at_the_least() -> None:
    # Between 1 and 30 passes the median client makes 16, which may be too many for every client.
    seen = findings(*(a_client(f"{k:02}", epochs=passes) for k, passes in enumerate((4.0, 16.0, 16.0, 16.0, 28.0))))
    work = {"kind": "range", "low": 1, "high": 30}
    one = candidate("unequal_local_work", seen, local_work=work)
    assert one.change.settings == {"federate.local_work.low": 16, "federate.local_work.high": 16}
    assert one.instead is not None
    assert one.instead.settings == {"federate.local_work.low": 1, "federate.local_work.high": 1}
    named = candidate("unequal_local_work", seen, local_work={"kind": "per_client", "by_client": {"04": 28}})
    assert named.instead is not None
    assert named.instead.settings["federate.local_work.epochs"] == 4
    least = candidate("unequal_local_work", findings(a_client("04", epochs=9.0)), local_work=work)
    assert least.change.settings["federate.local_work.low"] == 1
    assert least.instead is None  # the median client makes the fewest


def test_clients_through_which_a_cause_acts_are_named() -> None:
    seen, settings = everything(), parse({"federate": EVERYTHING})
    for one in candidates(seen, settings):
        assert one.clients == EXPECTED[one.cause][0], one.cause
    wide = {"width": {"03": 0.5, "01": 0.25, "02": 1.0}}
    assert candidate("architecture_variation", seen, **wide).clients == ("01", "03")


# What a replay changes


@pytest.mark.parametrize(
    ("cause", "federate", "change"),
    [
        ("architecture_variation", {"width": {"01": 0.5}}, {"federate.width": {"01": 1.0}}),
        (
            "unequal_local_work",
            {"local_work": {"kind": "per_client", "epochs": 3, "by_client": {"04": 9}}},
            {"federate.local_work.epochs": 1, "federate.local_work.by_client": {"04": 1}},
        ),
        (
            "unequal_local_work",
            {"local_work": {"kind": "range"}},
            {"federate.local_work.low": 1, "federate.local_work.high": 1},
        ),
        ("client_learning_rate", {}, {"federate.client.learning_rate": RATE / 5}),
    ],
)
def test_change_takes_the_cause_away(cause: str, federate: dict[str, Any], change: dict[str, object]) -> None:
    assert candidate(cause, everything(), **federate).change.settings == change


def test_plain_averaging_takes_the_server_rate_away() -> None:
    settings = parse({"federate": EVERYTHING})
    change = candidate("server_learning_rate", findings(), **EVERYTHING).change
    optimizer = with_settings(settings, change.settings).federate.server_optimizer
    assert (optimizer.kind, optimizer.learning_rate) == ("sgd", 1.0)


def test_training_ends_before_the_rise() -> None:
    seen = findings(train_trend=-1.0)
    for last_sound, rounds in ((15, 15), (0, 1)):
        (ended,) = [one for one in candidates(seen, Settings(), last_sound) if one.cause == "overfitting"]
        assert ended.change.settings == {"federate.rounds": rounds}
        assert ended.change.says == f"with training ended after round {last_sound}"
        (first, *_) = remedies("overfitting", Settings(), (), seen, last_sound)
        assert first.settings == {"federate.rounds": rounds}


def test_work_is_made_equal_at_the_median_passes_rounded_and_one_at_least() -> None:
    work = {"local_work": {"kind": "range"}}
    for passes, epochs in ((2.6, 3), (0.2, 1)):
        seen = findings(*[a_client(f"{k:02}", epochs=passes) for k in range(4)], a_client("04", epochs=50.0))
        assert candidate("unequal_local_work", seen, **work).change.settings["federate.local_work.low"] == epochs


def test_rate_is_lowered_until_steps_no_longer_overshoot() -> None:
    for steepness, lower in ((0.5, RATE / 5), (5.0, RATE / 5), (NAN, RATE / 5), (20.0, RATE / 20)):
        seen = overshooting(findings(steepness=steepness), "00", "01", "02", "03", "04")
        change = candidate("client_learning_rate", seen).change
        assert change.settings == {"federate.client.learning_rate": pytest.approx(lower)}


def test_every_change_is_allowed() -> None:
    settings = parse({"federate": EVERYTHING})
    for one in candidates(everything(), settings):
        with_settings(settings, one.change.settings)


def test_unequal_sizes_are_made_equal_with_the_seed_of_the_run() -> None:
    (one,) = [one for one in candidates(findings(size_skew=0.6), parse({"seed": 7})) if one.cause == "quantity_skew"]
    assert list(one.change.surgery) == ["sizes made equal"]
    sites = {"00": (np.arange(40.0), np.zeros(40, np.int32)), "01": (np.arange(20.0), np.ones(20, np.int32))}
    after, expected = (change(sites) for change in (one.change.surgery["sizes made equal"], sizes_made_equal(7)))
    for client in sites:
        assert len(after[client][1]) == 30  # (40 + 20) / 2
        np.testing.assert_array_equal(after[client][0], expected[client][0])


# The causes of which the log, or a test of their own, decides


@pytest.mark.parametrize(
    ("federate", "changed"),
    [
        ({"faults": {"kind": "absent", "clients": ["04"], "from_round": 16}}, {"federate.faults.kind": "none"}),
        ({"exclude": ["01", "04"]}, {"federate.exclude": ["01"]}),
        ({}, {}),
        ({"faults": {"kind": "absent", "clients": ["03"], "from_round": 16}}, {}),
    ],
)
def test_missing_clients_take_part_again_where_a_setting_keeps_them_away(
    federate: dict[str, Any], changed: dict[str, Any]
) -> None:
    seen = replace(findings(), absence=replace(AWAY, clients=("04",)))
    found = candidate("missing_clients", seen, **federate)
    assert found.clients == ("04",)
    assert changed.items() <= found.change.settings.items()
    assert found.replayed is bool(changed)


def test_missing_clients_without_data_cannot_be_brought_back() -> None:
    away = replace(findings(num_clients=5), absence=replace(AWAY, clients=("07",)))
    fault = {"kind": "absent", "clients": ["07"], "from_round": 16}
    assert not candidate("missing_clients", away, faults=fault).replayed
    assert proposed(findings()) == []


def test_drift_is_undone_by_its_relabelling_or_proven_by_the_log() -> None:
    back = candidate("data_drift", replace(findings(), drift=DRIFTED))
    assert back.replayed
    (surgery,) = back.change.surgery.values()
    x, y = np.zeros((2, 1)), np.array([0, 1])
    changed = surgery({f"{k:02}": (x, y) for k in range(6)})
    # DRIFTED swaps the two labels of clients 00 to 04.
    assert [list(changed[client][1]) for client in ("00", "04", "05")] == [[1, 0], [1, 0], [0, 1]]
    assert not candidate("data_drift", replace(findings(), drift=replace(DRIFTED, then=()))).replayed
    assert "data_drift" not in proposed(replace(findings(), drift=replace(DRIFTED, certain=False)))


@pytest.mark.parametrize(
    ("in_conflict", "train_rise", "found"), [(True, -0.1, True), (True, 0.1, False), (False, -0.1, False)]
)
def test_hold_out_shift_is_possible_if_it_contradicts_the_model_and_the_training_loss_does_not_rise(
    in_conflict: bool, train_rise: float, found: bool
) -> None:
    seen = replace(findings(train_rise=train_rise), hold_out_in_conflict=in_conflict)
    assert ("hold_out_shift" in proposed(seen)) is found


def test_first_weights_contradict_nothing_so_the_course_of_the_losses_decides() -> None:
    parted = findings(train_trend=-1.0, val_trend=0.2)
    before_round_1 = {one.cause for one in candidates(parted, Settings(), 0)}
    assert "hold_out_shift" in before_round_1
    assert "hold_out_shift" not in proposed(parted)
