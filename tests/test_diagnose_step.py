import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnosis_logs import CLIENTS, Row, client_rows, losses_of, round_rows, write

from tasks.diagnose import diagnose
from tasks.diagnose.consistency import contradictions
from tasks.files import write_rows
from tasks.settings import parse

SETTINGS = parse({})


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes no page: one takes a second, and these tests would make a hundred. test_diagnose_page.py tests the page."""
    monkeypatch.setattr("tasks.diagnose.report.page.to_html", lambda *_: "<!DOCTYPE html>")


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} in diagnosis.json")


def run(folder: Path) -> dict[str, Any]:
    diagnose(SETTINGS, folder)
    found = json.loads((folder / "reports/diagnosis.json").read_text(), parse_constant=refuse)
    assert isinstance(found, dict)
    assert contradictions(found) == []
    return found


def test_diagnosis_has_the_keys_of_the_contract(tmp_path: Path) -> None:
    found = run(write(tmp_path, round_rows(losses_of(0, onset=19, height=2)), client_rows(0, drifted=["03"])))
    assert {"verdict", "increase", "causes", "healthy", "limits"} <= found.keys()
    assert set(found["increase"]) == {"detected", "round", "until", "loss_before", "loss_after", "confidence"}
    assert (found["verdict"], found["causes"]) == ("none", [])
    for one in found["observations"]:
        assert {"client", "signal", "value", "expected", "before", "says"} <= one.keys()
    assert all(isinstance(sentence, str) and sentence.endswith(".") for sentence in found["limits"])


def test_planted_rise_and_its_client_are_named(tmp_path: Path) -> None:
    """The loss doubles from round 19 on, 23 times its noise (ln 2 / 0.03). It is found in all of 10 seeds."""
    for seed in range(10):
        rounds = round_rows(losses_of(seed, onset=19, height=2))
        found = run(write(tmp_path, rounds, client_rows(seed, drifted=["03"])))
        assert found["increase"]["detected"]
        assert found["increase"]["round"] == 19
        assert found["increase"]["until"] == 30
        assert found["increase"]["confidence"] >= 0.99
        # 0.3 + 2 exp(-t / 5) is 0.38 in round 16, 0.36 in round 18 and 0.33 in round 22, which doubled is 0.66.
        assert found["increase"]["loss_before"] == pytest.approx(0.37, abs=0.05)
        assert found["increase"]["loss_after"] == pytest.approx(0.65, abs=0.08)
        assert found["observations"][0]["client"] == "03"
        assert "03" not in found["healthy"]


def test_nothing_is_claimed_where_nothing_was_planted(tmp_path: Path) -> None:
    """At a significance of 0.01, 3 claims in 20 runs have a probability of 0.1 %."""
    claimed = 0
    for seed in range(20):
        found = run(write(tmp_path, round_rows(losses_of(seed)), client_rows(seed)))
        claimed += found["increase"]["detected"]
        if not found["increase"]["detected"]:
            assert found["observations"] == []
            assert (found["healthy"], found["not_looked_at"]) == ([], CLIENTS)
            assert found["increase"]["round"] is None
    assert claimed <= 2


def test_observation_compares_the_client_with_the_cohort_and_with_its_past(tmp_path: Path) -> None:
    found = run(write(tmp_path, round_rows(losses_of(1, onset=19, height=2)), client_rows(1, drifted=["07"])))
    norm = next(one for one in found["observations"] if one["signal"] == "update_norm")
    assert norm["client"] == "07"
    assert norm["unusual"] is True
    assert norm["value"] == pytest.approx(4, rel=0.2)  # planted: 4; the cohort has 1, and client 07 had 1 before
    assert norm["expected"] == pytest.approx(1, rel=0.2)
    assert norm["before"] == pytest.approx(1, rel=0.2)
    assert norm["rounds"][0] == 19
    assert norm["says"].startswith(f"Client 07 sent updates of length {norm['value']:.3g}; ")


def test_honest_client_that_always_was_unusual_did_not_drift(tmp_path: Path) -> None:
    rounds = round_rows(losses_of(2, onset=19, height=2))
    found = run(write(tmp_path, rounds, client_rows(2, drifted=["03"], odd="05")))
    assert found["observations"][0]["client"] == "03"
    assert "05" in found["healthy"]


def test_most_drifted_clients_are_named_as_usual_where_none_drifted(tmp_path: Path) -> None:
    found = run(write(tmp_path, round_rows(losses_of(3, onset=19, height=2)), client_rows(3)))
    assert found["increase"]["detected"]
    for one in found["observations"]:
        if not one["unusual"]:
            assert one["says"].endswith("within the usual spread.")


def test_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    rounds, clients = round_rows(losses_of(4, onset=19, height=2)), client_rows(4, drifted=["03"])
    one = run(write(tmp_path, rounds, clients))
    assert run(write(tmp_path, rounds[::-1], clients[::-1])) == one


def test_same_logs_give_the_same_bytes(tmp_path: Path) -> None:
    folder = write(tmp_path, round_rows(losses_of(5, onset=19, height=2)), client_rows(5, drifted=["03"]))
    files = [folder / "reports/diagnosis.json", folder / "reports/diagnosis.md"]
    diagnose(SETTINGS, folder)
    before = [file.read_bytes() for file in files]
    diagnose(SETTINGS, folder)
    assert [file.read_bytes() for file in files] == before


def test_failed_client_is_named_with_its_rounds(tmp_path: Path) -> None:
    clients = client_rows(6)
    for row in clients:
        if row["client"] == "02" and row["round"] in (4, 9):
            row.update(finite=False, update_norm=float("nan"), loss_after=float("inf"))
    found = run(write(tmp_path, round_rows(losses_of(6)), clients))
    failed = [one for one in found["observations"] if one["signal"] == "failures"]
    assert [(one["client"], one["rounds"], one["value"], one["expected"]) for one in failed] == [("02", [4, 9], 2, 0)]
    assert "rounds 4, 9" in failed[0]["says"]
    assert "02" not in found["healthy"]


def test_update_that_is_not_finite_is_a_failure_without_the_column_finite(tmp_path: Path) -> None:
    clients = client_rows(7)
    clients[12]["update_norm"] = float("nan")  # round 2, client 02
    found = run(write(tmp_path, round_rows(losses_of(7)), clients, drop=["finite"]))
    failures = [one for one in found["observations"] if one["signal"] == "failures"]
    assert [(one["client"], one["rounds"]) for one in failures] == [("02", [2])]


def test_not_finite_loss_is_a_rise_from_its_round(tmp_path: Path) -> None:
    losses = losses_of(8)
    losses[21:] = np.nan
    found = run(write(tmp_path, round_rows(losses), client_rows(8)))
    assert (found["increase"]["detected"], found["increase"]["round"], found["increase"]["until"]) == (True, 22, 30)
    assert found["increase"]["loss_after"] is None
    assert found["increase"]["confidence"] == 1
    assert found["detection"]["kind"] == "not_finite"


def test_not_finite_train_loss_between_two_validations_counts(tmp_path: Path) -> None:
    rounds = round_rows(losses_of(9, 60), every=5)
    rounds[31]["train_loss"] = float("inf")
    found = run(write(tmp_path, rounds, client_rows(9, 60)))
    assert (found["increase"]["round"], found["detection"]["loss"]) == (32, "train_loss")


def test_rise_between_two_validations_is_found_within_their_distance(tmp_path: Path) -> None:
    for seed in range(2):
        rounds = round_rows(losses_of(seed, 60, onset=32, height=2.5), every=5)
        found = run(write(tmp_path, rounds, client_rows(seed, 60, drifted=["03"], onset=32)))
        assert found["increase"]["round"] == 35  # the first measured round of the rise from 32 to 60
        assert found["observations"][0]["rounds"][0] == 31  # the first round after the validation in round 30
        assert found["observations"][0]["client"] == "03"
        assert any("12 of 60 rounds" in sentence for sentence in found["limits"])


def test_training_loss_that_rose_clearly_before_val_loss_is_what_is_told(tmp_path: Path) -> None:
    clients = client_rows(12, onset=19, drifted=CLIENTS[:5])
    for onset, loss, later in ((26, "train_loss", True), (22, "train_loss", True), (21, "val_loss", False)):
        found = run(write(tmp_path, round_rows(losses_of(12, onset=onset, height=2)), clients))
        assert found["detection"]["loss"] == loss
        assert (
            any(
                sentence.startswith(f"In rounds {onset} to ") and "val_loss rose too" in sentence
                for sentence in found["limits"]
            )
            is later
        )
        assert not any("hold-out data did not rise" in sentence for sentence in found["limits"])


def test_spike_of_the_training_loss_that_is_over_does_not_take_the_place_of_a_rise(tmp_path: Path) -> None:
    rounds = round_rows(losses_of(12, onset=24, height=2))
    rounds[14]["train_loss"] *= 8
    found = run(write(tmp_path, rounds, [{**row, "loss_before": None} for row in client_rows(12)]))
    assert (found["increase"]["round"], found["detection"]["loss"]) == (24, "val_loss")


def test_train_loss_is_tested_where_val_loss_is_missing(tmp_path: Path) -> None:
    rounds, clients = round_rows(losses_of(10, onset=19, height=2)), client_rows(10, drifted=["03"])
    found = run(write(tmp_path, rounds, clients, drop=["val_loss"]))
    assert (found["increase"]["round"], found["detection"]["loss"]) == (19, "train_loss")
    assert any("val_loss has too few values" in sentence for sentence in found["limits"])


def test_train_loss_is_tested_where_val_loss_is_too_rare(tmp_path: Path) -> None:
    found = run(write(tmp_path, round_rows(losses_of(11), every=10), client_rows(11)))
    assert (found["detection"]["loss"], found["detection"]["num_losses"]) == ("train_loss", 30)


def pruned(seed: int, federate_height: float) -> list[Row]:
    """20 rounds of training, `federate_height` times the loss from 15 on, then 10 of pruning with 3 times the loss."""
    losses = np.concatenate([losses_of(seed, 20, onset=15, height=federate_height), np.full(10, 1.0)])
    losses[20:] *= np.exp(0.03 * np.random.default_rng(seed + 100).standard_normal(10))
    phases = ["federate"] * 20 + ["prune"] * 10
    return round_rows(losses, phase=phases, sparsity=[0.0] * 20 + [0.08 * k for k in range(1, 11)])


def test_rise_while_pruning_is_an_event(tmp_path: Path) -> None:
    found = run(write(tmp_path, pruned(12, 1.0), client_rows(12)))
    assert not found["increase"]["detected"]
    assert [(event["round"], event["phase"]) for event in found["detection"]["events"]] == [(21, "prune")]
    assert any("rose in rounds 21 to " in sentence and "pruned" in sentence for sentence in found["limits"])


def test_rise_before_pruning_is_not_hidden_by_that_of_pruning(tmp_path: Path) -> None:
    found = run(write(tmp_path, pruned(13, 2.5), client_rows(13, drifted=["03"], onset=15)))
    assert (found["increase"]["round"], found["detection"]["phase"]) == (15, "federate")
    assert found["detection"]["sparsity"] is None
    assert found["observations"][0]["client"] == "03"


def test_pruning_does_not_hide_a_rise_that_only_the_training_loss_shows(tmp_path: Path) -> None:
    rows = pruned(14, 1.0)
    for row in rows:
        row["train_loss"] *= 2.5 if row["round"] >= 13 else 1.0
    found = run(write(tmp_path, rows, client_rows(14, drifted=["03"], onset=13)))
    assert (found["detection"]["loss"], found["detection"]["phase"]) == ("train_loss", "federate")
    assert abs(found["increase"]["round"] - 13) <= 1


def test_one_round_claims_nothing_and_says_why(tmp_path: Path) -> None:
    found = run(write(tmp_path, round_rows([2.3]), client_rows(14, 1)))
    assert found["increase"] == {
        "detected": False, "round": None, "until": None, "loss_before": None, "loss_after": None, "confidence": 0.0,
    }  # fmt: skip
    assert any("measured in only 1 round." in sentence for sentence in found["limits"])


def test_rise_in_the_first_rounds_says_that_no_past_is_known(tmp_path: Path) -> None:
    losses = losses_of(15, 12)
    losses[0:] = np.nan
    found = run(write(tmp_path, round_rows(losses), client_rows(15, 12, drifted=["03"], onset=1)))
    assert found["increase"]["round"] == 1
    assert found["observations"][0]["client"] == "03"
    assert any("shows no client before" in sentence for sentence in found["limits"])


def test_single_client_is_compared_with_its_own_past(tmp_path: Path) -> None:
    clients = [row for row in client_rows(16, drifted=["03"]) if row["client"] == "03"]
    found = run(write(tmp_path, round_rows(losses_of(16, onset=19, height=2)), clients))
    assert found["observations"][0]["client"] == "03"
    assert found["observations"][0]["expected"] is None
    assert any("own past" in sentence for sentence in found["limits"])


def test_cosine_to_the_mean_is_used_only_without_the_robust_one(tmp_path: Path) -> None:
    rounds, clients = round_rows(losses_of(17, onset=19, height=2)), client_rows(17, drifted=["03"])
    with_both = run(write(tmp_path, rounds, clients))
    assert "update_cosine" not in {one["signal"] for one in with_both["observations"]}
    without = run(write(tmp_path, rounds, clients, drop=["update_cosine_robust"]))
    assert any("cosine" in sentence for sentence in without["limits"])


def test_fewest_columns_are_enough(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "reports/rounds.csv",
        ["round", "val_loss", "their_own"],
        [{"round": t, "val_loss": loss, "their_own": "x"} for t, loss in enumerate(losses_of(18, 30, 19, 2), 1)],
    )
    rows = [{key: row[key] for key in ("round", "client", "update_norm")} for row in client_rows(18, drifted=["03"])]
    write_rows(tmp_path / "reports/clients.csv", ["round", "client", "update_norm"], rows)
    found = run(tmp_path)
    assert (found["increase"]["round"], found["observations"][0]["client"]) == (19, "03")


def test_markdown_gives_the_answer_the_drift_and_the_limits(tmp_path: Path) -> None:
    found = run(write(tmp_path, round_rows(losses_of(19, onset=19, height=2)), client_rows(19, drifted=["03"])))
    text = (tmp_path / "reports/diagnosis.md").read_text()
    assert "(val_loss) rose in round 19" in text
    assert found["observations"][0]["says"] in text
    assert all(sentence in text for sentence in found["limits"])


def test_the_log_has_the_answer_with_numbers_first_and_the_path_of_the_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "run", round_rows(losses_of(20)), client_rows(20))
    with caplog.at_level(logging.INFO, logger="tasks.diagnose"):
        diagnose(SETTINGS, folder)
    answer, report = [record.getMessage() for record in caplog.records]
    assert answer.startswith("30 rounds: ")
    assert report == "report: run/reports/diagnosis.html"
    assert Path("run/reports/diagnosis.html").is_file()


def test_diagnosis_needs_no_tensorflow() -> None:
    code = "import sys, tasks.diagnose; sys.exit('tensorflow' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
