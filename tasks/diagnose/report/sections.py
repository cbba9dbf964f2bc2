"""The parts of diagnosis.html that have pictures: the loss, who drifted, what those clients hold."""

from collections.abc import Iterator, Sequence
from typing import Any

from tasks.diagnose.report import charts, holdings, maps, wording
from tasks.diagnose.report.holdings import Holdings
from tasks.diagnose.report.markup import Column, Markup, chart, folded, paragraph, table, tag, together
from tasks.diagnose.report.story import Evidence, Story
from tasks.diagnose.report.svg import to_svg
from tasks.diagnose.report.vocabulary import LOSSES
from tasks.diagnose.report.wording import count, figure, who
from tasks.round_log.read import ClientLog, RoundLog

_LISTED = 30
"""Most client ids that are listed in the open."""


def curves(story: Story, rounds: RoundLog, clients: ClientLog) -> Iterator[Markup]:
    """Yields the loss as it was, and a replay for each cause."""
    rise, column = story.rise, charts.tested(story.rise, rounds)
    drawn = to_svg(
        charts.draw_loss(rise, rounds, clients), "loss", f"Line chart of the loss by round. {wording.headline(story)}"
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


def drift(story: Story, clients: ClientLog) -> Iterator[Markup]:
    """Yields the clients by rounds, what they did in the rise, and who was not unusual."""
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
                [one.client, wording.signal(one), *_figures(one), "yes" if one.unusual else "no", one.says]
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


def holdings_of(story: Story, held: Holdings | None) -> Iterator[Markup]:
    """Yields the labels and the distances of the named clients, else of those that differ most."""
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


def _figures(one: Evidence) -> list[str]:
    return [figure(one.value), figure(one.expected), figure(one.before)]
