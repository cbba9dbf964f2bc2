"""The suite of planted causes: its scores, computed by hand, and one case from end to end."""

import importlib.util
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.diagnose.causes import CAUSES

SUITE = Path(__file__).parent / "benchmarks/planted"


def _module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"planted_{name}", SUITE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


score = _module("score")
cases = _module("cases")


def test_every_cause_is_planted() -> None:
    planted = {cause for plant in cases.PLANTS.values() for cause in plant.causes}
    assert planted == set(CAUSES), "tests/benchmarks/planted/cases.py: a Plant for each cause in CAUSES"


def _result(planted: list[str], causes: list[str], **given: Any) -> dict[str, Any]:
    fixed = {"case": "made.digits.0", "plant": "made", "planted_clients": [], "called_faulty": [], "rose": True}
    live = {"round": None, "onset": None, "alarm": None}
    more = {"num_clients": 10, "detected": bool(causes), "onset": 16, "live": live, "seconds": 1.0, "seed": 0}
    return {**fixed, **more, "planted": planted, "harmful": planted, "causes": causes, **given}


def test_wilson_interval_solves_its_equation() -> None:
    # Wilson's bounds solve |rate - p| = z sqrt(p (1 - p) / n).
    for hits, of in ((1, 10), (7, 9), (50, 200)):
        for bound in score.wilson(hits, of):
            assert abs(hits / of - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / of))
    # If all are right, the lower bound solves 1 - p = z sqrt(p (1 - p) / n), so p = n / (n + z²).
    assert score.wilson(20, 20) == pytest.approx((20 / (20 + 1.959964**2), 1.0))
    assert score.wilson(0, 0) == (0.0, 1.0)


def test_rates_count_exact_sets_pairs_and_false_claims() -> None:
    faulty = "faulty_clients"
    results = [
        _result([faulty], [faulty], planted_clients=["03"], called_faulty=["03"]),
        _result([faulty], [faulty], planted_clients=["03"], called_faulty=["03", "04"]),
        _result([faulty], ["label_skew"], planted_clients=["01", "02"]),
        _result([faulty, "label_skew"], ["label_skew", faulty], planted_clients=["05"], called_faulty=["05"]),
        _result([faulty, "label_skew"], ["label_skew"], planted_clients=["05"]),
        _result([faulty, "label_skew"], [faulty], harmful=[faulty], planted_clients=["05"], called_faulty=["05"]),
        _result(["overfitting"], [], rose=False),
        _result([], []),
        _result([], [faulty], called_faulty=["07"]),
    ]
    found = score.rates(results)
    assert found["cause named first"] == (2, 3)  # the case without a rise does not count
    assert found["with two planted, both among the first two"] == (1, 2)
    assert found["the planted clients found: one faulty"] == (1, 2)
    assert found["the planted clients found: several faulty"] == (0, 1)
    assert found["a claim although nothing was planted"] == (1, 2)
    # 04 and 07, of 9 runs with 10 clients, minus the 1 + 1 + 2 + 1 + 1 + 1 planted clients.
    assert found["honest clients called faulty, in non-IID runs"] == (2, 83)
    assert score.confusion(results)["overfitting (no rise)"] == {"none": 1}
    assert "No rise: made.digits.0" in score.report(results)
    assert "Only faulty_clients did harm: made.digits.0" in score.report(results)


def test_delay_counts_the_onset_as_one_and_a_false_alarm_as_never() -> None:
    rounds = [16, 18, 12, None]
    live = [{"round": number, "onset": number, "alarm": number} for number in rounds]
    found = score.delays([_result(["overfitting"], [], live=one) for one in live])
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
    # The client takes part in round 3, while it is healthy, and next in round 18.
    rounds = [[planted] if number in (3, 18) else others for number in range(1, 31)]
    assert one.onset(sizes, rounds) == 18
    assert one.onset(sizes, [others] * 30) is None
    assert cases.Case("client_rate", "digits_part", 0).onset(sizes, rounds) == 16
    # A pair with a rate has the onset of the rate, which acts on all clients.
    assert cases.Case("flip_server_rate", "digits_part", 0).onset(sizes, [others] * 30) == 16
    # All clients lose their examples, except the planted one.
    skewed = cases.Case("quantity_skew", "digits_part", 0)
    assert skewed.onset(sizes, [skewed.clients(sizes)] * 20 + [others] * 10) == 21
    assert cases.Case("none_iid", "digits_part", 0).onset(sizes, rounds) is None


def test_no_two_cases_are_one_run() -> None:
    sizes = {f"{k:02}": 10 for k in range(20)}
    runs: dict[str, str] = {}
    for case in cases.cases([0]):
        plant = cases.PLANTS[case.plant]
        told = [case.healthy(), case.planted(sizes), case.clients(sizes), str(plant.operation), str(plant.at_first)]
        assert runs.setdefault(json.dumps(told, sort_keys=True), case.name) == case.name


def test_cases_of_one_healthy_run_stand_together() -> None:
    def run(case: Any) -> str:
        return json.dumps([case.base, case.healthy(), str(cases.PLANTS[case.plant].at_first)], sort_keys=True)

    runs = [run(case) for case in cases.cases([0, 2])]
    assert sum(a != b for a, b in itertools.pairwise(runs)) == len(set(runs)) - 1


@pytest.mark.slow
def test_one_case_leaves_a_workspace_a_truth_and_a_result(tmp_path: Path) -> None:
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
    assert result["onset"] == truth["onset"] == 16
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
