"""Are a client's data the same as before the rise? Known models and the log tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tasks.diagnose.evidence.compared import TIMES, ComparedLosses, LossComparison
from tasks.diagnose.evidence.drift_of_data import DataDrift, drift_of, explained
from tasks.diagnose.evidence.memory import Memory
from tasks.diagnose.observe.own_losses import ClientRise, last_up
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.replay.engine import Replayer, replayer
from tasks.diagnose.thresholds import WORSE
from tasks.local.probe import Probe
from tasks.round_log.read import ClientLog
from tasks.settings import Settings

_BEFORE = 4
"""Rounds of a client before its rise whose losses are the level before it."""
_FLOOR = 0.25
"""Fraction of a client's median loss that is added to its losses before the logarithm."""
_EARLY = 0.7
"""Fraction of the rounds before the rise, from the first on, in which an unchanged loss counts as well."""


@dataclass(frozen=True)
class Remembered:
    """What the log remembers of the clients' data.

    Attributes:
        memories: by client, the logged loss that differs most from the loss that its data of today give.
        drift: a change of most clients' data, certain or not; None if there is none.
    """

    memories: Mapping[str, Memory] = field(default_factory=dict)
    drift: DataDrift | None = None


def memories_of(replays: Replayer, probe: Probe, log: ClientLog, first: int) -> Remembered:
    """Returns what the log remembers of the data that each client had before the rise.

    1. Losses are compared of the earliest rounds whose model is known, before round `first`.
    2. A loss that is the same today counts only of the early rounds: right before the rise, data may already have
       changed. It does not count in round 1, whose weights may give all labels the same loss.
    3. A client is left out if its data do not give its losses during the rise either: they changed after it.
    4. No client is in the result if the clients were divided anew: other data of most of them, and no drift.

    Args:
        replays: at the checkpoint before the rise.
        probe: of their model.
        log: clients.csv, without rounds of pruning.
        first: round in which the rise began.
    """

    def counts(memory: Memory) -> bool:
        return memory.changed or 1 < memory.round <= _EARLY * first

    comparison = LossComparison(replays, probe, log)
    before = comparison.under_some(
        [saved for saved in replays.saved if saved < first - 1], replays.cohort.clients, counts
    )
    drift = _drift(comparison, before, first) if before.of_most else None
    if before.of_most and not (drift and drift.certain):
        return Remembered(drift=drift)
    during = comparison.under_some([saved for saved in replays.saved if saved >= first], before.changed, lambda _: True)
    left_out = {*before.resized, *during.changed, *during.resized}
    memories = {}
    for client, compared in before.memories.items():
        counted = [memory for memory in compared if counts(memory)]
        if not counted or client in left_out:
            continue
        differing = [memory for memory in counted if memory.changed]
        back = comparison.relabelling(client, differing) if differing else None
        if drift is not None and drift.then and client in drift.memories:
            back = drift.then
        memories[client] = replace(max(counted, key=lambda memory: memory.difference), relabelling=back)
    return Remembered(memories, drift)


def _drift(comparison: LossComparison, before: ComparedLosses, first: int) -> DataDrift | None:
    """A change of most clients' data, of which `before` has losses before the rise."""
    replays = comparison.replays
    if replays.as_they_are:
        compared = comparison.under(replays.saved, replays.cohort.clients)
    else:  # rounds have to be run again for each model, so only a few are compared
        later = comparison.under_some([saved for saved in replays.saved if saved >= first], before.memories, bool)
        memories = {c: (*mine, *later.memories.get(c, ())) for c, mine in before.memories.items()}
        compared = ComparedLosses(memories, before.resized | later.resized)
    drift = drift_of(compared, first)
    if drift is None:
        return None
    differing = {c: [memory for memory in compared.memories[c] if memory.changed][:TIMES] for c in drift.clients}
    drift = replace(drift, then=comparison.common_relabelling(differing) or ())
    sizes = {client: info.num_examples for client, info in replays.cohort.clients.items()}
    return replace(drift, certain=explained(drift, compared, first, sizes))


def risen_with_their_data(
    settings: Settings, folder: Path, log: ClientLog, cache: ComputationCache | None = None
) -> list[ClientRise]:
    """Returns the clients whose loss rose because their data changed in the course of the run, sorted by id.

    A client is named if all of these hold:
    1. Under the models of earlier checkpoints, its data of today do not give the logged loss. From a later one on, they
       do: in between, the data became what they are.
    2. Under the last model before, they raise its loss by half or more. The weights before round 1 are no such model:
       they give all labels about the same loss.
    3. Its logged loss rose as far in between.

    Nobody is named if the data of most have changed, or if batches hold more than a client's own examples. A test of
    few losses leaves such a rise to chance.

    Args:
        settings: of the run.
        folder: its workspace.
        log: clients.csv, without rounds of pruning.
        cache: of computations; None: an own one.
    """
    with replayer(settings, folder, cache) as replays:
        if not replays.as_they_are:
            return []
        comparison = LossComparison(replays, Probe(replays.model), log)
        compared = comparison.under(replays.saved, replays.cohort.clients)
    if compared.of_most:
        return []
    risen = [risen_between(log, client, compared.memories[client]) for client in compared.changed]
    return [rise for rise in risen if rise is not None]


def risen_between(log: ClientLog, client: str, compared: Sequence[Memory]) -> ClientRise | None:
    """Returns the rise of a client's loss between the last round with other data and the next that was compared.

    None if there is no such round, or if the loss did not rise by half.

    Args:
        log: clients.csv.
        client: its id.
        compared: its losses under known models, in the order of the rounds; at least one differs today.
    """
    last = max(number for number, memory in enumerate(compared) if memory.changed)
    before = compared[last]
    raised = before.round == 1 or before.now >= WORSE * before.logged
    if last + 1 == len(compared) or not raised:
        return None
    mine = log.rows(client)
    mine = mine[np.isfinite(log.signals["loss_before"][mine]) & ~log.failed[mine]]
    rounds, losses = log.rounds[mine], log.signals["loss_before"][mine]
    since, until = before.round, compared[last + 1].round
    places = [i for i in range(1, len(rounds)) if since < rounds[i] <= until]
    if not places:
        return None
    # A batch that is nearly learnt by heart doubles its loss for nothing.
    level = np.log(losses + _FLOOR * np.median(losses))
    start = max(places, key=lambda place: float(level[place] - level[max(0, place - _BEFORE) : place].mean()))
    earlier = float(np.median(losses[:start][-_BEFORE:]))
    if not losses[start] >= WORSE * earlier:
        return None
    last = last_up(losses > np.sqrt(earlier * losses[start]), start)
    first = int(rounds[start])
    return ClientRise(client, first, int(rounds[last]), first, 1.0)
