"""Did the data of most clients change in the course of the run? What the log remembers of them says it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

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
        first_after: first round in which the log shows the data of today.
        then: by client, the label that each label of today was; empty if no relabelling explains the change.
        hold_out: val_loss of the last known model before, in the log and with the hold-out data of today; None if it
            was not logged.
    """

    memories: Mapping[str, Memory]
    num_clients: int
    last_before: int
    first_after: int
    then: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    hold_out: Memory | None = None

    @property
    def clients(self) -> tuple[str, ...]:
        """The clients whose data changed, sorted."""
        return tuple(sorted(self.memories))


def drift_of(compared: ComparedLosses, first: int, sizes: Mapping[str, int]) -> DataDrift | None:
    """Returns what the compared losses say of a change of most clients' data; None if they say no such thing.

    It is one if all of these hold:
    1. Most clients logged other losses before the rise than their data of today give, and later the same losses.
    2. Their numbers of examples are as they were: else the clients were divided anew, which is a skew and no drift.
    3. Over all clients, weighted by examples, the data of today have a loss of more than WORSE times the logged one
       under the models before. Data that are only divided anew have the same loss over all clients.

    Args:
        compared: losses under the known models, of before the rise and of later.
        first: first round of the rise.
        sizes: examples by client.
    """
    known = compared.memories.keys() | compared.resized
    last, after = dict[str, Memory](), dict[str, int]()
    for client in compared.changed:
        before = [memory for memory in compared.memories[client] if memory.changed]
        later = [memory.round for memory in compared.memories[client] if memory.round > before[-1].round]
        if later and before[0].round < first:
            last[client], after[client] = before[-1], later[0]
    if not 2 * len(last) > len(known):
        return None
    pairs = [(sizes[c], m) for c, memories in compared.memories.items() for m in memories if m.round < first]
    weights = np.array([size for size, _ in pairs], np.float64)
    logged, now = (np.array([getattr(memory, name) for _, memory in pairs]) for name in ("logged", "now"))
    if not weights @ now > WORSE * (weights @ logged):
        return None
    return DataDrift(last, len(known), max(memory.round for memory in last.values()), min(after.values()))


def common_relabelling(known: Mapping[str, tuple[int, ...] | None]) -> dict[str, tuple[int, ...]]:
    """Returns the relabelling of each client, where one explains all; empty if two differ, or if none is known.

    A client with too few losses to infer one from has the others' relabelling: the replay decides if that is right.
    """
    found = {then for then in known.values() if then is not None}
    return dict.fromkeys(known, found.pop()) if len(found) == 1 else {}
