"""Losses that clients logged under known models, beside the losses that their data of today give."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.clients import Examples
from tasks.diagnose.evidence.logged import sized_signal
from tasks.diagnose.evidence.memory import Memory, relabellings
from tasks.diagnose.replay.engine import Replayer
from tasks.local.first_batch import first_batch_loss, loss_by_other_label
from tasks.local.probe import Probe
from tasks.parameters import Params
from tasks.round_log.read import ClientLog

T = TypeVar("T")

MOST_MODELS = 4
"""Most models under which clients' losses are compared, and that are held in memory together."""
TIMES = 2
"""Losses of a client after which no more are compared, and the fewest from which a relabelling is inferred."""


@dataclass(frozen=True)
class ComparedLosses:
    """What was compared so far.

    Attributes:
        memories: the compared losses by client, in the order of the rounds.
        resized: the clients that have another number of examples today. Their later losses are not compared.
    """

    memories: Mapping[str, tuple[Memory, ...]] = field(default_factory=dict)
    resized: frozenset[str] = frozenset()

    @property
    def changed(self) -> list[str]:
        """The clients that had other data in some round, sorted."""
        kept = self.memories.keys() - self.resized
        return sorted(client for client in kept if any(memory.changed for memory in self.memories[client]))

    @property
    def of_most(self) -> bool:
        """Whether most clients had other data: then the clients were divided anew, which says nothing of one client."""
        return 2 * len({*self.changed, *self.resized}) > len(self.memories.keys() | self.resized)


@dataclass(frozen=True)
class LossComparison:
    """Compares losses under the run's known models.

    Not compared are the losses of clients that train a part of the model, and losses that are not finite.

    Attributes:
        replays: of the run.
        probe: of its model.
        log: clients.csv, without rounds of pruning.
    """

    replays: Replayer
    probe: Probe
    log: ClientLog

    def under(self, models: Sequence[int], clients: Collection[str]) -> ComparedLosses:
        """Returns the losses of `clients` under the models after all rounds in `models`."""
        compared = ComparedLosses()
        for chunk in _chunks(models):
            losses = self._first_losses(chunk, clients)
            for saved in chunk:
                compared, _ = self._add(compared, saved, clients, losses)
        return compared

    def under_some(
        self, models: Sequence[int], clients: Collection[str], counts: Callable[[Memory], bool]
    ) -> ComparedLosses:
        """Returns the losses of `clients` under the first few of `models` that are needed.

        1. A client's loss is compared until TIMES of its losses count.
        2. Losses are compared under at most MOST_MODELS models.
        3. Under the other models, it is only looked up which clients have another number of examples.
        """
        compared, used = ComparedLosses(), 0
        for chunk in _chunks(models):
            losses = self._first_losses(chunk, clients) if used < MOST_MODELS else {}
            for saved in chunk:
                unclear = [client for client in clients if sum(map(counts, compared.memories.get(client, ()))) < TIMES]
                compared, some = self._add(compared, saved, unclear if used < MOST_MODELS else (), losses)
                used += some
        return compared

    def relabelling(self, client: str, memories: Sequence[Memory]) -> tuple[int, ...] | None:
        """Returns the simplest relabelling of today's data that gives all the losses in `memories`; None if none does.

        See `Memory.relabelling`. The result is None as well if one of these holds:
        1. There are fewer than TIMES losses: one of so many relabellings fits a single loss by chance.
        2. All losses are of round 1, whose weights may give all labels the same loss.
        3. A logged loss is not the model's loss on a client's own examples alone; see `Replayer.as_they_are`.
        """
        if len(memories) < TIMES or memories[-1].round == 1:
            return None
        return next(iter(self._fitting(client, memories)), None)

    def common_relabelling(self, memories: Mapping[str, Sequence[Memory]]) -> tuple[int, ...] | None:
        """Returns the one relabelling of today's data that gives all the losses of all clients; None if there is none.

        The result is None as well if several do, if there are fewer than TIMES clients, or for reason 3 of
        `relabelling`.
        """
        if len(memories) < TIMES:
            return None
        left: set[tuple[int, ...]] | None = None
        for client, mine in memories.items():
            fitting = {*self._fitting(client, mine)}
            left = fitting if left is None else left & fitting
            if not left:
                return None
        return left.pop() if left is not None and len(left) == 1 else None

    def _fitting(self, client: str, memories: Sequence[Memory]) -> Iterator[tuple[int, ...]]:
        """The relabellings of today's data that give all the losses in `memories`, the simplest first."""
        if not self.replays.as_they_are:
            return
        logged = [memory.logged for memory in memories]
        tables = self._at({client: [memory.round - 1 for memory in memories]}, loss_by_other_label)[client].values()
        for then in relabellings(self.replays.cohort.num_classes):
            losses = [table[np.arange(len(then)), then].sum() for table in tables]
            if np.allclose(losses, logged, rtol=1e-5, atol=1e-6):
                yield tuple(int(label) for label in then)

    def _add(
        self, compared: ComparedLosses, saved: int, clients: Collection[str], losses: Mapping[str, Mapping[int, float]]
    ) -> tuple[ComparedLosses, bool]:
        """Adds the losses of the round after `saved`; and whether one of `clients` took part in it."""
        signals = sized_signal(self.log, saved + 1, "loss_before")
        logged = {client: signal for client, signal in signals.items() if client in self.replays.cohort.clients}
        other = {client for client, (num, _) in logged.items() if num != self.replays.num_examples(client)}
        resized = compared.resized | other
        widths = self.replays.settings.federate.width
        able = [c for c in logged if c in clients and c not in resized and widths.get(c, 1.0) == 1]
        memories = dict(compared.memories)
        for client, loss in self._losses(saved, able, losses).items():
            if np.isfinite(loss):
                memories[client] = (*memories.get(client, ()), Memory(saved + 1, logged[client][1], loss))
        return ComparedLosses(memories, resized), bool(able)

    def _losses(
        self, saved: int, clients: Sequence[str], losses: Mapping[str, Mapping[int, float]]
    ) -> dict[str, float]:
        """The `loss_before` of clients in the round after `saved`, with the data of today."""
        if not clients:
            return {}
        if not self.replays.as_they_are:
            repeated = self.replays.repeated(saved + 1, clients)
            return {client: result.loss_before for client, result in repeated.items()}
        return {client: losses[client][saved] for client in clients}

    def _first_losses(self, models: Sequence[int], clients: Collection[str]) -> dict[str, dict[int, float]]:
        """By client and model, the loss of its first batch of the next round; each client is asked once.

        Of clients that took part in that round. Empty if rounds have to be run again for it.
        """
        if not self.replays.as_they_are:
            return {}
        rounds: dict[str, list[int]] = {}
        for saved in models:
            for client in sized_signal(self.log, saved + 1, "loss_before"):
                if client in clients and client in self.replays.cohort.clients:
                    rounds.setdefault(client, []).append(saved)
        return self._at(rounds, first_batch_loss)

    def _at(
        self, rounds: Mapping[str, Sequence[int]], compute: Callable[[Probe, Params, Examples, NDArray[np.int32]], T]
    ) -> dict[str, dict[int, T]]:
        """What clients compute of the models after `rounds`, each on its first batch of the next round."""
        replays = self.replays
        params = {saved: replays.params_after(saved) for saved in sorted({*chain(*rounds.values())})}

        def of_models(client: str, examples: Examples) -> dict[int, T]:
            return {
                saved: compute(self.probe, params[saved], examples, replays.first_batch(saved + 1, client))
                for saved in rounds[client]
            }

        return replays.at_clients(of_models, rounds)


def _chunks(models: Sequence[int]) -> Iterator[Sequence[int]]:
    """The models, so many at once as are held in memory together."""
    for first in range(0, len(models), MOST_MODELS):
        yield models[first : first + MOST_MODELS]
