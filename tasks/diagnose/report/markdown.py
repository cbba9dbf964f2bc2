"""diagnosis.md: the diagnosis as GitHub's Markdown, as the Prefect UI and MLflow show it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from tasks.diagnose import payoff
from tasks.diagnose.diagnosis import Against, Cause, Diagnosis, NotFinished, ReplayResult, RuledOut, TriedRemedy
from tasks.diagnose.phrases import clean, figure, percent
from tasks.diagnose.report import against_wording, client_wording, patch, remedy_wording, replay_wording, wording

_MOST = 30
"""Most rounds of a replay that are listed."""
_SPECIAL = re.compile(r"[\\`*\[\]<>|~$&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=[A-Za-z]):(?=//)|(?<=\bwww)\.|@")
_LEADING = re.compile(r"^(\s*\d*)([#>+.)-])(?=\s)")


def to_markdown(diagnosis: Diagnosis, pays: Sequence[str] = ()) -> str:
    """Returns diagnosis.md: the content of diagnosis.html without the pictures; for `pays` see `payoff`."""
    before, flags, after = wording.answer(diagnosis)
    parts = [f"# {wording.title(diagnosis)}", f"{escape(before)}{_code(flags)}{escape(after)}"]
    facts = list(wording.facts(diagnosis))
    if facts:
        parts.append(_table(("", ""), facts))
    for title, content in (*_sections(diagnosis), (payoff.TITLE, [escape(" ".join(pays))] if pays else [])):
        if content:
            parts += [f"## {title}", *content]
    return "\n\n".join(parts) + "\n"


def _sections(diagnosis: Diagnosis) -> Iterator[tuple[str, list[str]]]:
    if diagnosis.against is not None:
        yield "What differs", list(_differences(diagnosis.against))
    yield client_wording.TITLE, list(_drift(diagnosis))
    yield "Evidence", [part for cause in diagnosis.causes for part in _evidence(cause, diagnosis)]
    yield "Remedy", list(_remedy(diagnosis))
    yield "Causes not finished", list(_causes(diagnosis.not_finished, diagnosis))
    yield "Causes ruled out", list(_causes(diagnosis.ruled_out, diagnosis))
    yield "What proves a cause", list(replay_wording.spent(diagnosis))
    yield client_wording.looked_title(diagnosis), list(_looked_at(diagnosis))
    yield "Limits of this diagnosis", [_bullets(diagnosis.limits) or "None."]


def _differences(against: Against) -> Iterator[str]:
    rows = list(against_wording.rows(against))
    yield _table(against_wording.HEADS, rows) if rows else "Nothing that was compared."
    yield from map(escape, against_wording.not_tried(against))


def _drift(diagnosis: Diagnosis) -> Iterator[str]:
    if diagnosis.observations:
        yield _table(client_wording.HEADS, [client_wording.observed(each) for each in diagnosis.observations])
        yield client_wording.remark(diagnosis.observations)


def _looked_at(diagnosis: Diagnosis) -> Iterator[str]:
    if diagnosis.looked_for:
        yield _bullets(diagnosis.looked_for)
    clients, text = client_wording.healthy(diagnosis.healthy), client_wording.nothing_unusual(diagnosis)
    if text:
        yield escape(f"{text}{f': {clients}' if clients else ''}.")
    yield from map(escape, client_wording.not_looked_at(diagnosis))
    if items := client_wording.not_examined(diagnosis):
        yield f"{client_wording.NOT_LOOKED_AT}\n\n{_bullets(items)}"


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {escape(sentence)}" for sentence in sentences)


def _evidence(cause: Cause, diagnosis: Diagnosis) -> Iterator[str]:
    yield f"### {escape(wording.heading(cause))}"
    if cause.evidence:
        heads = ("signal", "value", "expected", "in words")
        rows = [
            [client_wording.signal(each), figure(each.value), figure(each.expected), each.says]
            for each in cause.evidence
        ]
        yield _table(heads, rows)
    yield escape(replay_wording.replayed(cause, diagnosis))
    if replay_wording.shown_before(cause, diagnosis) is None:
        yield _losses(cause.replay, at_the_end=diagnosis.standing is not None)


def _losses(replay: ReplayResult, at_the_end: bool) -> str:
    pairs = zip_longest(replay.unchanged, replay.changed)
    rows = [[str(at), *map(figure, pair)] for at, pair in enumerate(pairs, start=replay.from_round + 1)]
    heads = {
        "log_without": ("round", "the run itself", "replay"),
        "log_before": ("round", "replay with today's data", "the run itself"),
        "hold_out": ("round", "hold-out data", "clients that were left out"),
    }.get(replay.kind, ("round", "nothing changed", "with the change"))
    return _table(heads, rows[-_MOST:] if at_the_end else rows[:_MOST])


def _remedy(diagnosis: Diagnosis) -> Iterator[str]:
    for causes, remedy in diagnosis.proposed:
        against = f"{remedy_wording.against(causes)}: " if len(diagnosis.causes) > 1 else "Proposed: "
        yield f"{escape(against)}**{escape(remedy.says)}.** {remedy_wording.effect(remedy, diagnosis)}"
        if flags := patch.flags(remedy.settings):
            yield _block("sh", flags)
        if remedy.settings:
            yield _block("yaml", patch.patch(remedy.settings))
    yield from map(escape, remedy_wording.without_remedy(diagnosis))
    if diagnosis.not_proposed:
        yield "Other remedies that were tried:" if diagnosis.remedy else "Remedies that were tried:"
        heads = ("remedy", replay_wording.removes(diagnosis), remedy_wording.loss_heading(diagnosis), "settings")
        yield _table(heads, [_tried(remedy, diagnosis) for remedy in diagnosis.not_proposed])
        shares = [remedy.recovers for remedy in diagnosis.not_proposed]
        yield " ".join([remedy_wording.order(diagnosis), *replay_wording.below_0(shares)])


def _tried(remedy: TriedRemedy, diagnosis: Diagnosis) -> Sequence[str]:
    settings = patch.flags(remedy.settings) or patch.plain(remedy.settings) or "none: it is advice"
    return [remedy.says, percent(remedy.recovers), remedy_wording.ends(remedy, diagnosis), settings]


def _causes(causes: Sequence[RuledOut | NotFinished], diagnosis: Diagnosis) -> Iterator[str]:
    if causes:
        heads = ("cause", "replay", replay_wording.outcome(diagnosis), "why")
        yield _table(heads, [replay_wording.tried(cause, diagnosis) for cause in causes])
        yield from replay_wording.below_0_of(causes, diagnosis)


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
