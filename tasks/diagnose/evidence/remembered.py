"""Are a client's data those before the rise, and what it sent that which they give? Known models and the log tell."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.diagnose.evidence.memory import Labels, Memory, as_trained, relabellings, same
from tasks.diagnose.observe.own_losses import ClientRise
from tasks.diagnose.replay.change import Sites
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.replay.engine import Replayer, replayer
from tasks.diagnose.replay.examine import Floats, Probe
from tasks.diagnose.thresholds import WORSE
from tasks.federate.statistics import gram, update_statistics
from tasks.round_log.read import ClientLog
from tasks.settings import Settings

_MODELS, _TIMES = 4, 2
"""Most models that the clients' losses are compared under, and how often a client's is at most."""
_BEFORE, _FLOOR = 4, 0.25
"""Rounds before a client's rise that tell its loss then; share of its median loss added to all before the logarithm."""
_EARLY = 0.7
"""Of the rounds before the rise, those in which data that are the same today had not changed yet."""
_ROUNDS = 2
"""Most rounds whose updates are compared."""
_NEAR = 4
"""Rounds after the last sound one that are run again for that: no more than the replays that decide run as well."""


@dataclass
class _Comparison:
    """Losses that clients logged under known models, beside those of today's data, as far as they were looked at.

    Left out are clients whose number of examples is another, which are `resized`, clients that train a part of the
    model, and losses that are not finite.
    """

    replays: Replayer
    probe: Probe
    data: Sites
    log: ClientLog
    found: dict[str, list[Memory]] = field(default_factory=lambda: defaultdict(list))
    resized: set[str] = field(default_factory=set)

    def look(self, saved: int, wanted: Collection[str]) -> bool:
        """Compares the losses of the round after `saved`; returns whether one of the `wanted` took part in it."""
        logged = {c: those for c, those in _logged(self.log, saved + 1, "loss_before").items() if c in self.data}
        self.resized |= {client for client, (num, _) in logged.items() if num != _size(self.replays, client)}
        widths = self.replays.settings.federate.width
        able = [c for c in logged if c in wanted and c not in self.resized and widths.get(c, 1.0) == 1]
        if not able:
            return False
        for client, loss in _first_losses(self.replays, self.probe, self.data, saved, able).items():
            if np.isfinite(loss):
                self.found[client].append(Memory(saved + 1, logged[client][1], loss))
        return True

    def look_at_some(self, models: Sequence[int], clients: Collection[str], counts: Callable[[Memory], bool]) -> None:
        """Looks at the first few of the models that tell of a client of which too few losses count yet."""
        asked = 0
        for saved in models:
            unknown = [client for client in clients if sum(map(counts, self.found.get(client, ()))) < _TIMES]
            asked += self.look(saved, unknown if asked < _MODELS else ())

    @property
    def changed(self) -> list[str]:
        """The clients that had other data in some round, sorted."""
        known = self.found.keys() - self.resized
        return sorted(client for client in known if any(one.changed for one in self.found[client]))

    @property
    def of_most(self) -> bool:
        """Whether most clients had other data: then the division is another, which says nothing of one of them."""
        return 2 * len({*self.changed, *self.resized}) > len(self.found.keys() | self.resized)


def remember(replays: Replayer, probe: Probe, data: Sites, log: ClientLog, first: int) -> dict[str, Memory]:
    """Returns what the log remembers of the clients' data: of each client the loss that differs most from today's.

    Compared are losses of the earliest rounds whose model is known, all before round `first`; none where most clients'
    data have changed. Only a difference counts under the first weights, which may give any labels the same loss, and
    right before the rise, which may have begun before it was seen.

    Args:
        replays: at the checkpoint before the rise.
        probe: of their model.
        data: the clients' examples of today.
        log: clients.csv, without rounds of pruning.
        first: round in which the rise began.
    """

    def counts(one: Memory) -> bool:
        return one.changed or 1 < one.round <= _EARLY * first

    seen = _Comparison(replays, probe, data, log)
    seen.look_at_some([saved for saved in replays.saved if saved < first - 1], data, counts)
    if seen.of_most:
        return {}
    after = _Comparison(replays, probe, data, log)
    after.look_at_some([saved for saved in replays.saved if saved >= first], seen.changed, lambda _: True)
    memories = {}
    for client, compared in seen.found.items():
        known = [one for one in compared if counts(one)]
        # Data that do not give what was logged in the rise either have changed after it.
        if not known or client in {*seen.resized, *after.changed, *after.resized}:
            continue
        clearest = max(known, key=lambda one: one.difference)
        differing = [one for one in known if one.changed]
        back = _relabelled(replays, probe, data, client, differing) if differing else None
        memories[client] = replace(clearest, relabelling=back)
    return memories


def sent_over_trained(replays: Replayer, log: ClientLog, suspects: Collection[str], last: int) -> dict[str, float]:
    """Returns of each client how long an update it sent over what training on its data gives: 1 if it sent that.

    Compared are updates of the rounds up to `last` that made the rise, those in which one of `suspects` took part, if
    the model before is known from a checkpoint or from rounds that were run again as they were. Left out are clients
    that did not do as many steps as the settings say; and an update as long as it should be whose cosine to the
    geometric median of the round's updates has the other sign: it may be reversed, or honest where others turn the
    median. Of several rounds, the first counts whose update training does not give. Empty where most differ: then the
    rounds were of other settings. `log` as for `remember`.
    """
    found: dict[str, float] = {}
    compared = 0
    for round_num in range(replays.sound_after + 1, last + 1):
        logged, steps = (_logged(log, round_num, name) for name in ("update_norm", "num_steps"))
        cosines, losses = (_logged(log, round_num, name) for name in ("update_cosine_robust", "loss_before"))
        asked = [c for c, (num, _) in logged.items() if num == _size(replays, c)]
        unclear = {client for client in suspects if as_trained(found.get(client, 1.0))}
        near = round_num - 1 in replays.saved or round_num <= replays.sound_after + _NEAR
        if compared == _ROUNDS or not unclear & {*asked} or not near or not replays.reaches(round_num):
            continue
        compared += 1
        trained = replays.repeated(round_num, asked)
        trained = {client: result for client, result in trained.items() if result.finite}
        if not trained:
            continue
        updates = [trained[client].update for client in trained]
        inner = gram(updates)
        statistics = update_statistics(inner, np.full(len(updates), 1 / len(updates)))
        for client, norm, cosine in zip(trained, statistics.norm, statistics.cosine_robust, strict=True):
            if not same(trained[client].loss_before, losses.get(client, (0, np.inf))[1]):
                continue  # trained on other data, or from another model
            if not norm > 0 or steps.get(client, (0, -1))[1] != trained[client].num_steps:
                continue
            ratio, seen = logged[client][1] / float(norm), cosines.get(client, (0, np.nan))[1]
            turned = abs(seen + cosine) < abs(seen - cosine)
            if not (turned and as_trained(ratio)) and as_trained(found.get(client, 1.0)):
                found[client] = ratio
    odd = [client for client, ratio in found.items() if not as_trained(ratio)]
    return {} if 2 * len(odd) > len(found) else found


def risen_with_their_data(
    settings: Settings, folder: Path, log: ClientLog, cache: ComputationCache | None = None
) -> list[ClientRise]:
    """Returns the clients whose loss rose because their data changed in the course of the run, sorted by id.

    Under the models of earlier checkpoints today's data do not give the loss that was logged, and from one on they do:
    in between the data became what they are. Named is whose loss they raise by half or more under the last model
    before, and whose logged loss rose as far within; none where the data of most have changed, and where batches hold
    more than a client's own examples. What a test of few losses leaves to chance, this knows. `log` is clients.csv
    without rounds of pruning.
    """
    with replayer(settings, folder, cache) as replays:
        if not replays.as_they_are:
            return []
        seen = _Comparison(replays, Probe(replays.model), replays.data(), log)
        for saved in replays.saved:
            seen.look(saved, seen.data)
    if seen.of_most:
        return []
    found = [_risen_between(log, client, seen.found[client]) for client in seen.changed]
    return [one for one in found if one is not None]


def _risen_between(log: ClientLog, client: str, compared: Sequence[Memory]) -> ClientRise | None:
    """The rise of a client's loss between the last round with other data and the next that was compared."""
    last = max(number for number, one in enumerate(compared) if one.changed)
    if last + 1 == len(compared) or not compared[last].now >= WORSE * compared[last].logged:
        return None
    mine = log.of(client) & np.isfinite(log.signals["loss_before"]) & ~log.failed
    rounds, losses = log.rounds[mine], log.signals["loss_before"][mine]
    since, until = compared[last].round, compared[last + 1].round
    places = [i for i in range(1, len(rounds)) if since < rounds[i] <= until]
    if not places:
        return None
    # A batch that is nearly learnt by heart doubles its loss for nothing.
    level = np.log(losses + _FLOOR * np.median(losses))
    usual = float(np.mean(level[max(0, places[0] - _BEFORE) : places[0]]))
    start = next(i for i in places if level[i] >= (usual + level[places].max()) / 2)
    before = float(np.median(losses[:start][-_BEFORE:]))
    if not losses[start] >= WORSE * before:
        return None
    up = np.flatnonzero(losses > np.sqrt(before * losses[start]))
    first = int(rounds[start])
    return ClientRise(client, first, int(rounds[up[-1]]), first, 1.0)


def _logged(log: ClientLog, round_num: int, name: str) -> dict[str, tuple[int, float]]:
    """Each client's number of examples and a signal in the round, where both are known."""
    if not {"num_examples", name} <= set(log.signals):
        return {}
    sizes, values = log.signals["num_examples"], log.signals[name]
    usable = (log.rounds == round_num) & ~log.failed & np.isfinite(sizes) & np.isfinite(values)
    return {log.clients[row]: (int(sizes[row]), float(values[row])) for row in np.flatnonzero(usable)}


def _first_losses(replays: Replayer, probe: Probe, data: Sites, saved: int, clients: Sequence[str]) -> dict[str, float]:
    """The `loss_before` of clients in the round after `saved`, with the data of today."""
    if not replays.as_they_are:
        return {client: r.loss_before for client, r in replays.repeated(saved + 1, clients).items()}
    found = {}
    for client in clients:
        losses, labels = _batch(replays, probe, data, saved, client)
        found[client] = _mean(losses, labels)
    return found


def _batch(replays: Replayer, probe: Probe, data: Sites, saved: int, client: str) -> tuple[Floats, NDArray[np.int32]]:
    """A client's first batch in the round after `saved`: its loss (B, C) if each label were right, and labels (B,)."""
    x, y = data[client]
    batch = replays.first_batch(saved + 1, client)
    logits = probe.logits(replays.params_after(saved), x[batch]).astype(np.float64)
    with np.errstate(all="ignore"):
        return np.logaddexp.reduce(logits, axis=1, keepdims=True) - logits, y[batch]


def _relabelled(
    replays: Replayer, probe: Probe, data: Sites, client: str, compared: Sequence[Memory]
) -> tuple[int, ...] | None:
    """The simplest relabelling with which the data of today give all the losses that were logged; None if none does."""
    if not replays.as_they_are or len(compared) < _TIMES or compared[-1].round == 1:
        return None  # among so many relabellings one fits a single loss, or those of the first weights, by chance
    batches = [(_batch(replays, probe, data, one.round - 1, client), one.logged) for one in compared]
    for then in relabellings(replays.cohort.num_classes):
        if all(
            np.isclose(_mean(losses, then[labels]), logged, rtol=1e-5, atol=1e-6)
            for (losses, labels), logged in batches
        ):
            return tuple(int(label) for label in then)
    return None


def _mean(losses: Floats, labels: NDArray[np.int32] | Labels) -> float:
    return float(losses[np.arange(len(labels)), labels].mean())


def _size(replays: Replayer, client: str) -> int:
    info = replays.cohort.clients.get(client)
    return info.num_examples if info else -1
