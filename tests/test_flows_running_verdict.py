"""What a diagnosis is called in Prefect: the tag of the flow run, the sentence, the clients and the round."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.running.verdict import EVENTS, Verdict, read_verdict
from tasks.diagnose.diagnosis import Diagnosis, to_json
from tasks.diagnose.report.markdown import to_markdown
from tasks.diagnose.report.wording import headline
from tasks.files import read_json, write_json
from tests.diagnosis_values import NO_RISE, diagnosis, standing, standing_ruled_out


def written(folder: Path, answer: Diagnosis) -> Verdict | None:
    write_json(folder / "diagnosis.json", to_json(answer))
    (folder / "diagnosis.md").write_text(to_markdown(answer))
    return read_verdict(folder)


def test_a_rise_has_its_answer_cause_clients_and_round(tmp_path: Path) -> None:
    answer = diagnosis(client="site_7|a")
    verdict = written(tmp_path, answer)
    assert verdict == Verdict("LossRose", headline(answer), "faulty_clients", ("site_7|a",), 7)


def test_a_rise_without_a_proven_cause_is_a_rise(tmp_path: Path) -> None:
    unproven = written(tmp_path, replace(diagnosis(), causes=()))
    assert unproven
    assert (unproven.tag, unproven.cause, unproven.clients, unproven.round) == ("LossRose", "none", (), 7)


def test_a_loss_higher_than_it_should_be_is_high_only_with_a_proven_cause(tmp_path: Path) -> None:
    verdict = written(tmp_path, standing())
    assert verdict
    assert (verdict.tag, verdict.clients) == ("LossHigh", ("h3",))
    assert verdict.round == standing().causes[0].rounds[0]  # nothing rose: the round in which the cause began
    assert written(tmp_path, standing_ruled_out()) is None


@pytest.mark.parametrize("verdict", ["changed_setting", "none"])
def test_a_run_worse_than_another_is_worse_with_or_without_a_proven_cause(verdict: str, tmp_path: Path) -> None:
    written(tmp_path, standing())
    against = read_json(tmp_path / "diagnosis.json") | {"question": "against", "worse": True, "verdict": verdict}
    write_json(tmp_path / "diagnosis.json", against)
    found = read_verdict(tmp_path)
    assert found
    assert (found.tag, found.cause) == ("Worse", verdict)


def test_a_run_not_worse_than_another_has_no_verdict(tmp_path: Path) -> None:
    written(tmp_path, diagnosis())
    against = {"question": "against", "worse": False, "verdict": "none"}
    write_json(tmp_path / "diagnosis.json", read_json(tmp_path / "diagnosis.json") | against)
    assert read_verdict(tmp_path) is None


def test_a_run_that_ended_has_the_round_of_its_end(tmp_path: Path) -> None:
    written(tmp_path, diagnosis())
    ended = read_json(tmp_path / "diagnosis.json") | {"question": "ended", "ending": {"round": 9}}
    write_json(tmp_path / "diagnosis.json", ended)
    found = read_verdict(tmp_path)
    assert found
    assert (found.tag, found.round, EVENTS[found.tag]) == ("RunEnded", 9, "undrift.run.ended")


def test_a_healthy_run_and_a_run_without_a_diagnosis_have_no_verdict(tmp_path: Path) -> None:
    assert read_verdict(tmp_path) is None
    assert written(tmp_path, replace(diagnosis(), causes=(), rise=NO_RISE)) is None
