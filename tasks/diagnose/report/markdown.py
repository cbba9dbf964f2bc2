"""diagnosis.md: the diagnosis as GitHub's Markdown, as the Prefect UI and MLflow show it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from tasks.diagnose.diagnosis import Cause, Diagnosis, ReplayResult, TriedRemedy
from tasks.diagnose.phrases import clean, figure, percent
from tasks.diagnose.report import patch, wording

_MOST = 30
"""Most rounds of a replay that are listed."""
_SPECIAL = re.compile(r"[\\`*\[\]<>|~$&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=[A-Za-z]):(?=//)|(?<=\bwww)\.|@")
_LEADING = re.compile(r"^(\s*\d*)([#>+.)-])(?=\s)")


def to_markdown(diagnosis: Diagnosis) -> str:
    """Returns diagnosis.md: the content of diagnosis.html without the pictures."""
    before, flags, after = wording.answer(diagnosis)
    parts = [f"# {wording.title(diagnosis)}", f"{escape(before)}{_code(flags)}{escape(after)}"]
    facts = list(wording.facts(diagnosis))
    if facts:
        parts.append(_table(("", ""), facts))
    for title, content in _sections(diagnosis):
        if content:
            parts += [f"## {title}", *content]
    return "\n\n".join(parts) + "\n"


def _sections(diagnosis: Diagnosis) -> Iterator[tuple[str, list[str]]]:
    yield "Which clients drifted", list(_drift(diagnosis))
    yield "Evidence", [part for cause in diagnosis.causes for part in _evidence(cause, diagnosis)]
    yield "Remedy", list(_remedy(diagnosis))
    yield "Causes not finished", list(_not_finished(diagnosis))
    yield "Causes ruled out", list(_ruled_out(diagnosis))
    yield "Clients with nothing unusual", [f"{escape(wording.healthy(diagnosis.healthy)) or 'None'}."]
    limits = "\n".join(f"- {escape(sentence)}" for sentence in diagnosis.limits)
    yield "Limits of this diagnosis", [limits or "None."]


def _drift(diagnosis: Diagnosis) -> Iterator[str]:
    if diagnosis.observations:
        heads = ("client", "signal", "value", "median client", "before the rise", "unusual", "in words")
        yield _table(heads, [wording.observed(observation) for observation in diagnosis.observations])
        yield "Unusual does not mean faulty: an honest client whose data changed looks the same."


def _evidence(cause: Cause, diagnosis: Diagnosis) -> Iterator[str]:
    yield f"### {escape(wording.heading(cause))}"
    if cause.evidence:
        heads = ("signal", "value", "expected", "in words")
        rows = [[wording.signal(each), figure(each.value), figure(each.expected), each.says] for each in cause.evidence]
        yield _table(heads, rows)
    yield escape(wording.replayed(cause, diagnosis.rise))
    yield _losses(cause.replay)


def _losses(replay: ReplayResult) -> str:
    pairs = zip_longest(replay.unchanged, replay.changed)
    rows = [[str(at), *map(figure, pair)] for at, pair in enumerate(pairs, start=replay.from_round + 1)]
    heads = ("round", "the run itself", "replay") if replay.of_log else ("round", "nothing changed", "with the change")
    return _table(heads, rows[:_MOST])


def _remedy(diagnosis: Diagnosis) -> Iterator[str]:
    for causes, remedy in diagnosis.proposed:
        against = f"{wording.against(causes)}: " if len(diagnosis.causes) > 1 else "Proposed: "
        yield f"{escape(against)}**{escape(remedy.says)}.** {wording.effect(remedy, diagnosis)}"
        if flags := patch.flags(remedy.settings):
            yield _block("sh", flags)
        if remedy.settings:
            yield _block("yaml", patch.patch(remedy.settings))
    yield from map(escape, wording.without_remedy(diagnosis))
    if diagnosis.not_proposed:
        yield "Other remedies that were tried:" if diagnosis.remedy else "Remedies that were tried:"
        heads = ("remedy", wording.removes(diagnosis), wording.loss_heading(diagnosis), "settings")
        yield _table(heads, [_tried(remedy, diagnosis) for remedy in diagnosis.not_proposed])


def _tried(remedy: TriedRemedy, diagnosis: Diagnosis) -> Sequence[str]:
    settings = patch.flags(remedy.settings) or patch.plain(remedy.settings) or "none: it is advice"
    return [remedy.says, percent(remedy.recovers), wording.ends(remedy, diagnosis), settings]


def _not_finished(diagnosis: Diagnosis) -> Iterator[str]:
    if diagnosis.not_finished:
        yield _table(("cause", "replay", "rise removed", "why"), map(wording.tried, diagnosis.not_finished))


def _ruled_out(diagnosis: Diagnosis) -> Iterator[str]:
    if diagnosis.ruled_out:
        heads = ("cause", "replay", wording.removes(diagnosis), "why")
        yield _table(heads, map(wording.tried, diagnosis.ruled_out))
    if diagnosis.budget:
        yield wording.spent(diagnosis.budget)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(source: str) -> str:
    """Code within a line, between more backticks than it holds in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", source)), default=0))
    space = " " if "`" in source else ""
    return f"{fence}{space}{clean(source)}{space}{fence}" if source else ""


def _block(language: str, source: str) -> str:
    """A block of code whose fence is longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", source)), default=0))
    return f"{fence}{language}\n{source}\n{fence}"


def escape(text: str) -> str:
    """Returns `text` as Markdown that shows it as it is: no markup, no HTML, no link, on one line."""
    line = _SPECIAL.sub(lambda match: f"\\{match[0]}", clean(text))
    return _LEADING.sub(r"\1\\\2", line)
