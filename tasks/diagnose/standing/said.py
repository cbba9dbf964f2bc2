"""What was looked at in a run in which nothing rose, and what was not, in sentences and in numbers."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tasks.diagnose.causes.base import Indication
from tasks.diagnose.observe.client_signals import ClientSignal
from tasks.diagnose.phrases import every_client, who
from tasks.diagnose.report.vocabulary import DISPUTED
from tasks.diagnose.standing.examine import Examination
from tasks.diagnose.standing.outlying import FEWEST
from tasks.diagnose.standing.senders import NEEDED
from tasks.errors import listed
from tasks.local.description import Description
from tasks.round_log.read import ClientLog

SETTINGS = (
    "The settings: whether the steps are so small that nothing moves, or so large that the loss cannot get lower, and "
    "whether clients train long on very different labels."
)


def said(examination: Examination, log: ClientLog, settings: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns what was looked at, and what was not, in sentences. `settings`: whether the settings were looked at."""
    not_examined = [f"Client {client}: {reason}." for client, reason in examination.failed.items()]
    if examination.disputed:
        not_examined.append(
            f"Who is right: the data of {every_client(examination.disputed)} {DISPUTED}. These are half of the clients "
            "or more, so none of them is called faulty."
        )
    updates = "The length and the direction of each client's updates in the log, beside the other clients'."
    of_log = [SETTINGS] if settings else []
    if not settings:
        not_examined.append(f"{SETTINGS} The log does not show it, or the loss rose.")
    if {*log.signals} >= NEEDED:
        of_log.insert(0, updates)
    else:
        not_examined.append(f"{updates} The log does not have the columns {listed(sorted(NEEDED))}.")
    if not examination.judges:
        too_few = "The hold-out data are too few to judge the clients' labels: they need 10 examples and two labels."
        return (), (*not_examined, too_few)
    if not examination.compares:
        alone = f"Single clients: fewer than {FEWEST} can be compared, so none can stand apart from the others."
        return (), (*not_examined, alone)
    accuracies = " and ".join(f"{100 * judge.accuracy:.0f} %" for judge in examination.judges)
    looked_for = (
        f"The labels of each client, beside those that a classifier gives that was trained on the hold-out data. "
        f"It gets {accuracies} of hold-out examples right that it was not trained on.",
        "The features of each client, beside hold-out data of the same classes.",
        *of_log,
    )
    return looked_for, tuple(not_examined)


def signals(examination: Examination) -> Mapping[str, Any]:
    """Returns what was measured of the clients, for diagnosis.json."""

    def of(name: str) -> dict[str, Any]:
        each = examination.clients[name]
        return {
            "feature_distance": each.distance,
            **{f"agreement_{judge}": judged.accuracy for judge, judged in each.judgements.items()},
            **{f"expected_{judge}": judged.expected for judge, judged in each.judgements.items()},
        }

    return {"clients": {name: of(name) for name in examination.clients}}


def same_data(descriptions: Mapping[str, Description]) -> tuple[str, ...]:
    """Returns which clients hold the same data, byte for byte, in a sentence for each such group."""
    groups: dict[str, list[str]] = {}
    for client, description in descriptions.items():
        groups.setdefault(description.digest, []).append(client)
    return tuple(
        f"C{who(group)[1:]} hold the same data. So these data count {len(group)} times."
        for group in groups.values()
        if len(group) > 1
    )


def observed(client: str, against: Iterable[Indication], rounds: tuple[int, ...]) -> Iterator[ClientSignal]:
    """Yields what speaks against a client that no replay blames: it is unusual, whether it does harm or not."""
    for signal, value, expected, says in against:
        yield ClientSignal(client, signal, value, expected, None, None, True, rounds, says)
