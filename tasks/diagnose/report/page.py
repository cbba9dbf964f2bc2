"""diagnosis.html: the diagnosis for someone who knows neither the papers nor the statistics, in one file."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.diagnose.causes import CAUSES
from tasks.diagnose.report import holdings, patch, sections, wording
from tasks.diagnose.report.holdings import Holdings
from tasks.diagnose.report.markup import (
    NOTHING,
    Column,
    Markup,
    bullets,
    code,
    folded,
    paragraph,
    section,
    table,
    tag,
    text,
    together,
)
from tasks.diagnose.report.story import Remedy, Story, read
from tasks.diagnose.report.svg import style
from tasks.diagnose.report.wording import figure, name_of, percent
from tasks.round_log.read import ClientLog, RoundLog

TITLE = "Why did the loss go up?"
_WORDS = {
    "Client": "One place that trains on its own data, as a hospital or a bank. The data stays there.",
    "Round": "The server sends the model to clients, they train it on their data, and the server averages what they "
    "send back.",
    "Update": "What a client sends back: how its training changed the model.",
    "Loss": "How wrong the model is; lower is better. Validation loss: on data that no client trains on.",
    "Noise": "Ups and downs of the loss that mean nothing. A rise counts only if noise alone would hardly give it.",
    "Replay": "The rounds run once more from the model before the rise, with one thing changed and all else, chance "
    "too, the same. A cause is claimed only if the rise goes away without it.",
}


def to_html(
    diagnosis: Mapping[str, Any], rounds: RoundLog, clients: ClientLog, partition: Mapping[str, Any] | None
) -> str:
    """Returns the page: self-contained, without scripts, the same bytes for the same arguments.

    Args:
        diagnosis: diagnosis.json; keys beyond the contract's may be missing.
        rounds: rounds.csv.
        clients: clients.csv.
        partition: partition.json of the clients' data; None where it is not known.
    """
    story = read(diagnosis)
    css = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    with style():
        body = together(
            [
                tag("header", tag("h1", TITLE), together(_answer(story))),
                *_sections(story, rounds, clients, holdings.read_holdings(partition)),
            ]
        )
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{TITLE}</title>\n<style>\n{css}</style>\n</head>\n<body>\n"
        f"<main>\n{text(body)}\n</main>\n</body>\n</html>\n"
    )


def _sections(story: Story, rounds: RoundLog, clients: ClientLog, held: Holdings | None) -> Iterator[Markup]:
    yield section("The loss, and its replays" if story.causes else "The loss", *sections.curves(story, rounds, clients))
    yield section("Who drifted" if story.rise.detected else "What each client did", *sections.drift(story, clients))
    yield section(
        "What those clients hold" if story.named else "What the clients hold", *sections.holdings_of(story, held)
    )
    if story.rise.detected or story.causes:
        yield section("Evidence", *_evidence(story))
        yield section("The remedy, and its proof", *_remedy(story))
        yield section("Causes tried and ruled out", *_ruled_out(story))
    yield section("What the data could not tell", *_limits(story))
    yield section("Words", _glossary())


def _answer(story: Story) -> Iterator[Markup]:
    calm = not (story.rise.detected or story.rise.hidden or story.causes)
    before, flags, after = wording.answer(story)
    command = tag("code", flags) if flags else NOTHING
    yield tag("p", before, command, after, class_="answer calm" if calm else "answer")
    facts = list(wording.facts(story))
    if facts:
        yield tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts), class_="facts")
    if story.causes and story.causes[0].cause in CAUSES:
        yield paragraph(CAUSES[story.causes[0].cause].words.means)


def _evidence(story: Story) -> Iterator[Markup]:
    if not story.causes:
        yield paragraph("No cause is claimed, so there is none to prove.")
    for cause in story.causes:
        yield tag("h3", wording.heading(cause))
        if cause.evidence:
            columns = [
                Column("signal"),
                Column("value", "number"),
                Column("expected", "number"),
                Column("in words", "says"),
            ]
            yield table(
                f"What speaks for: {name_of(cause.cause)}",
                columns,
                [[wording.signal(one), figure(one.value), figure(one.expected), one.says] for one in cause.evidence],
            )
        else:
            yield paragraph("Nothing was observed before the replay.")
        yield paragraph(wording.replayed(cause, story.rise))


def _remedy(story: Story) -> Iterator[Markup]:
    for causes, remedy in story.proposed:
        if len(story.causes) > 1:
            yield tag("h3", wording.against(causes))
        yield from _proposed(remedy)
    for says in wording.without_remedy(story):
        yield paragraph(says)
    if not story.causes:
        yield paragraph("Without a proven cause, no remedy is proposed.")
    if story.worse:
        yield tag("h3", "Tried, and not better" if story.remedy else "Tried")
        yield _tried("Other remedies that were tried, the best first.", story.worse)


def _proposed(remedy: Remedy) -> Iterator[Markup]:
    if remedy.says:
        yield paragraph(tag("strong", remedy.says))
    yield paragraph(wording.effect(remedy))
    if remedy.settings:
        if given := patch.flags(remedy.settings):
            yield paragraph("Add to ", tag("code", "python -m flows.pipeline"), " or ", tag("code", "dvc exp run"), ":")
            yield code(given)
        yield paragraph("Or change in params.yaml:" if given else "Change in params.yaml:")
        yield code(patch.patch(remedy.settings))


def _tried(caption: str, remedies: Sequence[Remedy]) -> Markup:
    columns = [Column("remedy"), Column("takes back", "number"), Column("loss then", "number")]
    columns += [Column("time of a round", "number"), Column("settings", "says")]
    return table(
        caption,
        columns,
        [
            [one.says or "–", percent(one.recovers), figure(one.loss_after), wording.times(one.extra_cost), _code(one)]
            for one in remedies
        ],
    )


def _code(remedy: Remedy) -> Markup:
    return tag("code", patch.flags(remedy.settings) or patch.plain(remedy.settings)) if remedy.settings else NOTHING


def _ruled_out(story: Story) -> Iterator[Markup]:
    if story.ruled_out:
        yield table(
            "The rise stayed, for the most part, when these were changed.",
            [Column("cause"), Column("replay", "says"), Column("of the rise went away", "number")],
            [[name_of(one.cause), one.says, percent(one.removes)] for one in story.ruled_out],
        )
    else:
        yield paragraph("None: no cause was replayed and found wanting.")
    spent = wording.spent(story)
    if spent:
        yield tag("p", spent, class_="quiet")


def _limits(story: Story) -> Iterator[Markup]:
    yield bullets(story.limits) if story.limits else paragraph("Nothing is noted.")


def _glossary() -> Markup:
    return folded("What the words mean", tag("dl", *_entries()))


def _entries() -> Iterator[Markup]:
    for word, means in _WORDS.items():
        yield tag("dt", word)
        yield tag("dd", means)
