"""The suite of planted causes: its scores, computed by hand, and one case from end to end."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from planted_results import SUITE, made, suite_module

from tasks.diagnose.causes import CAUSES

bases, cases, score = map(suite_module, ("bases", "cases", "score"))
figures = suite_module("figures")


def test_every_cause_is_planted() -> None:
    planted = {cause for plant in cases.PLANTS.values() for cause in plant.causes}
    of_two_runs = {"changed_setting"}  # two_nights.py plants it
    assert planted == {*CAUSES, "unnamed"} - of_two_runs, (
        "tests/benchmarks/planted/plants.py: a Plant for each cause in CAUSES"
    )


def test_wilson_interval_solves_its_equation() -> None:
    # Wilson's bounds solve |rate - p| = z sqrt(p (1 - p) / n).
    for hits, of in ((1, 10), (7, 9), (50, 200)):
        for bound in figures.wilson(hits, of):
            assert abs(hits / of - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / of))
    # If all are right, the lower bound solves 1 - p = z sqrt(p (1 - p) / n), so p = n / (n + z²).
    assert figures.wilson(20, 20) == pytest.approx((20 / (20 + 1.959964**2), 1.0))
    assert figures.wilson(0, 0) == (0.0, 1.0)


def test_rates_count_exact_sets_pairs_and_false_claims() -> None:
    faulty = "faulty_clients"
    results = [
        made([faulty], [faulty], planted_clients=["03"], called_faulty=["03"]),
        made([faulty], [faulty], planted_clients=["03"], called_faulty=["03", "04"]),
        made([faulty], ["label_skew"], planted_clients=["01", "02"]),
        made([faulty, "label_skew"], ["label_skew", faulty], planted_clients=["05"], called_faulty=["05"]),
        made([faulty, "label_skew"], ["label_skew"], planted_clients=["05"]),
        made([faulty, "label_skew"], [faulty], harmful=[faulty], planted_clients=["05"], called_faulty=["05"]),
        made(["overfitting"], [], rose=False),
        made([], []),
        made([], [faulty], called_faulty=["07"]),
    ]
    found = figures.rates(results)
    assert found["cause named first, `rise`"] == (2, 3)  # the case without a rise does not count
    assert found["with two planted, both among the first two"] == (1, 2)
    assert found["the same: one faulty"] == (1, 2)
    assert found["the same: several faulty"] == (0, 1)
    assert found["a claim although nothing was planted"] == (1, 2)
    # 04 and 07, of 9 runs with 10 clients, minus the 1 + 1 + 2 + 1 + 1 + 1 planted clients.
    assert found["honest clients called faulty"] == (2, 83)
    # Of 7 planted runs, only label_skew for two faulty clients is wrong: half of a pair is not a wrong cause.
    assert found["a wrong cause claimed, where something is planted"] == (1, 7)
    assert figures.confusion(results)["overfitting (no harm)"] == {"none": 1}
    assert "No harm: made.digits.0" in score.report(results)
    assert "Only faulty_clients did harm: made.digits.0" in score.report(results)


def test_ended_runs_and_faults_of_one_round_are_no_rises() -> None:
    rate, faulty = "client_learning_rate", "faulty_clients"
    ended = {"kind": "ended", "trains": False, "question": None}
    once = {"kind": "once", "planted_clients": ["03"], "once_shown": True}
    results = [
        made([rate], [rate], kind="ended", trains=True, question="ended"),
        made([rate], ["overfitting"], **ended),
        made(["non_finite"], ["non_finite"], **ended, planted_clients=["03"], clients=[["03", "04"]]),
        made([faulty], [], **once, once_named=True),
        made([faulty], [], **{**once, "once_shown": False}, once_named=False),
        made([rate], [rate], spiked=7),
        made(["unnamed"], ["overfitting"]),
        made(["unnamed"], []),
    ]
    found = figures.rates(results)
    assert found["cause named first, `rise`"] == (1, 1)
    assert found["the same, the lasting fault after a spike"] == (1, 1)
    assert found["cause named first, `ended`"] == (2, 3)
    assert found["`ended` is the question of an ended run"] == (1, 3)
    assert found["the clients of an ended run found exactly"] == (0, 1)
    assert found["the proposed settings of an ended run train"] == (1, 3)
    assert found["a fault of one round named, with client and round"] == (1, 2)
    assert found["the same, if a loss shows it"] == (1, 1)
    assert found["a wrong cause claimed, where something is planted"] == (2, 8)


def test_healthy_runs_whose_own_loss_rises_are_also_counted_apart() -> None:
    claim = ["overfitting"]
    results = [made([], claim, own_rise=0.2), made([], [], own_rise=0.0), made([], claim, own_rise=0.05)]
    found = figures.rates(results)
    assert found["a claim although nothing was planted"] == (2, 3)
    assert found["the same, if val_loss itself did not rise"] == (1, 2)


def test_remedies_contradictions_and_failures_are_counted() -> None:
    rate = "client_learning_rate"
    results = [
        made([rate], [rate, "overfitting"], remedies=1, worse=True, remedy={}, contradictions=["61 rounds of 45"]),
        made([rate], [rate], worse=False, contradictions=[]),
        made([rate], [], error="rounds.csv has no rows", contradictions=None),
    ]
    found = figures.rates(results)
    assert found["proven causes that have a remedy"] == (2, 3)
    assert found["the proposed settings end worse than doing nothing"] == (1, 2)
    of_reports = figures.rates_of_reports(results)
    assert of_reports["reports that contradict themselves"] == (1, 2)
    assert of_reports["a diagnosis that failed"] == (1, 3)
    assert "Failed, rounds.csv has no rows: made.digits.0" in score.report(results)


def test_cost_is_the_diagnosis_over_its_training() -> None:
    # 6 s over 2 s with a rise; 1 s over 2 s without one. Ended runs and failed diagnoses have no cost.
    results = [
        made(["overfitting"], ["overfitting"], seconds=6.0),
        made([], []),
        made(["overfitting"], [], kind="ended"),
        made(["overfitting"], [], error="failed"),
    ]
    assert figures.costs(results, rose=True) == [3.0]
    assert figures.costs(results, rose=False) == [0.5]


def test_left_out_data_sets_have_their_own_figures() -> None:
    seen, unseen = made([], []), made([], ["overfitting"], base="wine", left_out=True)
    report = score.report([seen, unseen])
    first, second = report.split("## Data sets left out of all tuning")
    assert "| a claim although nothing was planted | 0.0 % | 0.0 to 79.3 % | 0/1 |" in first
    assert "| a claim although nothing was planted | 100.0 % | 20.7 to 100.0 % | 1/1 |" in second
    assert {"breast_cancer", "colour"} == set(bases.LEFT_OUT)


def test_delay_counts_the_onset_as_one_and_a_false_alarm_as_never() -> None:
    rounds = [16, 18, 12, None]
    live = [{"round": number, "onset": number, "alarm": number} for number in rounds]
    found = figures.delays([made(["overfitting"], [], live=one) for one in live])
    assert found == [1, 3, math.inf, math.inf]


def test_planted_clients_hold_at_least_half_the_mean() -> None:
    # 10 clients have 100 + 8 * 10 + 90 examples. Half the mean is 13.5; only "00" and "09" have as many.
    sizes = {f"{k:02}": 10 for k in range(10)} | {"00": 100, "09": 90}
    one = {client for seed in range(20) for client in cases.Case("flip_one", "digits", seed).clients(sizes)}
    assert one == {"00", "09"}
    several = cases.Case("flip_several", "digits", 0)
    assert several.clients(sizes) == ["00", "01", "09"]  # these are too few, so the three largest, ties by name
    assert several.clients(dict(reversed(sizes.items()))) == several.clients(sizes)


def test_other_half_of_a_pair_is_in_other_clients() -> None:
    sizes = {f"{k:02}": 10 for k in range(10)}
    case = cases.Case("width_flip", "digits", 0)
    narrow = set(case.planted(sizes)["federate.width"])
    assert len(narrow) == len(case.clients(sizes)) == 3
    assert not narrow & set(case.clients(sizes))


def test_onset_is_the_first_round_with_something_planted() -> None:
    sizes = {f"{k:02}": 10 for k in range(20)}
    one = cases.Case("scaled_one", "digits_part", 0)
    (planted,) = one.clients(sizes)
    others = sorted(set(sizes) - {planted})
    first = one.begins
    assert first > 3
    # The client takes part in round 2, while it is healthy, and next two rounds after the change.
    rounds = [[planted] if number in (2, first + 2) else others for number in range(1, 31)]
    assert one.onset(sizes, rounds) == first + 2
    assert one.onset(sizes, [others] * 30) is None
    rate = cases.Case("client_rate", "digits_part", 0)
    assert rate.onset(sizes, rounds) == rate.begins
    # A pair with a rate has the onset of the rate, which acts on all clients.
    pair = cases.Case("flip_server_rate", "digits_part", 0)
    assert pair.onset(sizes, [others] * 30) == pair.begins
    # All clients lose their examples, except the planted one.
    skewed = cases.Case("quantity_skew", "digits_part", 0)
    later = skewed.begins + 1
    assert skewed.onset(sizes, [skewed.clients(sizes)] * later + [others] * (30 - later)) == later + 1
    assert cases.Case("none_iid", "digits_part", 0).onset(sizes, rounds) is None


def test_onsets_are_anywhere_in_the_run_and_equal_in_each_half_of_a_pair() -> None:
    # 100 draws from rounds 3 to 27: a checkpoint (every 5 rounds) is right before 5 of these 25 rounds.
    drawn = [cases.Case("flip_one", "digits", seed).begins for seed in range(100)]
    assert (min(drawn), max(drawn)) == (3, 27)
    assert 5 <= sum(begins % 5 == 1 for begins in drawn) <= 40  # 20 are expected, with an sd of 4
    short = [cases.Case("flip_one_short", "digits", seed).begins for seed in range(50)]
    assert (min(short), max(short)) == (4, 8)
    pair = cases.Case("flip_client_rate", "digits", 0)
    assert {half.begins for half in pair.without().values()} == {pair.begins}
    faults = cases.Case("scaled_one", "digits", 3)
    assert faults.planted({"00": 10})["federate.faults.from_round"] == faults.begins


def test_a_spike_is_in_another_client_and_some_rounds_earlier() -> None:
    sizes = {f"{k:02}": 10 for k in range(10)}
    for seed in range(20):
        case = cases.Case("spike_flip", "digits", seed)
        assert 3 <= case.begins - case.spiked <= 6
        assert case.spiked >= 3
        assert not {*case.spike(sizes)["federate.faults.clients"]} & {*case.clients(sizes)}


def test_sample_has_all_healthy_runs_and_in_turn_all_others() -> None:
    every = cases.cases([1, 3, 5])
    one_of = {"rise": 5, "once": 5, "ended": 3, "standing": 8, "tracefl": 2}
    found = cases.sampled(every, one_of)
    healthy = [case for case in every if not case.what.causes]
    assert set(healthy) <= set(found)
    assert len(healthy) >= 300
    kinds = [case.what.kind for case in found if case.what.causes]
    assert kinds.count("rise") >= 150
    assert kinds.count("ended") >= 30
    # Five seeds that follow each other have each planted case once.
    fives = dict.fromkeys(one_of, 5)
    five = [case for case in cases.sampled(cases.cases([1, 3, 5, 7, 9]), fives) if case.what.causes]
    assert sorted((case.plant, case.base) for case in five) == sorted(
        (case.plant, case.base) for case in cases.cases([1]) if case.what.causes
    )


def test_no_two_cases_are_one_run() -> None:
    sizes = {f"{k:02}": 10 for k in range(20)}
    runs: dict[str, str] = {}
    for case in cases.cases([0]):
        plant = case.what
        operations = [str(plant.operation), str(plant.at_first), str(plant.of_hold_out), plant.grows, plant.kind]
        run = [
            case.base,
            case.healthy(),
            case.planted(sizes),
            case.clients(sizes),
            case.begins,
            plant.spike,
            *operations,
        ]
        assert runs.setdefault(json.dumps(run, sort_keys=True), case.name) == case.name


def test_cases_of_one_healthy_run_stand_together() -> None:
    def run(case: Any) -> str:
        return json.dumps([case.base, case.healthy(), str(cases.PLANTS[case.plant].at_first)], sort_keys=True)

    runs = [run(case) for case in cases.cases([0, 2])]
    assert sum(a != b for a, b in itertools.pairwise(runs)) == len(set(runs)) - 1


@pytest.mark.slow
def test_one_case_leaves_a_workspace_a_truth_and_amade(tmp_path: Path) -> None:
    command = [sys.executable, str(SUITE / "suite.py"), str(tmp_path), "--seeds", "0", "--only"]
    case = "non_finite.digits_logistic.0"
    ran = subprocess.run([*command, case], capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    truth = json.loads((tmp_path / case / "truth.json").read_text())
    result = json.loads((tmp_path / "results" / f"{case}.json").read_text())
    assert truth["causes"] == ["non_finite"]
    assert len(truth["clients"]) == 1
    assert len(truth["twin"]["val_loss"]) == 30
    assert result["planted_clients"] == truth["clients"]
    assert result["onset"] == truth["onset"] == cases.Case("non_finite", "digits_logistic", 0).begins
    assert result["rose"]
    assert (tmp_path / case / "workspace/reports/clients.csv").is_file()
    assert not (tmp_path / case / "workspace/truth.json").exists()
    again = subprocess.run([*command, case], capture_output=True, text=True, timeout=600)
    assert again.stdout == ""  # the case has a result


@pytest.mark.slow
def test_both_of_two_causes_are_named_where_one_hides_the_other(tmp_path: Path) -> None:
    case = "flip_client_rate.digits_logistic.0"
    command = [sys.executable, str(SUITE / "suite.py"), str(tmp_path), "--seeds", "0", "--only", case]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    result = json.loads((tmp_path / "results" / f"{case}.json").read_text())
    assert result["harmful"] == ["faulty_clients", "client_learning_rate"]
    assert sorted(result["causes"]) == ["client_learning_rate", "faulty_clients"]
    assert result["called_faulty"] == result["planted_clients"]
