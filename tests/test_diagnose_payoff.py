"""The section of the report that says whether the federation pays."""

import pytest

from tasks.diagnose.payoff import TITLE, payoff
from tasks.diagnose.report.markdown import to_markdown
from tasks.diagnose.report.page import to_html
from tasks.files import write_json, write_rows
from tasks.round_log.read import read_clients, read_rounds
from tests.diagnosis_values import MINIMAL

SAID = ["The federation pays for 1 of 2 clients.", "Better alone: site_1."]


@pytest.fixture
def reports(tmp_path):
    """({phase, val_loss} of each round) -> the folder of a run that was evaluated with a loss of 0.5."""

    def written(rounds):
        rows = [{"round": t, "phase": phase, "val_loss": loss} for t, (phase, loss) in enumerate(rounds, start=1)]
        write_rows(tmp_path / "rounds.csv", ("round", "phase", "val_loss"), rows)
        of_client = [{"round": 1, "client": "00", "update_norm": 1.0}]
        write_rows(tmp_path / "clients.csv", ("round", "client", "update_norm"), of_client)
        write_json(tmp_path / "evaluation.json", {"global": {"test": {"loss": 0.5}}, "baselines": {"says": SAID}})
        return tmp_path

    return written


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ([("federate", 0.9), ("federate", 0.50001), ("prune", 0.7)], SAID),
        ([("federate", 0.5), ("federate", 0.9), ("prune", 0.5)], []),  # of another run
        ([("federate", 0.9), ("federate", None)], SAID),  # the last round was not measured
    ],
)
def test_only_an_evaluation_of_the_run_is_used(rounds, said, reports):
    folder = reports(rounds)
    assert payoff(folder, read_rounds(folder / "rounds.csv")) == said


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"global": {"test": {"loss": 0.5}}}', '{"baselines": 1}'])
def test_without_baselines_nothing_is_said(content, reports):
    folder = reports([("federate", 0.5)])
    (folder / "evaluation.json").unlink()
    if content is not None:
        (folder / "evaluation.json").write_text(content)
    assert payoff(folder, read_rounds(folder / "rounds.csv")) == []


def test_report_has_the_section_only_with_an_answer(reports):
    folder = reports([("federate", 0.5)] * 9)
    logs = read_rounds(folder / "rounds.csv"), read_clients(folder / "clients.csv")
    for pays in ([], SAID):
        text, page = to_markdown(MINIMAL, pays), to_html(MINIMAL, *logs, None, pays)
        assert (f"## {TITLE}\n\n{' '.join(SAID)}" in text) == (f">{TITLE}<" in page) == bool(pays)
        assert (" ".join(SAID) in page) == bool(pays)
