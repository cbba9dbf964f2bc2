"""diagnosis.html: the diagnosis for someone who knows neither the papers nor the statistics, in one file."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.diagnose import charts, holdings, maps, patch, wording
from tasks.diagnose.holdings import Holdings
from tasks.diagnose.logs import ClientLog, RoundLog
from tasks.diagnose.markup import (
    NOTHING,
    Column,
    Markup,
    bullets,
    chart,
    code,
    folded,
    paragraph,
    section,
    table,
    tag,
    text,
    together,
)
from tasks.diagnose.story import Evidence, Remedy, Story, read
from tasks.diagnose.svg import style, to_svg
from tasks.diagnose.vocabulary import CAUSES, LOSSES, SIGNALS
from tasks.diagnose.wording import count, figure, name_of, percent, who

TITLE = "Why did the loss go up?"
_LISTED = 30
"""Most client ids that are listed in the open."""
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
    yield section("The loss, and its replays" if story.causes else "The loss", *_curves(story, rounds))
    yield section("Who drifted" if story.rise.detected else "What each client did", *_drift(story, clients))
    yield section("What those clients hold" if story.named else "What the clients hold", *_holdings(story, held))
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
        yield paragraph(CAUSES[story.causes[0].cause].means)


def _curves(story: Story, rounds: RoundLog) -> Iterator[Markup]:
    rise, column = story.rise, charts.tested(story.rise, rounds)
    drawn = to_svg(
        charts.draw_loss(rise, rounds), "loss", f"Line chart of the loss by round. {wording.headline(story)}"
    )
    says = f"{column} of rounds.csv by round. " + (
        f"Shaded: {wording.span(rise.round, rise.until)}, the rise." if rise.detected else "No rise beyond the noise."
    )
    figures = [chart(drawn, f"The loss as it was: {LOSSES.get(column, column)}", says)]
    for number, cause in enumerate(story.causes):
        replay = cause.replay
        if replay and (replay.changed or replay.unchanged):
            change = wording.change_of(replay)
            told = wording.replayed(cause, rise)
            svg = to_svg(charts.draw_replay(replay, rise, rounds), f"replay{number}", f"Line chart of a replay. {told}")
            figures.append(chart(svg, f"Replay: {change}", told))
    yield tag("div", together(figures), class_="charts")
    if rise.detected and len(figures) == 1:
        yield paragraph("There is no replay to show beside it.")


def _drift(story: Story, clients: ClientLog) -> Iterator[Markup]:
    drawn = maps.draw_maps(clients, story.rise, story.named)
    if drawn:
        yield tag(
            "div",
            together(
                chart(
                    to_svg(one.figure, f"map{k}", f"Heat map of clients by rounds. {one.title}: {one.says}"),
                    one.title,
                    one.says,
                )
                for k, one in enumerate(drawn)
            ),
            class_="charts",
        )
        yield paragraph(_reading(story, clients))
    else:
        yield paragraph("clients.csv holds neither updates nor losses by client to draw.")
    if story.observed:
        columns = [Column("client"), Column("what"), Column("value", "number"), Column("other clients", "number")]
        columns += [Column("itself before", "number"), Column("unusual"), Column("in words", "says")]
        yield table(
            "What the clients did in the rounds of the rise. Unusual is evidence, not blame: honest clients whose data "
            "changed look the same.",
            columns,
            [
                [one.client, _signal(one), *_figures(one), "yes" if one.unusual else "no", one.says]
                for one in story.observed
            ],
        )
    yield _healthy(story.healthy)


def _reading(story: Story, clients: ClientLog) -> str:
    drawn, total, width = maps.shown(clients)
    told = "A row is a client, a column a round"
    told += f", or the worst of {width} rounds. " if width > 1 else ". "
    if story.rise.detected:
        told += "The dashed lines stand around the rise. "
    if story.named:
        told += "In bold, on top: the clients that this report names. "
    if drawn < total:
        told += (
            f"Shown are {drawn} of {total} clients: those, then who failed most often, then whose updates agreed least."
        )
    return told.strip()


def _healthy(clients: Sequence[str]) -> Markup:
    listed = ", ".join(clients) or "none"
    told = f"Nothing unusual: {count(len(clients), 'client')}"
    return folded(told, paragraph(listed)) if len(clients) > _LISTED else paragraph(f"{told} ({listed}).")


def _holdings(story: Story, held: Holdings | None) -> Iterator[Markup]:
    if held is None:
        yield paragraph("It is not known: there is no data/partition/partition.json beside these logs.")
        return
    clients = holdings.chosen(held, story.named)
    if not set(clients) & set(story.named):
        why = "No client is named; these are the ones" if not story.named else "None of the named clients is in "
        why += "" if not story.named else "data/partition/partition.json; these are the ones"
        yield paragraph(f"{why} whose labels differ most from all clients together.")
    elif missing := [client for client in story.named if client not in clients]:
        yield paragraph(f"Not shown: {who(missing)}.")
    labels, features = holdings.draw_labels(held, clients), holdings.draw_features(held, clients)
    yield tag(
        "div",
        chart(
            to_svg(labels, "labels", "Heat map of the share of each class in the data of each client."),
            "Labels",
            "Each row adds up to 100 %. A client like the first row holds the mix of all.",
        ),
        chart(
            to_svg(features, "features", "Dot chart of how far each client's data is from that of all clients."),
            "Amount, labels and inputs",
            "Each dot is a client. Labels and inputs: distance to all clients' data together; a diamond to the right "
            "of the dots is a client whose data differ.",
        ),
        class_="charts",
    )
    names = [name for name in holdings.MEASURES if name in held.measures]
    rows = [(client, held.clients.index(client)) for client in clients]
    yield table(
        "The same in numbers. Labels: 0 (as all) to 2 (no class in common). Level: in standard deviations.",
        [Column("client"), *(Column(holdings.MEASURES[name], "number") for name in names)],
        [
            *([client, *(_measure(name, float(held.measures[name][k])) for name in names)] for client, k in rows),
            ["median client", *(_measure(name, _median(held.measures[name])) for name in names)],
        ],
    )


def _measure(name: str, value: float) -> str:
    return f"{value:,.0f}" if name == "num_examples" else figure(value)


def _median(values: Any) -> float:
    ordered = sorted(float(value) for value in values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


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
                [[_signal(one), figure(one.value), figure(one.expected), one.says] for one in cause.evidence],
            )
        else:
            yield paragraph("Nothing was observed before the replay.")
        yield paragraph(wording.replayed(cause, story.rise))


def _signal(one: Evidence) -> str:
    return SIGNALS.get(one.signal, one.signal.replace("_", " "))


def _figures(one: Evidence) -> list[str]:
    return [figure(one.value), figure(one.expected), figure(one.before)]


def _remedy(story: Story) -> Iterator[Markup]:
    for cause in story.causes:
        if cause.remedy:
            if len(story.causes) > 1:
                yield tag("h3", f"Against {name_of(cause.cause)}")
            yield from _proposed(cause.remedy)
        else:
            yield paragraph(f"No remedy against {name_of(cause.cause)} was found.")
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
