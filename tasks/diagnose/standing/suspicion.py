"""What may be in the way of a run, with what speaks for it and the settings that take it away."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tasks.diagnose.causes.base import Indication, Remedy
from tasks.diagnose.causes.shared import STANDARDISED, leave_out, standardised, without
from tasks.diagnose.replay.change import Change
from tasks.diagnose.standing.against import against
from tasks.diagnose.standing.examine import Examination
from tasks.settings import Settings


class Option(NamedTuple):
    """A remedy, and the change by which it is replayed.

    A run that excludes clients and one in which they take no part train the same, but only the latter has as many
    clients as the run, so that its computations are there already.
    """

    change: Change
    remedy: Remedy


@dataclass(frozen=True)
class Suspicion:
    """A possible cause.

    Attributes:
        cause: its name.
        clients: through which it acts; empty if through all.
        fault: which fault the clients have, a key of `words.by_fault`; empty if they do not have the same.
        evidence: what speaks for it.
        options: remedies that take it away, the most fitting first.
        choice: whether it is a choice of settings, for which a better one is nearly always found.
        change: what proves the cause, if it is no setting; None: the options themselves do.
        since: first round in which it acts.
    """

    cause: str
    clients: tuple[str, ...]
    fault: str
    evidence: tuple[Indication, ...]
    options: tuple[Option, ...]
    choice: bool = False
    change: Change | None = None
    since: int = 1


def of_clients(
    examination: Examination, settings: Settings, sent: Mapping[str, Indication], since: int, num_clients: int
) -> list[Suspicion]:
    """Returns the suspicions of clients: wrong labels, data without sense, and features that are unlike all others'.

    None if half of the clients or more are suspects: then most clients disagree with the hold-out data, and it is not
    known who is right.

    Args:
        examination: of the clients' data.
        settings: of the run.
        sent: by client, how it sent something else than its training gives.
        since: round in which that was seen.
        num_clients: K, of the run.
    """
    suspects = [examination.clients[client] for client in examination.suspects]
    named = {*(each.client for each in suspects), *sent}
    if not named or 2 * len(named) >= num_clients:
        return []
    shifted = [each for each in suspects if each.is_shifted and each.client not in sent]
    faulty = [each for each in suspects if each not in shifted]
    found = []
    if faulty or sent:
        faults = {"data" if each.is_far else "labels" for each in faulty if each.client not in sent}
        faults |= {"updates"} if sent else set()
        names = tuple(sorted({*(each.client for each in faulty), *sent}))
        evidence = (*(each for client in faulty for each in against(client)), *sent.values())
        fault = faults.pop() if len(faults) == 1 else ""
        from_round = since if fault == "updates" else 1
        found.append(
            Suspicion("faulty_clients", names, fault, evidence, (_leaving_out(names, settings),), since=from_round)
        )
    if shifted:
        names = tuple(each.client for each in shifted)
        evidence = tuple(each for client in shifted for each in against(client))
        fitting = (Option(standardised(), STANDARDISED),) if settings.preprocess.normalize != "client" else ()
        found.append(Suspicion("feature_shift", names, "", evidence, (*fitting, _leaving_out(names, settings))))
    return found


def _leaving_out(clients: tuple[str, ...], settings: Settings) -> Option:
    return Option(without(clients), leave_out(clients, settings))
