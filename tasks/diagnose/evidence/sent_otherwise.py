"""Did a client send something else than its training gives? The log shows who is odd; a round run again decides."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np

from tasks.arrays import Floats
from tasks.diagnose.causes.base import Indication
from tasks.diagnose.evidence.memory import as_trained, same
from tasks.diagnose.phrases import measured
from tasks.diagnose.replay.agreement import logged_rows
from tasks.diagnose.replay.engine import Replayer
from tasks.federate.statistics import few, gram, update_statistics
from tasks.round_log.read import ClientLog

_SAME_COSINE = 0.02
"""Two cosines are one measured twice if they differ by at most this. Rounding makes them differ by 1e-5; the sign of
one update of ten moves every cosine by more."""
_MORE = 2
"""Most rounds that are run again for suspects that took part in neither the first nor the last known one."""
_MOST_TURNED = 6
"""Most suspects of which every set is tried as the reversed ones."""


@dataclass(frozen=True)
class SentOtherwise:
    """What came of training suspects again.

    Attributes:
        since: first known round in which one of them sent something else than its training gives; 0 if none did.
        by_client: how, by client.
        compared: the suspects of which a round could be compared.
    """

    since: int
    by_client: Mapping[str, Indication]
    compared: frozenset[str]


def sent_otherwise(replays: Replayer, log: ClientLog, suspects: Collection[str]) -> SentOtherwise:
    """Returns which suspects sent something else than their training gives.

    Rounds are run again from models that are known: the last one that follows a checkpoint, the first one, and, for
    suspects that took part in neither, up to _MORE others. If an update is another one, the first such round is looked
    for by halves. An update is another one if its length is, or if its direction is: the logged cosines of all clients
    come out only if this update is reversed.
    """
    known = [saved + 1 for saved in replays.saved if saved + 1 in log.rounds]
    found, compared, earliest = dict[str, Indication](), set[str](), len(known)
    for place in _places(log, known, suspects):
        others, same_place = _sent_in(replays, log, known[place], suspects)
        if others:
            earliest = min(earliest, place)
        found, compared = {**others, **found}, compared | same_place
    low = 0
    while low < earliest < len(known):
        middle = (low + earliest) // 2
        if _sent_in(replays, log, known[middle], found)[0]:
            earliest = middle
        else:
            low = middle + 1
    return SentOtherwise(known[earliest] if found else 0, found, frozenset(compared))


def _places(log: ClientLog, known: Sequence[int], suspects: Collection[str]) -> list[int]:
    """The places in `known` of the rounds that are run again: the last, the first, and the last of absent suspects."""
    if not known:
        return []
    places = dict.fromkeys([len(known) - 1, 0])
    for client in suspects:
        mine = {*log.rounds[log.rows(client)].tolist()}
        if not any(known[place] in mine for place in places) and len(places) < 2 + _MORE:
            places |= dict.fromkeys([place for place in range(len(known)) if known[place] in mine][-1:])
    return list(places)


def _sent_in(
    replays: Replayer, log: ClientLog, round_num: int, suspects: Collection[str]
) -> tuple[dict[str, Indication], set[str]]:
    """By client how a suspect sent something else in a round, and the suspects that could be compared in it."""
    logged = {client: row for client, row in logged_rows(log, round_num).items() if row["finite"]}
    # Clients that the settings of today exclude cannot be run again, so the others' cosines cannot either.
    if not {*suspects} & {*logged} or any(replays.num_examples(client) < 0 for client in logged):
        return {}, set()
    together = few(len(logged), len(replays.params))
    senders = sorted(logged) if together else sorted({*suspects} & {*logged})
    trained = {c: each for c, each in replays.repeated(round_num, senders).items() if each.finite}
    if not _same_round(logged, {client: float(each.loss_before) for client, each in trained.items()}, len(senders)):
        return {}, set()
    clients = sorted(trained)
    updates = [np.asarray(trained[client].update, np.float32) for client in clients]
    lengths = dict(zip(clients, [float(np.linalg.norm(each.astype(np.float64))) for each in updates], strict=True))
    norms = {c: logged[c].get("update_norm") for c in clients}
    ratios = {c: norm / lengths[c] for c in clients if lengths[c] > 0 and (norm := norms[c]) is not None}
    if together and 2 * sum(map(as_trained, ratios.values())) <= len(ratios):
        return {}, set()  # most clients trained with other settings
    turned = _reversed(logged, clients, gram(updates), ratios, suspects) if together else ()
    mine = {c: ratios[c] for c in suspects if c in ratios}
    return dict(_indications(round_num, mine, turned)), {*mine}


def _same_round(logged: Mapping[str, Mapping[str, float | None]], trained: Mapping[str, float], num: int) -> bool:
    """Whether most of `num` clients have the logged loss before local training: it is the run's model, and its data."""
    agree = [same(trained[c], loss) for c in trained if (loss := logged[c].get("loss_before")) is not None]
    return 2 * sum(agree) > num


def _reversed(
    logged: Mapping[str, Mapping[str, float | None]],
    clients: list[str],
    products: Floats,
    ratios: Mapping[str, float],
    suspects: Collection[str],
) -> tuple[str, ...]:
    """The suspects whose updates must be reversed to give the logged cosines; none if no such set gives them."""
    cosines = np.array([_known(logged[client].get("update_cosine_robust")) for client in clients])
    able = [client for client in clients if client in suspects][:_MOST_TURNED]
    length = np.array([ratios.get(client, 1.0) for client in clients])
    sets = chain.from_iterable(combinations(able, size) for size in range(len(able) + 1))
    for turned in sets:
        sign = length * np.array([-1.0 if client in turned else 1.0 for client in clients])
        share = np.full(len(clients), 1 / len(clients))
        replayed = update_statistics(products * sign[:, None] * sign, share).cosine_robust
        if np.nanmax(np.abs(replayed - cosines), initial=0.0) <= _SAME_COSINE:
            return turned
    return ()


def _known(value: float | None) -> float:
    return np.nan if value is None else value


def _indications(
    round_num: int, ratios: Mapping[str, float], turned: Collection[str]
) -> Iterator[tuple[str, Indication]]:
    for client, ratio in ratios.items():
        if client in turned:
            long = "" if as_trained(ratio) else f", {measured(ratio)} times as long"
            says = f"In round {round_num}, client {client} sent the reverse of what training on its data gives{long}."
            yield client, Indication("sent_over_trained", -ratio, 1.0, says)
        elif not as_trained(ratio):
            says = (
                f"In round {round_num}, client {client} sent an update that is {measured(ratio)} times as long as the "
                "update that training on its data gives."
            )
            yield client, Indication("sent_over_trained", ratio, 1.0, says)
