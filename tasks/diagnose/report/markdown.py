"""diagnosis.md: the diagnosis as GitHub's Markdown, as the Prefect UI and MLflow show it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.diagnose.report import patch, wording
from tasks.diagnose.report.story import Cause, Evidence, Remedy, Story, read
from tasks.diagnose.report.wording import figure, name_of, percent

_MOST = 30
"""Rounds of a replay that are told one by one."""
_SPECIAL = re.compile(r"[\\`*\[\]<>|~$&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=[A-Za-z]):(?=//)|(?<=\bwww)\.|@")
_LEADING = re.compile(r"^(\s*\d*)([#>+.)-])(?=\s)")


def to_markdown(diagnosis: Mapping[str, Any]) -> str:
    """Returns diagnosis.md: what diagnosis.html tells, without the pictures."""
    story = read(diagnosis)
    before, flags, after = wording.answer(story)
    parts = ["# Why did the loss go up?", f"{escape(before)}{_code(flags)}{escape(after)}"]
    facts = list(wording.facts(story))
    if facts:
        parts.append(_table(("", ""), facts))
    for title, told in _sections(story):
        if told:
            parts += [f"## {title}", *told]
    return "\n\n".join(parts) + "\n"


def _sections(story: Story) -> Iterator[tuple[str, list[str]]]:
    yield "Who drifted", list(_drift(story))
    yield "Evidence", [part for cause in story.causes for part in _evidence(cause, story)]
    yield "The remedy, and its proof", list(_remedy(story))
    yield "Causes tried and ruled out", list(_ruled_out(story))
    yield "Nothing unusual", [f"Clients: {escape(', '.join(story.healthy)) or 'none'}."]
    yield "What the data could not tell", ["\n".join(f"- {escape(one)}" for one in story.limits) or "Nothing is noted."]


def _drift(story: Story) -> Iterator[str]:
    if story.observed:
        heads = ("client", "signal", "value", "cohort", "before", "unusual", "")
        yield _table(heads, [[one.client, wording.signal(one), *_numbers(one), one.says] for one in story.observed])
        yield "Unusual is evidence, not blame: clients whose data changed look the same."


def _numbers(one: Evidence) -> list[str]:
    return [figure(one.value), figure(one.expected), figure(one.before), "yes" if one.unusual else "no"]


def _evidence(cause: Cause, story: Story) -> Iterator[str]:
    yield f"### {escape(wording.heading(cause))}"
    if cause.evidence:
        heads = ("signal", "value", "expected", "")
        rows = [[wording.signal(one), figure(one.value), figure(one.expected), one.says] for one in cause.evidence]
        yield _table(heads, rows)
    yield escape(wording.replayed(cause, story.rise))
    if cause.replay and (cause.replay.changed or cause.replay.unchanged):
        yield _losses(cause)


def _losses(cause: Cause) -> str:
    replay = cause.replay
    assert replay
    start = (replay.from_round or 0) + 1
    rows = []
    for k in range(max(len(replay.changed), len(replay.unchanged))):
        pair = [losses[k] if k < len(losses) else None for losses in (replay.unchanged, replay.changed)]
        rows.append([str(start + k), *map(figure, pair)])
    return _table(("round", "nothing changed", "with the change"), rows[:_MOST])


def _remedy(story: Story) -> Iterator[str]:
    for causes, remedy in story.proposed:
        says = f"**{escape(remedy.says)}.** " if remedy.says else ""
        against = f"{wording.against(causes)}: " if len(story.causes) > 1 else ""
        yield f"{escape(against)}{says}{wording.effect(remedy)}"
        if remedy.settings:
            if given := patch.flags(remedy.settings):
                yield _block("sh", given)
            yield _block("yaml", patch.patch(remedy.settings))
    yield from map(escape, wording.without_remedy(story))
    if story.worse:
        yield "Tried, and not better:" if story.remedy else "Tried:"
        yield _table(("remedy", "takes back", "loss then", "time of a round", "settings"), map(_tried, story.worse))


def _tried(one: Remedy) -> Sequence[str]:
    figures = [percent(one.recovers), figure(one.loss_after), wording.times(one.extra_cost)]
    return [one.says or "–", *figures, patch.flags(one.settings) or patch.plain(one.settings)]


def _ruled_out(story: Story) -> Iterator[str]:
    if story.ruled_out:
        rows = [[name_of(one.cause), one.says, percent(one.removes)] for one in story.ruled_out]
        yield _table(("cause", "replay", "of the rise went away"), rows)
    if wording.spent(story):
        yield wording.spent(story)


def _table(heads: Sequence[str], rows: Any) -> str:
    lines = [heads, ["---"] * len(heads), *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(source: str) -> str:
    """Code within a line, between more backticks than it holds in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", source)), default=0))
    space = " " if "`" in source else ""
    return f"{fence}{space}{wording.clean(source)}{space}{fence}" if source else ""


def _block(language: str, source: str) -> str:
    """A block of code whose fence is longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", source)), default=0))
    return f"{fence}{language}\n{source}\n{fence}"


def escape(text: str) -> str:
    """Returns `text` as Markdown that shows it as it is: no markup, no HTML, no link, on one line."""
    line = _SPECIAL.sub(lambda found: f"\\{found[0]}", wording.clean(text))
    return _LEADING.sub(r"\1\\\2", line)
