"""Did the data of most clients change in the course of the run? What the log remembers of them says it."""

from collections.abc import Mapping
from dataclasses import dataclass

from tasks.diagnose.evidence.compared import ComparedLosses
from tasks.diagnose.evidence.memory import Memory
from tasks.diagnose.thresholds import WORSE


@dataclass(frozen=True)
class DataDrift:
    """The data of most clients changed between two rounds.

    Attributes:
        memories: by client whose data changed, the last loss that its data of today do not give.
        num_clients: clients whose losses could be compared.
        last_before: last round in which the log shows the data of then.
        first_after: first round in which the log shows the data of today; None if no later round can be compared.
        then: for each label of today, the label that it was at all of these clients; empty if no relabelling explains
            the change.
        hold_out: val_loss of the first known model, in the log and with the hold-out data of today; None if it was not
            logged.
        certain: whether the clients were not only divided anew; see `explained`.
    """

    memories: Mapping[str, Memory]
    num_clients: int
    last_before: int
    first_after: int | None
    then: tuple[int, ...] = ()
    hold_out: Memory | None = None
    certain: bool = False

    @property
    def clients(self) -> tuple[str, ...]:
        """The clients whose data changed, sorted."""
        return tuple(sorted(self.memories))


def drift_of(compared: ComparedLosses, first: int) -> DataDrift | None:
    """Returns the change of most clients' data that the compared losses show; None if they show none.

    1. Most clients logged other losses before the rise than their data of today give, and the same losses in it, as far
       as these can be compared.
    2. Their numbers of examples are as they were.

    Clients that were divided anew look the same, unless their sizes changed: see `explained`.

    Args:
        compared: losses under the known models, of before the rise and of later.
        first: first round of the rise.
    """
    known = compared.memories.keys() | compared.resized
    last, after = dict[str, Memory](), list[int]()
    for client in compared.changed:
        before = [memory for memory in compared.memories[client] if memory.changed]
        if before[-1].round <= first:
            last[client] = before[-1]
            after += [memory.round for memory in compared.memories[client] if memory.round > before[-1].round][:1]
    if not 2 * len(last) > len(known):
        return None
    return DataDrift(last, len(known), max(memory.round for memory in last.values()), min(after, default=None))


def explained(drift: DataDrift, compared: ComparedLosses, first: int, sizes: Mapping[str, int]) -> bool:
    """Returns whether a change of most clients' data is a drift, and the clients were not only divided anew.

    1. One relabelling gives every logged loss.
    2. Or, over all clients, weighted by examples, today's data have a loss of more than WORSE times the logged one
       under the models before the rise. Data that are only divided anew have the same loss over all clients.

    Args:
        drift: the change.
        compared: see `drift_of`.
        first: first round of the rise.
        sizes: examples by client.
    """
    pairs = [(sizes[c], m) for c, memories in compared.memories.items() for m in memories if m.round < first]
    logged = sum(size * memory.logged for size, memory in pairs)
    return bool(drift.then) or sum(size * memory.now for size, memory in pairs) > WORSE * logged
