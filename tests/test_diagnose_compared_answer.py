"""From what the replays of two runs showed to the causes and the sentence of the report: on plain numbers."""

import math
from dataclasses import replace

import pytest

from tasks.diagnose.compared.answer import Answer
from tasks.diagnose.compared.comparison import Comparison, Outcome
from tasks.diagnose.compared.differences import differences
from tasks.diagnose.compared.side import Side
from tasks.diagnose.replay.effect import Effect
from tasks.diagnose.report.against_wording import rows
from tasks.diagnose.report.page import to_html
from tasks.diagnose.report.replay_wording import spent
from tasks.diagnose.report.wording import headline
from tests.diagnosis_values import FALLING, MINIMAL, client_log, round_log

RATE, BATCH = "federate.client.learning_rate", "federate.client.batch_size"


@pytest.fixture
def two_settings(settings_of, tmp_path):
    """Tonight's loss is 1.6; 0.5 with the rate set back; 0.4 as last night with the batch size back, too."""
    (tmp_path / "data/partition").mkdir(parents=True)
    content = {"clients": {"00": {"num_examples": 7, "digest": "a"}}, "classes": ["no", "yes"], "input_shape": [3]}
    this = Side("tonight", settings_of({RATE: 0.01, BATCH: 24}), tmp_path, content)
    other = Side("last night", settings_of({RATE: 0.05, BATCH: 20}), tmp_path, content)
    found = differences(this, other)
    rate, batch = sorted(found, key=lambda each: each.name != RATE)
    gap, rest = math.log(1.6 / 0.4), math.log(0.5 / 0.4)
    first = Outcome((rate,), (0.5,) * 3, (0.9, 0.5), (), Effect((math.log(1.6 / 0.5) / gap,) * 3))
    second = Outcome((batch,), (0.4,) * 3, (0.8, 0.4), (rate,), Effect((rest / rest,) * 3))
    compared = Comparison((1.6,) * 3, (0.4,) * 3, (2.0, 1.6), True, (1, 2), causes=(first, second))
    return Answer(this, other, found, compared, None)


def test_two_settings_proven_one_after_the_other_are_one_cause_with_both_set_back(two_settings):
    (cause,) = two_settings.causes
    assert cause.remedy.settings == {RATE: 0.05, BATCH: 20}
    assert cause.replay.ends_at == 0.4
    assert cause.replay.removes.mean == pytest.approx(1)
    answer = replace(MINIMAL, causes=two_settings.causes, standing=two_settings.standing, against=two_settings.against)
    assert headline(answer).startswith(
        f"val_loss ends at 1.6 instead of 0.4 because {RATE} and {BATCH} changed: with {RATE}=0.05 and with {BATCH}=20 "
        "it is 0.4 (3 of 3 seeds); remedy: "
    )


def test_the_dotted_line_of_the_picture_is_the_other_run_s_loss(two_settings):
    answer = replace(MINIMAL, causes=two_settings.causes, standing=two_settings.standing, against=two_settings.against)
    page = to_html(answer, round_log(FALLING), client_log(["00"], len(FALLING)), None, [])
    assert "the other run at its end: 0.4" in page
    assert "without the cause" not in page


def test_the_cost_of_the_replays_is_one_number(two_settings):
    answer = replace(MINIMAL, standing=two_settings.standing, against=two_settings.against, budget=two_settings.budget)
    assert list(spent(answer))[-1].startswith("The replays took 0 rounds of at most 0. No change")


def test_a_difference_taken_back_after_another_is_shown_with_what_both_take_away(two_settings):
    shown = {says.split(" ")[0]: rest for says, *rest in rows(two_settings.against)}
    # Alone, the rate takes away ln(1.6 / 0.5) of ln(1.6 / 0.4): 84 %.
    assert shown == {RATE: ["cause", "0.5", "84 %"], BATCH: ["cause (with others)", "0.4", "100 %"]}
