"""The parts of diagnosis.html that have pictures: the loss, what the clients did, what they hold."""

from collections.abc import Iterator
from typing import Any

from tasks.diagnose.diagnosis import Cause, Diagnosis
from tasks.diagnose.phrases import figure, span, who
from tasks.diagnose.report import charts, client_wording, holdings, maps, replay_wording, wording
from tasks.diagnose.report.holdings import Holdings
from tasks.diagnose.report.maps import Map
from tasks.diagnose.report.markup import Column, Markup, bullets, chart, folded, paragraph, table, tag, together
from tasks.diagnose.report.svg import to_svg
from tasks.diagnose.report.vocabulary import LOSSES
from tasks.round_log.read import ClientLog, RoundLog

_DOTS, _BAND = (
    "Each mark is a client.",
    "The grey band holds 90 % of the clients, with the median; a diamond is a client.",
)
_LISTED = 30
"""Most client ids that are shown without a click."""


def curves(diagnosis: Diagnosis, rounds: RoundLog, clients: ClientLog) -> Iterator[Markup]:
    """Yields the loss as it was, and a replay for each cause."""
    rise = diagnosis.rise
    label = f"Line chart of the loss by round. {wording.headline(diagnosis)}"
    loss = to_svg(charts.draw_loss(diagnosis, rounds, clients), "loss", label)
    shaded = (
        f"Shaded: {charts.shaded(rise)}, {span(rise.round, rise.until)}."
        if rise.detected
        else "In training, it did not rise beyond its noise."
    )
    title = f"The recorded loss: {LOSSES[rise.loss]}"
    causes = [cause for cause in diagnosis.causes if replay_wording.shown_before(cause, diagnosis) is None]
    replays = [_replay(number, cause, diagnosis, rounds) for number, cause in enumerate(causes)]
    figures = [chart(loss, title, f"{rise.loss} of rounds.csv by round. {shaded}"), *replays]
    yield tag("div", together(figures), class_="charts")
    if diagnosis.harm is not None and not replays:
        yield paragraph(replay_wording.no_replay(diagnosis))


def _replay(number: int, cause: Cause, diagnosis: Diagnosis, rounds: RoundLog) -> Markup:
    says = replay_wording.replayed(cause, diagnosis)
    drawn = charts.draw_replay(cause.replay, rounds)
    svg = to_svg(drawn, f"replay{number}", f"Line chart of a replay. {says}")
    return chart(svg, f"Replay: {cause.replay.says}", says)


def signal_maps(diagnosis: Diagnosis, clients: ClientLog) -> Iterator[Markup]:
    """Yields maps of clients by rounds, what they did in a table, who had nothing unusual, who was not looked at."""
    drawn = maps.draw_maps(clients, diagnosis.rise, diagnosis.named)
    if drawn:
        yield tag("div", together(_map(number, each) for number, each in enumerate(drawn)), class_="charts")
        yield paragraph(_reading(diagnosis, clients))
    else:
        yield paragraph("There is nothing to draw: clients.csv has neither updates nor losses of single clients.")
    if diagnosis.observations:
        kinds = {"value": "number", "median client": "number", "before": "number", "in words": "says"}
        columns = [Column(head, kinds[head]) if head in kinds else Column(head) for head in client_wording.HEADS]
        yield table(
            client_wording.remark(diagnosis.observations),
            columns,
            [client_wording.observed(observation) for observation in diagnosis.observations],
        )
    if not diagnosis.rise.detected and (diagnosis.looked_for or diagnosis.healthy or diagnosis.not_looked_at):
        yield tag("h3", client_wording.looked_title(diagnosis))
    if diagnosis.looked_for:
        yield bullets(diagnosis.looked_for)
    yield from _healthy(diagnosis)
    yield from map(paragraph, client_wording.not_looked_at(diagnosis))
    if items := client_wording.not_examined(diagnosis):
        yield paragraph(client_wording.NOT_LOOKED_AT)
        yield bullets(items)


def _map(number: int, drawn: Map) -> Markup:
    label = f"Heat map of clients by rounds. {drawn.title}: {drawn.says}"
    return chart(to_svg(drawn.figure, f"map{number}", label), drawn.title, drawn.says)


def _reading(diagnosis: Diagnosis, clients: ClientLog) -> str:
    drawn, total, width = maps.drawn_size(clients)
    text = "Each row is a client. Each column is a round"
    text += f", or the worst value of {width} rounds. " if width > 1 else ". "
    if diagnosis.rise.detected:
        text += "The rise is between the dashed lines. "
    if diagnosis.named:
        text += "The clients that this report names are on top, in bold. "
    if drawn < total:
        text += (
            f"{drawn} of {total:,} clients are shown: first the named clients, then clients that failed most often, "
            "then the clients that are farthest from the others. The first three rows are quantiles over all clients, "
            "round by round. All clients are in clients.csv."
        )
    return text.strip()


def _healthy(diagnosis: Diagnosis) -> Iterator[Markup]:
    listed, text = client_wording.healthy(diagnosis.healthy), client_wording.nothing_unusual(diagnosis)
    if text and len(diagnosis.healthy) > _LISTED:
        yield folded(text, paragraph(listed))
    elif text:
        yield paragraph(f"{text}{f': {listed}' if listed else ''}.")


def holdings_of(diagnosis: Diagnosis, held: Holdings | None) -> Iterator[Markup]:
    """Yields the labels and distances of the named clients; without named ones, of the clients that differ most."""
    if held is None:
        yield paragraph("The clients' data are not known: data/partition/partition.json is missing.")
        return
    clients = holdings.chosen(held, diagnosis.named)
    if not set(clients) & set(diagnosis.named):
        why = "No client is named. These are the clients" if not diagnosis.named else "No named client is in "
        why += "" if not diagnosis.named else "data/partition/partition.json. These are the clients"
        yield paragraph(f"{why} whose label mixes differ most from the mix of all clients.")
    elif missing := [client for client in diagnosis.named if client not in clients]:
        yield paragraph(f"Not shown: {who(missing)}.")
    labels, features = holdings.draw_labels(held, clients), holdings.draw_features(held, clients)
    yield tag(
        "div",
        chart(
            to_svg(labels, "labels", "Heat map: the share of each class in the data of each client."),
            "Labels",
            "Each row adds up to 100 %. A client with the same row as the first one has the label mix of all clients.",
        ),
        chart(
            to_svg(
                features, "features", "Dot chart: how far the data of each client are from the data of all clients."
            ),
            "Amount, labels and inputs",
            f"{_DOTS if len(held.clients) <= holdings.MOST_DOTS else _BAND} For labels and inputs, a mark shows the "
            "distance to the data of all clients. A diamond to the right of the grey is a client whose data differ.",
        ),
        class_="charts",
    )
    names = [name for name in holdings.MEASURES if name in held.measures]
    rows = [(client, held.clients.index(client)) for client in clients]
    yield table(
        "The same in numbers. Labels: from 0 (the mix of all clients) to 2 (no class in common). Level: in standard "
        "deviations.",
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
