import html
import re
from dataclasses import replace

import pytest
from diagnosis_values import HOSTILE, MEDIAN, MINIMAL, SCAFFOLD, diagnosis, with_cause, with_settings_of_remedy

from tasks.diagnose.causes import CAUSES
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
    assert f"Against {RATE}, no remedy was found." in to_markdown(answer)
    against = ("faulty_clients", "client_learning_rate")
    answer = replace(answer, remedies=tuple(replace(each, against=against) for each in (SCAFFOLD, MEDIAN)))
    text = to_markdown(answer)
    assert f"Against {RATE}, no setting that was tried in addition removes more of the rise." in text
    assert "Against faulty clients, " not in text
    text = to_markdown(with_cause(answer, remedy=None))
    assert "Against faulty clients, no setting that was tried removes any of the rise." in text
    lost = replace(answer, remedies=(replace(SCAFFOLD, confirmed=False),))
    text = to_markdown(with_cause(lost, remedy=None))
    assert "Against faulty clients, no remedy is proposed: with each remedy that was replayed to the end" in text
    assert "| SCAFFOLD | 86 % | 0.39 (run: 0.83) |" in text


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
        "Why did the loss go up?", "Clients with nothing unusual", "Limits of this diagnosis",
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
