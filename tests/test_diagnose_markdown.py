import html
import re
from dataclasses import replace

import pytest
from diagnosis_values import (
    HOSTILE,
    LOOKED_FOR,
    MEDIAN,
    MINIMAL,
    SCAFFOLD,
    diagnosis,
    standing,
    standing_ruled_out,
    standing_too_slow,
    with_cause,
    with_replay,
    with_settings_of_remedy,
)

from tasks.diagnose.causes import CAUSES
from tasks.diagnose.diagnosis import Diagnosis
from tasks.diagnose.report.markdown import escape, to_markdown

RATE = "too high a client learning rate"


def test_remedies_of_two_causes_say_what_they_are_against() -> None:
    answer = diagnosis()
    (first,) = answer.causes
    slower = replace(SCAFFOLD, settings={"federate.client.learning_rate": 0.1})
    second = replace(first, cause="client_learning_rate", remedy=slower)
    text = to_markdown(replace(answer, causes=(first, second)))
    assert "Against faulty clients: " in text
    assert f"Against {RATE}: " in text
    # A remedy that is proposed against both causes appears once.
    text = to_markdown(replace(answer, causes=(first, replace(second, remedy=first.remedy))))
    assert text.count("Against ") == 1
    assert f"Against faulty clients and {RATE}: " in text


def test_a_cause_without_a_remedy_says_whether_one_was_tried() -> None:
    answer = diagnosis()
    (first,) = answer.causes
    answer = replace(answer, causes=(first, replace(first, cause="client_learning_rate", remedy=None)))
    assert f"Against {RATE}, no remedy was tried." in to_markdown(answer)
    against = ("faulty_clients", "client_learning_rate")
    answer = replace(answer, remedies=tuple(replace(each, against=against) for each in (SCAFFOLD, MEDIAN)))
    text = to_markdown(answer)
    assert f"Against {RATE}, no setting that was tried in addition removes more of the rise." in text
    assert "Against faulty clients, " not in text
    useless = replace(answer, remedies=tuple(replace(each, recovers=-0.1) for each in answer.remedies))
    text = to_markdown(with_cause(useless, remedy=None))
    assert f"Against faulty clients and {RATE}, no setting that was tried removes any of the rise." in text
    lost = replace(answer, remedies=(replace(SCAFFOLD, confirmed=False),))
    text = to_markdown(with_cause(lost, remedy=None))
    assert "Against faulty clients, no remedy is proposed: with each remedy that was replayed to the end" in text
    assert "| SCAFFOLD | 86 % | 0.39 (run: 0.83) |" in text


def test_no_remedy_is_tried_against_a_fault_that_has_gone() -> None:
    gone = with_cause(with_replay(replace(diagnosis(), remedies=()), kind="log_without"), remedy=None)
    text = to_markdown(gone)
    assert "Against faulty clients, no remedy was tried: the cause has gone, so a replay has nothing to remedy." in text
    assert "A cause that has gone is proven if (1) the log shows it in the rows of a few clients" in text


def test_causes_without_a_remedy_share_the_sentence_and_one_replay_is_shown_once() -> None:
    answer = diagnosis()
    first = replace(answer.causes[0], remedy=None)
    pair = replace(answer, remedies=(), causes=(first, replace(first, cause="client_learning_rate")))
    text = to_markdown(pair)
    assert f"Against faulty clients and {RATE}, no remedy was tried." in text
    assert text.count("| round | nothing changed | with the change |") == 1
    assert "The same replay as for faulty clients proves this: it takes both causes away." in text
    assert "Rise removed without both causes" in text
    assert "A second cause is claimed" not in text
    other = replace(pair, causes=(first, replace(pair.causes[1], replay=replace(first.replay, seeds=1))))
    text = to_markdown(other)
    assert text.count("| round | nothing changed | with the change |") == 2
    assert "A second cause is claimed if the loss falls clearly further without it; one seed is enough." in text


def test_a_remedy_that_was_not_replayed_to_the_end_is_not_said_to_remove_nothing() -> None:
    text = to_markdown(with_cause(replace(diagnosis(), remedies=(MEDIAN,)), remedy=None))
    assert "no remedy is proposed: where one removes some of the rise, the model learns nothing." in text
    none = replace(MEDIAN, recovers=0.004)
    text = to_markdown(with_cause(replace(diagnosis(), remedies=(none,)), remedy=None))
    assert "no setting that was tried removes any of the rise." in text


def test_negative_shares_are_explained_where_there_are_some() -> None:
    below = "Below 0 %, the loss was higher with the change than without it."
    answer = diagnosis()
    assert below not in to_markdown(answer)
    # -0.4 % is shown as 0 %.
    for share, times in ((-0.004, 0), (-0.2, 1)):
        ruled_out = (replace(answer.ruled_out[0], removes=share),)
        assert to_markdown(replace(answer, ruled_out=ruled_out)).count(below) == times
        assert to_markdown(replace(answer, remedies=(SCAFFOLD, replace(MEDIAN, recovers=share)))).count(below) == times


def test_clients_that_were_not_looked_at_are_not_among_those_with_nothing_unusual() -> None:
    text = to_markdown(replace(diagnosis(), looked_at=(7, 9), not_looked_at=("02",)))
    assert "Nothing unusual was found in rounds 7 to 9 at 2 clients: 00, 01." in text
    assert "Not looked at: client 02. The log has no rows to compare in rounds 7 to 9." in text
    text = to_markdown(replace(diagnosis(), healthy=("00",)))
    assert "No failed update, and no round far outside the usual range, was found at 1 client: 00." in text
    assert "Not looked at" not in text


def test_a_high_loss_is_told_with_what_was_looked_at_and_where_replays_end() -> None:
    text = to_markdown(standing())
    assert re.findall(r"^##? (.*)", text, re.MULTILINE) == [
        "Why is the loss higher than it should be?", "Evidence", "Remedy", "Causes ruled out", "What proves a cause",
        "What was looked at", "Limits of this diagnosis",
    ]  # fmt: skip
    assert (
        "Replay of rounds 1 to 12 with 3 seeds: in the same rounds without client h3, val_loss ends at 0.19. With "
        "nothing changed, it ends at 0.31 (mean of rounds 8 to 12).\n"
    ) in text
    assert "the hold-out loss ends at 0.192; in the run it ended at 0.312." in text
    assert "This removes 97 % of the excess loss." in text
    assert "| remedy | excess loss removed | hold-out loss at the end | settings |" in text
    assert (
        "| cause | replay | loss at the end (nothing changed: 0.31) | why |\n| --- | --- | --- | --- |\n"
        "| different label mixes | the same rounds with labels dealt evenly | 0.305 | without it, the loss does not "
        "end lower by more than the noise of seeds |\n"
    ) in text
    assert text.endswith(
        f"- {LOOKED_FOR[0]}\n- {LOOKED_FOR[1]}\n\nNothing unusual was found at 2 clients: h0, h1.\n\n"
        "Not looked at:\n\n- The data of client h9.\n- Client h9 has only 3 examples.\n\n"
        "## Limits of this diagnosis\n\nNone.\n"
    )


@pytest.mark.parametrize("answer", [standing(), standing_ruled_out(), standing_too_slow()])
def test_nothing_is_said_of_a_rise_where_nothing_rose(answer: Diagnosis) -> None:
    text = to_markdown(answer)
    assert "rise" not in text.replace("did not rise", "")
    assert "rose" not in text


def test_every_way_to_have_no_remedy_against_a_high_loss_speaks_of_it() -> None:
    answer = standing()
    leave_out, _ = answer.remedies
    nothing = with_cause(answer, remedy=None)
    failed = replace(leave_out, confirmed=False)
    for remedies, words in (
        ((failed,), "hold-out loss ends higher than without it or no better than chance, or the excess loss stays."),
        ((replace(failed, ending=None),), "where one removes some of the excess loss, the model learns nothing."),
        ((replace(failed, ending=None, recovers=0.0),), "that was tried removes any of the excess loss."),
    ):
        assert words in to_markdown(replace(nothing, remedies=remedies))
    unsure = with_cause(answer, remedy=replace(failed, ending=None))
    assert "this removes 97 % of the excess loss in a short replay" in to_markdown(unsure)


def test_of_a_long_replay_the_end_is_shown_if_the_end_is_the_question() -> None:
    losses = tuple(float(t) for t in range(1, 101))
    early, late = "\n| 1 | 1 | 1 |\n", "\n| 100 | 100 | 100 |\n"
    text = to_markdown(with_replay(standing(), unchanged=losses, changed=losses))
    assert (early in text, late in text) == (False, True)
    text = to_markdown(with_replay(diagnosis(), unchanged=losses, changed=losses, from_round=0))
    assert (early in text, late in text) == (True, False)


def test_a_negative_share_of_a_tried_cause_is_explained_only_where_shares_are_shown() -> None:
    answer = replace(standing(), remedies=())
    worse = replace(answer, ruled_out=(replace(answer.ruled_out[0], removes=-0.2),))
    assert "Below 0 %" not in to_markdown(worse)


def test_clients_of_a_log_in_which_nothing_rose_are_not_called_usual() -> None:
    text = to_markdown(replace(MINIMAL, not_looked_at=("00", "01")))
    assert (
        "## What was looked at\n\nNot looked at: clients 00 and 01. Their data and updates were not compared with "
        "anything. The log shows only that none of them failed, and that no single round of them is far outside the "
        "usual range.\n"
    ) in text
    assert "unusual" not in text


def test_signals_that_are_not_unusual_are_not_said_to_be_so_of_their_client() -> None:
    answer = diagnosis()
    (seen,) = answer.observations
    assert "Unusual does not mean faulty" in to_markdown(answer)
    text = to_markdown(replace(answer, observations=(replace(seen, unusual=False),)))
    assert "None of these signals is unusual. They are the ones that come nearest to it." in text
    assert "Unusual does not mean faulty" not in text


def test_a_remedy_says_how_it_ends_beside_the_run_and_whether_that_was_replayed() -> None:
    text = to_markdown(diagnosis())
    assert "In a replay to round 12, the hold-out loss ends at 0.39; in the run it ended at 0.83." in text
    assert "not confirmed" not in text
    short = replace(SCAFFOLD, confirmed=False, ending=None)
    text = to_markdown(with_cause(diagnosis(), remedy=short))
    assert "remedy (not confirmed): SCAFFOLD" in text
    assert "which removes 86 % of the rise in a short replay." in text
    assert "Not confirmed: this removes 86 % of the rise in a short replay" in text


def test_advice_has_no_settings_to_copy() -> None:
    advice = replace(SCAFFOLD, settings={}, says="correct the labels of client 03")
    text = to_markdown(with_cause(diagnosis(), remedy=advice))
    assert "; remedy: correct the labels of client 03, which removes 86 % of the rise." in text
    assert "```" not in text


@pytest.mark.parametrize("cause", CAUSES)
def test_markdown_tells_every_cause(cause: str) -> None:
    text = to_markdown(diagnosis(cause))
    assert escape(CAUSES[cause].words.because.format("client 03")) in text
    assert "`-S federate.client.kind=scaffold`" in text
    assert "```sh\n-S federate.client.kind=scaffold\n```" in text
    assert "```yaml\nfederate:\n  client:\n    kind: scaffold\n```" in text
    assert "| the median | 30 % | not replayed to the end | -S federate.aggregator.kind=median |" in text


def test_markdown_of_a_healthy_run_is_short() -> None:
    text = to_markdown(MINIMAL)
    assert re.findall(r"^#+ (.*)", text, re.MULTILINE) == [
        "Did the loss go up?", "Limits of this diagnosis",
    ]  # fmt: skip


def test_tables_have_as_many_cells_in_each_row() -> None:
    answer = diagnosis(client="a|b\\|c\n|d")
    rows = [line for line in to_markdown(answer).splitlines() if line.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows]
    heads = [k for k, row in enumerate(rows) if set(row) <= set("|- ") and "---" in row]
    for head in heads:
        width = cells[head]
        assert cells[head - 1] == width
        below = next((k for k in heads if k > head), len(rows) + 1)
        assert cells[head : below - 1] == [width] * len(cells[head : below - 1])


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        "[a](javascript:alert(1))",
        "![a](https://example.org/x.png)",
        "<b>a</b> **b** _c_ ~~d~~ `e`",
        "https://example.org www.example.org a@example.org",
        "# head",
        "- item",
        "1. item",
        "> quote",
        "val_loss of client_03_ & co: a_b",
        "&lt;script&gt;",
        "a\\",
    ],
)
def test_escaped_text_renders_as_it_is(text: str) -> None:
    markdown = pytest.importorskip("markdown_it", reason="markdown-it-py comes with rich")
    rendered = markdown.MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(escape(text))
    assert html.unescape(rendered.removeprefix("<p>").removesuffix("</p>\n")) == text
    assert "<" not in rendered[3:-5]
    assert "://" not in escape(text).replace("\\://", "")


def test_hostile_client_adds_no_line_and_no_tag() -> None:
    plain, hostile = to_markdown(diagnosis()), to_markdown(diagnosis(client=f"{HOSTILE}\n# x\n```"))
    assert len(hostile.splitlines()) == len(plain.splitlines())
    outside = re.sub(r"(`+)[^`].*?\1", "", hostile, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<[a-z]", outside)


def test_fence_is_longer_than_any_in_the_settings() -> None:
    answer = with_settings_of_remedy(diagnosis(), {"federate.model": "a```b"})
    assert "````sh\n-S 'federate.model=\"a```b\"'\n````" in to_markdown(answer)


@pytest.mark.parametrize(
    ("kind", "cause", "heads", "proof", "says", "rule"),
    [
        (
            "log_before",
            "data_drift",
            "| round | replay with today's data | the run itself |",
            "(proven by the log and a replay: in the rounds before, the mean val_loss was 0.39, and with today's "
            "data it is 0.85)",
            "with today's data: the mean loss is 0.85. In the run itself, these rounds were before the change, and it "
            "was 0.39. So 95 % (90 % to 100 %) of the rise comes from the change.",
            "A cause that no replay can take away is proven if",
        ),
        (
            "hold_out",
            "hold_out_shift",
            "| round | hold-out data | clients that were left out |",
            "(proven by replay: the mean loss is 0.39 on clients' data that the model was not trained on, and 0.85 on "
            "the hold-out data)",
            "the mean loss is 0.39 on the data of the clients that were left out, and 0.85 on the hold-out data. So 95 "
            "% (90 % to 100 %) of what the hold-out loss is above the training loss comes from the hold-out data.",
            "The hold-out data are proven to be unlike the clients' data if",
        ),
    ],
)
def test_a_proof_of_another_kind_says_what_was_compared(
    kind: str, cause: str, heads: str, proof: str, says: str, rule: str
) -> None:
    """The means of 0.4, 0.38, … and 0.8, 0.9, … in the rounds of the rise are 0.39 and 0.85."""
    shown = with_cause(with_replay(diagnosis(cause), kind=kind), remedy=None, advice="look at the data")
    text = to_markdown(shown)
    for part in (heads, proof, says, rule):
        assert part in text
    assert "no setting helps. Advice: look at the data." in text


def test_missing_clients_that_are_back_are_no_fault() -> None:
    text = to_markdown(with_cause(with_replay(diagnosis("missing_clients"), kind="log_without"), remedy=None))
    assert "because the updates of client 03 are missing" in text
    assert "of the rise came from the missing clients." in text
