"""What the logs of a run show: a rise or none, who drifted then, and what they cannot tell."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tasks.detection import Increase, find_increase
from tasks.diagnose.observe.drift import Drift, drift, ranking
from tasks.diagnose.observe.own_losses import Risen, common, risen
from tasks.round_log.cells import Bools, Floats, Measurements
from tasks.round_log.columns import LOSS_COLUMNS
from tasks.round_log.read import ClientLog, RoundLog
from tasks.scan import FEWEST

_RECENT = 4
"""Rounds before a rise whose mean loss is that before it."""
_CLEARLY = 2
"""Rounds by more than which the training loss must rise before the hold-out loss to be what is explained: a cause is
found where it begins."""
_FOCUS = 5
"""Rounds of a long rise in which drift is looked for: later, the model that has drifted shows, not who moved it."""

SHARES = (0.3, 0.2, 0.5)
"""Of the significance, for the first loss, the second, and the clients' own."""


@dataclass(frozen=True)
class Observation:
    """What the logs show.

    Attributes:
        increase: the rise.
        loss: the column that was tested.
        num_losses: how many rounds gave it.
        phase: phase of the round in which the rise began; "" if not known.
        sparsity: sparsity before and at the end of the rise, where it rose with the loss.
        window: the rounds in which the clients were compared, first and last.
        drifts: their drift in each signal, most drifted client first.
        failures: client to rounds in which it failed, over the whole run.
        clients: ids of all clients of the run, sorted.
        hidden: clients whose own loss rose while that of all did not; the rise is then the first of theirs.
        later: round from which val_loss rose, too, where the rise is told of train_loss.
        train_trend: ln of the mean training loss of the rise's second half over that of its first; NaN if not known.
        val_trend: the same of the hold-out loss.
    """

    increase: Increase
    loss: str
    num_losses: int
    phase: str
    sparsity: tuple[float, float] | None
    window: tuple[int, int] | None
    drifts: tuple[Drift, ...]
    failures: dict[str, tuple[int, ...]]
    clients: tuple[str, ...]
    hidden: tuple[str, ...]
    later: int | None
    train_trend: float
    val_trend: float

    @property
    def unusual(self) -> tuple[str, ...]:
        """Clients with an unusual signal, most drifted first."""
        odd = {one.client for one in self.drifts if one.unusual}
        return tuple(client for client in ranking(list(self.drifts)) if client in odd)

    @property
    def healthy(self) -> tuple[str, ...]:
        """Clients that never failed and had no unusual signal."""
        return tuple(c for c in self.clients if c not in self.failures and c not in self.unusual)


def observe(rounds: RoundLog, clients: ClientLog, significance: float, known: Sequence[Risen] = ()) -> Observation:
    """Returns what the two logs show.

    Args:
        rounds: rounds.csv.
        clients: clients.csv.
        significance: the probability of a rise claimed where there is none.
        known: clients whose loss is known to have risen from elsewhere, which counts where no test finds a rise.
    """
    loss, increase, hidden, later = _increase(rounds, clients, significance)
    if known and not increase.detected:
        loss, increase, hidden, later = _of_some(loss, rounds, clients, known, 1.0)
    window = _window(rounds, loss, increase)
    drifts = drift(clients, *window, significance) if window else []
    place = {client: number for number, client in enumerate(ranking(drifts))}
    failed: dict[str, set[int]] = {}
    for row in np.flatnonzero(clients.failed):
        failed.setdefault(clients.clients[row], set()).add(int(clients.rounds[row]))
    began = rounds.rounds == increase.round if increase.round is not None else np.zeros(len(rounds.rounds), np.bool_)
    return Observation(
        increase,
        loss,
        int(rounds.losses[loss].given.sum()) if loss in rounds.losses else len(rounds.rounds),
        rounds.phases[int(np.argmax(began))] if began.any() else "",
        _rising_sparsity(rounds, increase),
        window,
        tuple(sorted(drifts, key=lambda one: (place[one.client], -one.score, one.signal))),
        {client: tuple(sorted(failed[client])) for client in sorted(failed)},
        tuple(sorted(set(clients.clients))),
        hidden,
        later,
        _trend(rounds, "train_loss", increase),
        _trend(rounds, "val_loss", increase),
    )


def tested_losses(log: RoundLog) -> list[str]:
    """Returns the columns that are tested, the one that decides first: val_loss and then train_loss.

    The one with fewer than 8 values counts only if the other has as few.
    """
    known = [name for name in LOSS_COLUMNS if name in log.losses]
    able = [name for name in known if log.losses[name].given.sum() >= FEWEST]
    return able or [max(known, key=lambda name: int(log.losses[name].given.sum()))]


Found = tuple[str, Increase, tuple[str, ...], int | None]


def _increase(log: RoundLog, clients: ClientLog, significance: float) -> Found:
    """The rise's column, the rise, the clients whose own loss rose where the mean hides it, and Observation.later.

    A value that is not finite counts in whichever loss it came first. Half of the significance goes to the clients,
    whose short series need it most, and the other half to the columns, three fifths of it to the first, so that any
    claim has it as a whole; two columns that rise in the same rounds need no more than their half each (Simes 1986,
    doi 10.1093/biomet/73.3.751, which holds where the noise of the two goes together or not at all). Where both rose,
    the first is told, unless the second did so clearly before it. Where the clients' losses are known, the mean
    client's stands for train_loss, whose noise is that of who took part (`common`).
    """
    names = tested_losses(log)
    shares = SHARES if len(names) > 1 else (0.5, 0.5)
    broken = {
        name: _test(log, name, _every(log), significance) for name in log.losses if log.losses[name].not_finite.any()
    }
    stages = _stages(log)
    for number, rows in enumerate(stages):
        parts = [share / len(stages) for share in shares[: len(names)]]
        tests = _tests(log, clients, names, rows, significance, parts)
        if len(tests) == 2 and not any(rise.detected for _, rise, _ in tests):
            both = _tests(log, clients, names, rows, significance, [sum(parts)] * 2)
            tests = both if _at_once(*(rise for _, rise, _ in both)) else tests
        tested, rise, share = _told(log, tests)
        for name, other in broken.items():
            if rise.round is None or (other.round is not None and other.round < rise.round):
                tested, rise, share = name, other, 1.0
        if rise.detected:
            of_val = [other.round for name, other, _ in tests if name == "val_loss" != tested]
            return tested, _whole(rise, share), (), of_val[0] if of_val else None
        if number == 0 and (found := _hidden(tested, log, clients, significance, shares[-1])) is not None:
            return found
    return tested, _whole(rise, share), (), None


def _tests(
    log: RoundLog, clients: ClientLog, names: Sequence[str], rows: Bools, significance: float, shares: Sequence[float]
) -> list[tuple[str, Increase, float]]:
    """The test of each loss with its share of the significance."""
    return [
        (name, _test_of(log, clients, name, rows, significance * share), share)
        for name, share in zip(names, shares, strict=True)
    ]


def _at_once(one: Increase, other: Increase) -> bool:
    """Whether both rose in some round; train_loss is measured one round later than val_loss."""
    if not (one.detected and other.detected):
        return False
    return (one.round or 0) <= (other.until or 0) + 1 and (other.round or 0) <= (one.until or 0) + 1


def _told(log: RoundLog, tests: list[tuple[str, Increase, float]]) -> tuple[str, Increase, float]:
    """The test of the loss that rose; of two, the first, unless the second's rise led to it and began clearly before.

    A loss that is not measured in every round may have risen since its last measurement.
    """
    rose = [one for one in tests if one[1].detected]
    if len(rose) < 2:
        return rose[0] if rose else tests[0]
    start, earlier = (_last_before(log, name, rise.round or 0) + 1 for name, rise, _ in rose)
    led_to_it = (rose[1][1].until or 0) >= start - 1
    return rose[1] if earlier < start - _CLEARLY and led_to_it else rose[0]


def _last_before(log: RoundLog, name: str, round_num: int) -> int:
    """The last round before `round_num` in which the loss was measured; that before it if there is none."""
    earlier = log.rounds[log.losses[name].given & (log.rounds < round_num)]
    return int(earlier[-1]) if len(earlier) else round_num - 1


def _hidden(tested: str, log: RoundLog, clients: ClientLog, significance: float, share: float) -> Found | None:
    """A rise of a few clients, or failures that the loss of all hides; None if there is neither."""
    hidden = _of_clients(log, clients, significance * share)
    if hidden:
        return _of_some(tested, log, clients, hidden, share)
    if clients.not_finite.any():
        names_failed = {clients.clients[row] for row in np.flatnonzero(clients.not_finite)}
        return tested, _failing(log.losses[tested], log, clients), tuple(sorted(names_failed)), None
    return None


def _of_some(tested: str, log: RoundLog, clients: ClientLog, hidden: Sequence[Risen], share: float) -> Found:
    """The rise of some clients, from the first of theirs to the last."""
    rise = Increase(
        detected=True,
        round=min(one.round for one in hidden),
        until=max(one.until for one in hidden),
        confidence=max(0.0, 1 - (1 - max(one.confidence for one in hidden)) / share),
        alarm=min(one.alarm for one in hidden),
        kind="level",
    )
    column = "train_loss" if "train_loss" in log.losses else tested
    names = [one.client for one in hidden]
    return column, _of_their_own(rise, clients, names), tuple(names), None


def _of_their_own(rise: Increase, log: ClientLog, clients: list[str]) -> Increase:
    """The rise with the mean loss of its clients in the rounds before it, up to 4 of each, and in it."""
    before, during = [], []
    for client in clients:
        known = log.of(client) & np.isfinite(log.signals["loss_before"])
        rounds, losses = log.rounds[known], log.signals["loss_before"][known]
        before += losses[rounds < (rise.round or 0)][-_RECENT:].tolist()
        during += losses[(rounds >= (rise.round or 0)) & (rounds <= (rise.until or 0))].tolist()
    return replace(rise, loss_before=float(np.mean(before)), loss_after=float(np.mean(during)))


def _failing(loss: Measurements, log: RoundLog, clients: ClientLog) -> Increase:
    """A rise without end of the clients whose updates were not finite, though the loss of all hides them."""
    rounds = clients.rounds[clients.not_finite]
    before = loss.values[np.isfinite(loss.values) & (log.rounds < rounds.min())]
    return Increase(
        detected=True,
        round=int(rounds.min()),
        until=int(rounds.max()),
        loss_before=float(before[-1]) if len(before) else None,
        confidence=1.0,
        alarm=int(rounds.min()),
        kind="not_finite",
    )


def _whole(rise: Increase, share: float) -> Increase:
    """The confidence of a test that got a share of the significance."""
    return replace(rise, confidence=max(0.0, 1 - (1 - rise.confidence) / share))


def _every(log: RoundLog) -> Bools:
    return np.ones(len(log.rounds), dtype=np.bool_)


def _of_clients(log: RoundLog, clients: ClientLog, significance: float) -> list[Risen]:
    """The clients whose loss under the global model rose before pruning."""
    usable = _usable(clients) & ~np.isin(clients.rounds, log.rounds[log.pruning])
    if not usable.any():
        return []
    return risen(np.array(clients.clients)[usable], clients.rounds[usable], _own(clients)[usable], significance)


def _own(clients: ClientLog) -> Floats:
    """Each row's loss of the client under the global model; NaN where it is not known."""
    return clients.signals.get("loss_before", np.full(len(clients.rounds), np.nan))


def _usable(clients: ClientLog) -> Bools:
    """The rows whose loss can be tested."""
    return np.asarray(np.isfinite(_own(clients)) & (_own(clients) > 0))


def _stages(log: RoundLog) -> list[Bools]:
    """The rows to test first, and those to test if nothing is there: before pruning, and then the whole run.

    So pruning hides no rise before it, in whichever loss or clients. Each stage gets half of the significance.
    """
    training = ~log.pruning
    return [_every(log)] if training.all() or not training.any() else [training, _every(log)]


def _test_of(log: RoundLog, clients: ClientLog, name: str, rows: Bools, significance: float) -> Increase:
    """The test of a loss; of train_loss, if the clients' losses are known, that of the mean client."""
    if name != "train_loss":
        return _test(log, name, rows, significance)
    usable = _usable(clients) & np.isin(clients.rounds, log.rounds[rows & log.losses[name].given])
    if not usable.any():
        return _test(log, name, rows, significance)
    at, level = common(np.array(clients.clients)[usable], clients.rounds[usable], _own(clients)[usable])
    rise = find_increase(at, level, significance)
    if not rise.detected:
        return rise
    # In numbers of the log: the mean client's loss has another unit.
    values, known = log.losses[name].values, np.isfinite(log.losses[name].values) & rows
    before = values[known & (log.rounds < (rise.round or 0))][-_RECENT:]
    during = values[known & (log.rounds >= (rise.round or 0)) & (log.rounds <= (rise.until or 0))]
    return replace(
        rise,
        loss_before=float(before.mean()) if len(before) else None,
        loss_after=float(during.mean()) if len(during) else None,
    )


def _test(log: RoundLog, name: str, rows: Bools, significance: float) -> Increase:
    column = log.losses[name]
    measured = rows & column.given
    return find_increase(log.rounds[measured], column.values[measured], significance)


def _window(log: RoundLog, loss: str, increase: Increase) -> tuple[int, int] | None:
    """The rounds whose updates made the rise: all since the last loss before it, five of them or up to the alarm.

    train_loss is measured on the model that the round began with, so the round before counts too.
    """
    if increase.round is None or increase.until is None or increase.alarm is None:
        return None
    measured = log.rounds[log.losses[loss].given] if loss in log.losses else log.rounds
    earlier = measured[measured < increase.round]
    first = int(earlier[-1]) + (loss == "val_loss") if len(earlier) else increase.round
    return first, max(increase.round, min(increase.until, max(increase.alarm, first + _FOCUS - 1)))


def _rising_sparsity(log: RoundLog, increase: Increase) -> tuple[float, float] | None:
    if log.sparsity is None or increase.round is None or increase.until is None:
        return None
    known = np.isfinite(log.sparsity.values)
    before = log.sparsity.values[known & (log.rounds < increase.round)]
    during = log.sparsity.values[known & (log.rounds >= increase.round) & (log.rounds <= increase.until)]
    if not len(before) or not len(during) or during.max() <= before[-1]:
        return None
    return float(before[-1]), float(during.max())


def _trend(log: RoundLog, name: str, increase: Increase) -> float:
    """Ln of the mean of the second half of the rise's rounds over that of the first half; NaN for fewer than 4."""
    if name not in log.losses or increase.round is None or increase.until is None:
        return np.nan
    values = log.losses[name].values
    rise = (log.rounds >= increase.round) & (log.rounds <= increase.until) & np.isfinite(values) & (values > 0)
    during = values[rise]
    if len(during) < 4:
        return np.nan
    half = len(during) // 2
    return float(np.log(during[-half:].mean() / during[:half].mean()))


def sound_after(seen: Observation, log: RoundLog) -> int:
    """Returns the last round after which the model was sound, which is where replays of the rise begin.

    A row's val_loss is that of the model after the round, so the round before the rise is sound. Its train_loss is that
    of the model before the round: the rise is either of the clients' data in its first round, and the model before it
    still sound, which a val_loss at most a tenth above its lowest tells; or of what the round before it did.
    """
    before = (seen.increase.round or 1) - 1
    if seen.loss == "val_loss" or "val_loss" not in log.losses:
        return max(0, before - (seen.loss != "val_loss"))
    values, given = log.losses["val_loss"].values, log.losses["val_loss"].given
    last = values[given & (log.rounds == before)]
    recent = values[given & (log.rounds <= before)][-5:]
    sound = len(last) == 1 and float(last[0]) <= 1.1 * float(recent.min())
    return max(0, before - (not sound))
