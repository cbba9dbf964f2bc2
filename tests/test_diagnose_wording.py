import copy
import html
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_diagnose_page import HOSTILE, MINIMAL, diagnosis

from flows.workspace.overrides import with_overrides
from tasks.diagnose.causes import CAUSES
from tasks.diagnose.report.markdown import escape, to_markdown
from tasks.diagnose.report.observed import headline
from tasks.diagnose.report.patch import flags, patch
from tasks.diagnose.report.story import Replay, read
from tasks.diagnose.report.wording import during, figure, joined, percent, who


def test_headline_names_rise_cause_proof_and_remedy() -> None:
    assert headline(diagnosis()) == (
        "val_loss rose in round 7 from 0.41 to 0.82 because the updates or the data of client 03 are faulty (proven by "
        "replay: the same rounds without client 03 have a loss of 0.39 instead of 0.85); remedy: "
        "-S federate.client.kind=scaffold, which takes back 86 % of the rise."
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("labels", "because the labels of client 03 are wrong (proven"),
        ("data", "because the data of client 03 are faulty (proven"),
        ("updates", "because the updates of client 03 are faulty (proven"),
        ("?", "because the updates or the data of client 03 are faulty (proven"),
    ],
)
def test_headline_says_what_is_faulty_where_that_is_known(fault: str, words: str) -> None:
    found = diagnosis()
    found["causes"][0]["fault"] = fault
    assert words in headline(found)


def test_headline_says_both_of_two_causes() -> None:
    found = diagnosis()
    found["causes"].insert(0, copy.deepcopy(found["causes"][0]) | {"cause": "client_learning_rate", "clients": []})
    found["causes"][1]["fault"] = "labels"
    told = headline(found)
    assert "because the clients' learning rate is too high (proven" in told
    assert "; also because the labels of client 03 are wrong; remedy:" in told


def test_remedies_of_two_causes_say_what_they_are_against() -> None:
    found = diagnosis()
    first, second = found["causes"][0], copy.deepcopy(found["causes"][0]) | {"cause": "client_learning_rate"}
    second["remedy"] = {"settings": {"federate.client.learning_rate": 0.1}, "recovers": 0.2}
    found["causes"].append(second)
    told = to_markdown(found)
    assert "Against faulty clients: " in told
    assert "Against too high a learning rate of the clients: " in told
    # One remedy of both is told once.
    second["remedy"] = first["remedy"]
    told = to_markdown(found)
    assert told.count("Against ") == 1
    assert "Against faulty clients and too high a learning rate of the clients: " in told


def test_a_cause_without_a_remedy_says_whether_one_was_tried() -> None:
    found = diagnosis()
    found["causes"].append(found["causes"][0] | {"cause": "client_learning_rate", "remedy": None})
    assert "Against too high a learning rate of the clients, no remedy was found." in to_markdown(found)
    for one in found["remedies"]:
        one["against"] = ["faulty_clients", "client_learning_rate"]
    told = to_markdown(found)
    assert "Against too high a learning rate of the clients, no setting that was tried beside that takes" in told
    found["causes"][0]["remedy"] = None
    assert told.count("Against faulty clients, ") == 0
    assert "Against faulty clients, no setting that was tried takes any of the rise back." in to_markdown(found)


def test_headline_without_a_rise_says_so() -> None:
    found = {**MINIMAL, "detection": {"loss": "train_loss", "num_losses": 1}}
    assert headline(found) == "train_loss did not rise beyond its noise in 1 measured round."
    found["increase"] = {"detected": False, "confidence": 0.861}
    assert headline(found).endswith("in 1 measured round (confidence in a rise: 86.1 %).")


def test_headline_names_clients_whose_rise_the_mean_hides() -> None:
    found = {**MINIMAL, "detection": {"loss": "val_loss", "clients": ["03", "07"]}}
    assert "but the own loss of clients 03 and 07 did, which the mean hides" in headline(found)


def test_a_rise_of_a_few_is_told_with_their_own_loss() -> None:
    found = {**diagnosis(), "causes": []}
    found["detection"] = {**found["detection"], "clients": ["03"]}
    assert headline(found).startswith(
        "The loss of client 03 on its own data, hidden in the mean of all, rose in round 7 from 0.41 to 0.82; "
    )


def test_headline_without_a_proven_cause_says_what_was_tried() -> None:
    found = {**diagnosis(), "causes": []}
    assert headline(found) == (
        "val_loss rose in round 7 from 0.41 to 0.82; no cause could be proven (tried and ruled out: different labels)."
    )
    assert headline({**found, "ruled_out": []}).endswith("; no cause could be proven, as none was tried.")


def test_rise_while_pruning_says_so() -> None:
    found = diagnosis()
    found["detection"]["phase"] = "prune"
    assert headline(found).startswith("val_loss rose in round 7 (while pruning) from 0.41")


@pytest.mark.parametrize("cause", CAUSES)
def test_markdown_tells_every_cause(cause: str) -> None:
    text = to_markdown(diagnosis(cause))
    assert escape(CAUSES[cause].words.because.format("client 03")) in text
    assert "`-S federate.client.kind=scaffold`" in text
    assert "```sh\n-S federate.client.kind=scaffold\n```" in text
    assert "```yaml\nfederate:\n  client:\n    kind: scaffold\n```" in text
    assert "| the median | 30 % | 0.7 | 1.2 × |" in text


def test_markdown_of_a_healthy_run_is_short() -> None:
    text = to_markdown(MINIMAL)
    assert re.findall(r"^#+ (.*)", text, re.MULTILINE) == [
        "Why did the loss go up?", "Nothing unusual", "What the data could not tell",
    ]  # fmt: skip


def test_tables_have_as_many_cells_in_each_row() -> None:
    found = diagnosis(client="a|b\\|c\n|d")
    rows = [line for line in to_markdown(found).splitlines() if line.startswith("|")]
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
    found = diagnosis()
    found["causes"][0]["remedy"]["settings"] = {"federate.model": "a```b"}
    assert "````sh\n-S 'federate.model=\"a```b\"'\n````" in to_markdown(found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("federate.client.kind", "scaffold"),
        ("federate.client.learning_rate", 0.01),
        ("federate.client.learning_rate", 1e-05),
        ("federate.server_optimizer.kind", "sgd"),
        ("federate.aggregator.zeroing", True),
        ("federate.local_work.by_client", {"03": 1, "b": 5}),
        ("federate.width", {"03": 0.5}),
        ("preprocess.resize", [8, 8]),
        ("federate.model", "my_module:build"),
        ("data.client_column", ""),
        ("data.client_column", 'it\'s 1, {a} [b] = "c"'),
        ("data.client_column", "a\\"),
        ("data.client_column", '\\"a\\\\"b'),
        ("federate.model", "$x {y}"),
        ("federate.width", {"007": 0.5, "site-1.b_2": 0.25, "00": 1}),
        ("data.client_column", "true"),
        ("data.client_column", "007"),
        ("data.client_column", "1e3"),
    ],
)
def test_flags_and_patch_set_what_the_settings_say(name: str, value: Any) -> None:
    """The flags go through a shell's splitting, then Hydra's reading, as `python -m flows.pipeline` does."""
    settings = {name: value, "seed": 3}
    given = shlex.split(flags(settings))
    assert given[::2] == ["-S", "-S"]
    params = (Path(__file__).parents[1] / "params.yaml").read_text()
    changed = yaml.safe_load(with_overrides(params, given[1::2]))
    patched = yaml.safe_load(patch(settings))
    for key in name.split("."):
        changed, patched = changed[key], patched[key]
    assert {**changed, **value} == changed if isinstance(value, dict) else float_of(changed) == float_of(value)
    assert patched == value


def float_of(value: Any) -> Any:
    """YAML 1.1 reads 1e-05 as text; the settings read it as a number."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"\d+e-\d+", value) else value


@pytest.mark.parametrize("key", ["7", "0", "-3", "1e3", "0.5", "true", "null", "a b", "a:b", "1_0", ""])
def test_what_hydra_would_misread_is_told_as_a_patch_only(key: str) -> None:
    found = diagnosis()
    found["causes"][0]["remedy"]["settings"] = {"federate.width": {key: 0.5}}
    assert flags({"federate.width": {key: 0.5}}) == ""
    assert headline(found).endswith("; remedy: the settings below, which takes back 86 % of the rise.")
    text = to_markdown(found)
    assert "```sh" not in text
    assert yaml.safe_load(re.findall("```yaml\n(.*?)```", text, re.DOTALL)[0]) == {"federate": {"width": {key: 0.5}}}


def test_reference_to_another_setting_is_no_flag() -> None:
    assert flags({"federate.model": "${seed}"}) == ""


def test_patch_of_a_setting_below_a_value_keeps_both() -> None:
    assert yaml.safe_load(patch({"a": 1, "a.b": 2})) == {"a": 1, "a.b": 2}


def test_loss_during_the_rise_leaves_out_the_rounds_around_it() -> None:
    replay = Replay("", {}, 5, (9.0, 1.0, 2.0, 9.0), (9.0, 0.5, 0.7, None), 1, None, None, None)
    rise = read({"increase": {"detected": True, "round": 7, "until": 8}}).rise
    with_, without = during(replay, rise)  # rounds 6 to 9, of which 7 and 8 are in the rise
    assert (with_, without) == (pytest.approx((0.5 + 0.7) / 2), pytest.approx((1 + 2) / 2))


def test_loss_during_the_rise_is_unknown_where_it_was_not_finite() -> None:
    replay = Replay("", {}, 6, (1.0, None), (0.5, 0.5), 1, None, None, None)
    rise = read({"increase": {"detected": True, "round": 7, "until": 8}}).rise
    assert during(replay, rise) == (0.5, None)


def test_many_clients_are_counted_not_listed() -> None:
    assert who(["1"]) == "client 1"
    assert who(["1", "2"]) == "clients 1 and 2"
    assert who([str(k) for k in range(9)]) == "clients 0, 1, 2, 3, 4 and 4 more"
    assert joined([]) == ""


def test_percentages_are_whole_and_nothing_is_less_than_nothing() -> None:
    assert [percent(value) for value in (0.956, -0.004, -0.006, None)] == ["96 %", "0 %", "-1 %", "–"]


def test_figures_have_three_digits_and_a_dash_for_none() -> None:
    assert [figure(value) for value in (None, 0.12345, 12345.0, 0.0)] == ["–", "0.123", "1.23e+04", "0"]


def test_telling_changes_nothing() -> None:
    found = diagnosis()
    before = copy.deepcopy(found)
    to_markdown(found)
    assert found == before
