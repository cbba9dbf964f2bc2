"""Where the replay that changes nothing first differs from the log, and at which clients."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tasks.diagnose.evidence.logged import rows_of
from tasks.diagnose.evidence.memory import as_trained, same
from tasks.federate.record import RoundLine
from tasks.round_log.read import ClientLog

Kind = Literal["data", "update", "other"]


@dataclass(frozen=True)
class RowDifference:
    """One client's row of a round, which differs between the log and the replay.

    Attributes:
        client: its id.
        kind: `data` if the loss before local training differs; `update` if only the length of the update does; `other`
            if the rows cannot be compared: the client failed or took part in one of them only, or it has another number
            of examples or of local steps.
        logged: the loss or the length in the log; NaN for `other`.
        replayed: the same in the replay.
    """

    client: str
    kind: Kind
    logged: float = np.nan
    replayed: float = np.nan


@dataclass(frozen=True)
class Disagreement:
    """The first round in which the replay differs from the log.

    Attributes:
        round: its number.
        rows: the clients that differ, sorted.
        num_clients: clients of the round, in the log or in the replay.
    """

    round: int
    rows: tuple[RowDifference, ...]
    num_clients: int

    @property
    def clients(self) -> tuple[str, ...]:
        """The clients that differ."""
        return tuple(row.client for row in self.rows)

    @property
    def of_few(self) -> bool:
        """Whether fewer than half of the clients differ. Then the round began with the run's model."""
        return 2 * len(self.rows) < self.num_clients


def first_disagreement(lines: Sequence[RoundLine], log: ClientLog, until: int) -> Disagreement | None:
    """Returns the first round up to `until` in which a client's row differs; None if the replay reproduces the log.

    After that round, the two global models differ, so every row differs.

    Args:
        lines: of the replay that changes nothing.
        log: clients.csv, without rounds of pruning.
        until: last round that is compared.
    """
    for line in lines:
        logged = logged_rows(log, line.round)
        if line.round > until or not logged:
            continue
        replayed = {row["client"]: row for row in line.clients}
        rows = differing(logged, replayed)
        if rows:
            return Disagreement(line.round, tuple(rows), len(logged.keys() | replayed.keys()))
    return None


def differing(
    logged: Mapping[str, Mapping[str, Any]], replayed: Mapping[str, Mapping[str, Any]]
) -> list[RowDifference]:
    """Returns the clients whose rows differ, sorted. Values that one of the two rows lacks are not compared."""
    rows = []
    for client in sorted(logged.keys() | replayed.keys()):
        if client not in logged or client not in replayed:
            rows.append(RowDifference(client, "other"))
        elif (row := _difference(client, logged[client], replayed[client])) is not None:
            rows.append(row)
    return rows


def logged_rows(log: ClientLog, round_num: int) -> dict[str, Mapping[str, Any]]:
    """Returns the log's rows of a round by client, with None for a value that was not measured."""
    return {row["client"]: row for row in rows_of(log, round_num, round_num)}


def _difference(client: str, logged: Mapping[str, Any], replayed: Mapping[str, Any]) -> RowDifference | None:
    if bool(logged["finite"]) != bool(replayed["finite"]):
        return RowDifference(client, "other")
    if not logged["finite"]:
        return None
    if any(_differ(logged, replayed, name, lambda a, b: a != b) for name in ("num_examples", "num_steps")):
        return RowDifference(client, "other")
    if _differ(logged, replayed, "loss_before", lambda a, b: not same(a, b)):
        return RowDifference(client, "data", logged["loss_before"], replayed["loss_before"])
    if _differ(logged, replayed, "update_norm", lambda a, b: b > 0 and not as_trained(a / b)):
        return RowDifference(client, "update", logged["update_norm"], replayed["update_norm"])
    return None


def _differ(
    logged: Mapping[str, Any], replayed: Mapping[str, Any], name: str, apart: Callable[[float, float], bool]
) -> bool:
    """Whether both rows have the value, and the two are `apart`."""
    first, second = logged.get(name), replayed.get(name)
    return first is not None and second is not None and apart(first, second)
