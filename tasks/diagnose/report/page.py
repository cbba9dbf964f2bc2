"""diagnosis.html: the diagnosis for someone who knows neither the papers nor the statistics, in one file."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.diagnose import payoff
from tasks.diagnose.diagnosis import Against, Diagnosis, TriedRemedy
from tasks.diagnose.phrases import figure, percent
from tasks.diagnose.report import (
    against_wording,
    client_wording,
    holdings,
    patch,
    remedy_wording,
    replay_wording,
    sections,
    standing_wording,
    wording,
)
from tasks.diagnose.report.holdings import Holdings
from tasks.diagnose.report.markup import (
    EMPTY,
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
from tasks.diagnose.report.svg import style
from tasks.diagnose.report.vocabulary import words_of
from tasks.round_log.read import ClientLog, RoundLog

_WORDS = {
    "Client": "A place that trains on its own data, for example a hospital or a bank. The data stay there.",
    "Round": "The server sends the global model to clients. The clients train it on their data. The server averages "
    "what the clients send back.",
    "Update": "What a client sends back: how its training changed the model.",
    "Loss": "How wrong the model is; lower is better. val_loss: on the hold-out data, which no client trains on. "
    "train_loss: on the clients' training data.",
}
_OF_A_RISE = {
    "Noise": "Ups and downs of the loss that mean nothing. A rise counts only if noise alone would hardly cause it.",
    "Replay": "The rounds are run again from the model before the rise. One thing is changed. All else stays the same, "
    "including the random numbers. A cause is proven only if at least half of the rise goes away without it, and if "
    "other random numbers (seeds) confirm this.",
}


def to_html(
    diagnosis: Diagnosis,
    rounds: RoundLog,
    clients: ClientLog,
    partition: Mapping[str, Any] | None,
    pays: Sequence[str] = (),
) -> str:
    """Returns the page: self-contained, without scripts, the same bytes for the same arguments.

    Args:
        diagnosis: the answer.
        rounds: rounds.csv.
        clients: clients.csv.
        partition: partition.json of the clients' data; None where it is not known.
        pays: the sentences of `tasks.diagnose.payoff`.
    """
    css = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    with style():
        body = together(
            [
                tag("header", tag("h1", wording.title(diagnosis)), together(_answer(diagnosis))),
                *_sections(diagnosis, rounds, clients, holdings.read_holdings(partition)),
                section(payoff.TITLE, paragraph(" ".join(pays))) if pays else EMPTY,
            ]
        )
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{wording.title(diagnosis)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n"
        f"<main>\n{text(body)}\n</main>\n</body>\n</html>\n"
    )


def _sections(diagnosis: Diagnosis, rounds: RoundLog, clients: ClientLog, held: Holdings | None) -> Iterator[Markup]:
    title = "The loss and its replays" if diagnosis.causes else "The loss"
    yield section(title, *sections.curves(diagnosis, rounds, clients))
    if diagnosis.against is not None:
        yield section("What differs", *_differences(diagnosis.against))
    yield section(client_wording.TITLE, *sections.signal_maps(diagnosis, clients))
    title = "Data of the named clients" if diagnosis.named else "Data of the clients"
    yield section(title, *sections.holdings_of(diagnosis, held))
    if diagnosis.harm is not None:
        yield section("Evidence", *_evidence(diagnosis))
        yield section("Remedy", *_remedy(diagnosis))
        if diagnosis.not_finished:
            yield section("Causes not finished", *_not_finished(diagnosis))
        if diagnosis.ruled_out:
            yield section("Causes ruled out", *_ruled_out(diagnosis))
        if diagnosis.budget:
            yield section("What proves a cause", *map(paragraph, replay_wording.spent(diagnosis)))
    yield section("Limits of this diagnosis", *_limits(diagnosis))
    yield section("Words", _glossary(diagnosis))


def _differences(against: Against) -> Iterator[Markup]:
    kinds = dict(zip(against_wording.HEADS, ("says", "", "number", "number"), strict=True))
    columns = [Column(head, kind) for head, kind in kinds.items()]
    rows = list(against_wording.rows(against))
    caption = f"Each difference between this run and {against.other}, and what taking it back showed."
    yield table(caption, columns, rows) if rows else paragraph("Nothing that was compared.")
    yield from map(paragraph, against_wording.not_tried(against))


def _answer(diagnosis: Diagnosis) -> Iterator[Markup]:
    before, flags, after = wording.answer(diagnosis)
    command = tag("code", flags) if flags else EMPTY
    yield tag(
        "p", before, command, after, class_="answer" if diagnosis.rise.detected or diagnosis.causes else "answer calm"
    )
    facts = list(wording.facts(diagnosis))
    if facts:
        yield tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts), class_="facts")
    if diagnosis.causes:
        yield paragraph(words_of(diagnosis.causes[0]).means)


def _evidence(diagnosis: Diagnosis) -> Iterator[Markup]:
    if not diagnosis.causes:
        yield paragraph("No cause is proven.")
    for cause in diagnosis.causes:
        yield tag("h3", wording.heading(cause))
        if cause.evidence:
            columns = [
                Column("signal"),
                Column("value", "number"),
                Column("expected", "number"),
                Column("in words", "says"),
            ]
            yield table(
                f"Evidence for the cause: {words_of(cause).name}",
                columns,
                [
                    [client_wording.signal(each), figure(each.value), figure(each.expected), each.says]
                    for each in cause.evidence
                ],
            )
        else:
            yield paragraph("There is no evidence except the replay.")
        yield paragraph(replay_wording.replayed(cause, diagnosis))


def _remedy(diagnosis: Diagnosis) -> Iterator[Markup]:
    for causes, remedy in diagnosis.proposed:
        if len(diagnosis.causes) > 1:
            yield tag("h3", remedy_wording.against(causes))
        yield from _proposed(remedy, diagnosis)
    for sentence in remedy_wording.without_remedy(diagnosis):
        yield paragraph(sentence)
    if not diagnosis.causes:
        yield paragraph("No remedy is proposed, because no cause is proven.")
    if diagnosis.not_proposed:
        yield tag("h3", "Other remedies that were tried" if diagnosis.remedy else "Remedies that were tried")
        yield _tried(f"Tried in a replay and not proposed. {remedy_wording.order(diagnosis)}", diagnosis)
        yield from map(paragraph, replay_wording.below_0(each.recovers for each in diagnosis.not_proposed))


def _proposed(remedy: TriedRemedy, diagnosis: Diagnosis) -> Iterator[Markup]:
    yield paragraph(tag("strong", remedy.says))
    yield paragraph(remedy_wording.effect(remedy, diagnosis))
    if not remedy.settings:
        yield paragraph("There is no setting to change: correct the data, then run again.")
        return
    flags = patch.flags(remedy.settings)
    if flags:
        yield paragraph("Add to ", tag("code", "python -m flows.pipeline"), " or ", tag("code", "dvc exp run"), ":")
        yield code(flags)
    yield paragraph("Or change in params.yaml:" if flags else "Change in params.yaml:")
    yield code(patch.patch(remedy.settings))


def _tried(caption: str, diagnosis: Diagnosis) -> Markup:
    columns = [Column("remedy"), Column(replay_wording.removes(diagnosis), "number")]
    columns.append(Column(remedy_wording.loss_heading(diagnosis), "number"))
    columns.append(Column("settings", "says"))
    return table(
        caption,
        columns,
        [
            [remedy.says, percent(remedy.recovers), remedy_wording.ends(remedy, diagnosis), _settings(remedy)]
            for remedy in diagnosis.not_proposed
        ],
    )


def _settings(remedy: TriedRemedy) -> Markup | str:
    if not remedy.settings:
        return "none: it is advice"
    return tag("code", patch.flags(remedy.settings) or patch.plain(remedy.settings))


def _not_finished(diagnosis: Diagnosis) -> Iterator[Markup]:
    yield table(
        "Possible causes: it is not known whether they are one.",
        _columns(diagnosis),
        [replay_wording.tried(cause, diagnosis) for cause in diagnosis.not_finished],
    )
    yield from map(paragraph, replay_wording.below_0_of(diagnosis.not_finished, diagnosis))


def _columns(diagnosis: Diagnosis) -> list[Column]:
    outcome = Column(replay_wording.outcome(diagnosis), "number")
    return [Column("cause"), Column("replay", "says"), outcome, Column("why", "says")]


def _ruled_out(diagnosis: Diagnosis) -> Iterator[Markup]:
    yield table(
        replay_wording.ruled_out(diagnosis),
        _columns(diagnosis),
        [replay_wording.tried(cause, diagnosis) for cause in diagnosis.ruled_out],
    )
    yield from map(paragraph, replay_wording.below_0_of(diagnosis.ruled_out, diagnosis))


def _limits(diagnosis: Diagnosis) -> Iterator[Markup]:
    yield bullets(diagnosis.limits) if diagnosis.limits else paragraph("None.")


def _glossary(diagnosis: Diagnosis) -> Markup:
    return folded("What the words mean", tag("dl", *_entries(diagnosis)))


def _entries(diagnosis: Diagnosis) -> Iterator[Markup]:
    own = _OF_A_RISE if diagnosis.standing is None else standing_wording.WORDS
    if diagnosis.against is not None:
        own = against_wording.WORDS
    for word, means in (_WORDS | own).items():
        yield tag("dt", word)
        yield tag("dd", means)
