"""What clients.csv says of each client: the rounds of the rise, and what was usual for it before."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.arrays import Floats
from tasks.diagnose.observe.drift import BEFORE
from tasks.diagnose.observe.own_losses import common
from tasks.round_log.read import ClientLog, rows_by_client

Row = Mapping[str, Any]

_RECENT = 10
"""Most rounds of a client before the rise from which its usual loss is computed."""
_FLOOR = 0.02
"""Fraction of the median loss that is added to every loss before the logarithm, because ln 0 is not finite."""
_LEVEL = 5
"""Rounds before the rise whose median is the level of the mean client's loss."""


def rows_of(log: ClientLog, first: int, last: int) -> list[Row]:
    """Returns the log's rows of the rounds `first` to `last`, with None for a value that was not measured."""
    rows: list[Row] = []
    for i in np.flatnonzero((log.rounds >= first) & (log.rounds <= last)):
        signals: dict[str, Any] = {
            name: float(values[i]) if np.isfinite(values[i]) else None for name, values in log.signals.items()
        }
        rows.append({"round": int(log.rounds[i]), "client": log.clients[i], "finite": not log.failed[i], **signals})
    return rows


def passes(row: Row, batch_size: int) -> float:
    """Returns how often a client passed over its data in a round; NaN if its steps or examples are not known."""
    if row.get("num_steps") is None or not row.get("num_examples"):
        return np.nan
    return float(row["num_steps"] / -(-row["num_examples"] // batch_size))


def objective_gap(rows: Sequence[Row], weights: Mapping[str, float]) -> float:
    """Returns the mean over the rounds of the gap of objectives; see `Findings.objective_gap`.

    Args:
        rows: see `rows_of`.
        weights: aggregation weight by client.
    """
    gaps = []
    by_round: dict[int, list[Row]] = {row["round"]: [] for row in rows}
    for row in rows:
        if row.get("num_steps") and row["finite"]:
            by_round[row["round"]].append(row)
    for here in by_round.values():
        if here:
            share = np.array([weights.get(row["client"], 0.0) for row in here])
            meant, effective = share / share.sum(), share * np.array([row["num_steps"] for row in here])
            gaps.append(0.5 * float(np.abs(effective / effective.sum() - meant).sum()))
    return mean_of_known(gaps)


def usual_losses(log: ClientLog, first: int) -> dict[str, float]:
    """Returns each client's usual loss at the level before round `first`; see `ClientFinding.usual_loss`."""
    losses = log.signals.get("loss_before", np.full(len(log.rounds), np.nan))
    usable = (log.rounds < first) & (log.rounds >= first - BEFORE) & np.isfinite(losses) & (losses > 0)
    if not usable.any():
        return {}
    clients, rounds = log.codes[usable], log.rounds[usable]
    least = _FLOOR * float(np.median(losses[usable]))
    at, level = common(clients, rounds, losses[usable], least)
    apart = np.log((losses[usable] + least) / level[np.searchsorted(at, rounds)])
    now = float(np.median(level[-_LEVEL:]))
    mine = rows_by_client(clients)
    usual = {log.ids[client]: now * np.exp(np.median(apart[rows][-_RECENT:])) for client, rows in mine.items()}
    return {client: max(float(loss) - least, 0.0) for client, loss in usual.items()}


def first_failure(log: ClientLog, client: str, first: int) -> int | None:
    """Returns the first round from `first` on in which the client failed; None if it did not."""
    rows = log.rows(client)
    failed = log.rounds[rows][log.failed[rows] & (log.rounds[rows] >= first)]
    return int(failed.min()) if len(failed) else None


def before(log: ClientLog, name: str, client: str, first: int) -> Floats:
    """Returns the client's finite values of a signal in the 20 rounds before `first`."""
    if name not in log.signals:
        return np.zeros(0)
    rows = log.rows(client)
    values = log.signals[name][rows[(log.rounds[rows] < first) & (log.rounds[rows] >= first - BEFORE)]]
    return np.asarray(values[np.isfinite(values)])


def sized_signal(log: ClientLog, round_num: int, name: str) -> dict[str, tuple[int, float]]:
    """Returns by client its number of examples and a signal in the round, where both are known and it did not fail."""
    if not {"num_examples", name} <= set(log.signals):
        return {}
    sizes, values = log.signals["num_examples"], log.signals[name]
    usable = (log.rounds == round_num) & ~log.failed & np.isfinite(sizes) & np.isfinite(values)
    return {log.clients[row]: (int(sizes[row]), float(values[row])) for row in np.flatnonzero(usable)}


def resized(log: ClientLog, first: int, today: Mapping[str, int]) -> bool | None:
    """Returns whether the number of examples of a client changed in the run, by the log and the data of `today`.

    None if the log has no numbers from before round `first`.
    """
    if "num_examples" not in log.signals:
        return None
    sizes = log.signals["num_examples"]
    known = np.isfinite(sizes) & ~log.failed
    if not (known & (log.rounds < first)).any():
        return None
    seen = {client: {size} for client, size in today.items()}
    for row in np.flatnonzero(known):
        seen.setdefault(log.clients[row], set()).add(int(sizes[row]))
    return any(len(each) > 1 for each in seen.values())


def mean_of_known(values: Floats | Sequence[float | None]) -> float:
    """Returns the mean of the values that are known and finite; NaN if there are none."""
    finite = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(finite)) if finite else np.nan
