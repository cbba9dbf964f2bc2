"""The results of the cells of a comparison: their rows of compare.csv, and their curves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flows.comparing.grid import Cell
from tasks import files
from tasks.errors import reading
from tasks.round_log.cells import Rows, measurements
from tasks.round_log.own import rounds_of_run

DRIFT, ROUNDS_TO_TARGET = "drift_mean", "rounds_to_target"
_FIRST = ("accuracy", "loss", "pruned_accuracy", "pruned_loss", "client_accuracy_worst", DRIFT, ROUNDS_TO_TARGET)

_COMPARABLE = 0.8
"""Cells share a target accuracy only if the lowest final accuracy is at least this fraction of the highest."""
_LONGEST_REASON = 160
"""Most characters of a reason in a log line, in compare.md and in a Prefect state."""


@dataclass(frozen=True)
class Result:
    """The result of one cell.

    Attributes:
        cell: the cell with its settings.
        status: `finished` or `failed`.
        reason: why the cell failed, in one line; empty if it finished.
        run_id: id of the cell's MLflow run; empty if it has none.
        numbers: the finite numbers of metrics.json, `drift_mean` and `rounds_to_target`; empty if the cell failed.
        curve: round → hold-out loss (val_loss) in nats per example, for the evaluated rounds.
        accuracies: round → hold-out accuracy (val_accuracy), a fraction, for the evaluated rounds of phase `federate`.
        prune_from: the first round of the phase `prune`; None if the cell failed.
        resolution: number → its smallest possible step, if it has one: `accuracy` → 1 / number of hold-out examples.
    """

    cell: Cell
    status: str
    reason: str = ""
    run_id: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    curve: Mapping[int, float] = field(default_factory=dict)
    accuracies: Mapping[int, float] = field(default_factory=dict)
    prune_from: int | None = None
    resolution: Mapping[str, float] = field(default_factory=dict)

    @property
    def short_reason(self) -> str:
        """The reason, cut to _LONGEST_REASON characters: a list of clients can make it long."""
        return self.reason if len(self.reason) <= _LONGEST_REASON else f"{self.reason[: _LONGEST_REASON - 1]}…"

    @property
    def is_finished(self) -> bool:
        """Whether the cell finished, and so has numbers."""
        return self.status == "finished"


def read_result(cell: Cell, folder: Path, run_id: str) -> Result:
    """Returns the result of a finished cell from its workspace.

    Raises:
        DataError: one of its files is missing or damaged.
    """
    log, metrics, partition = (
        folder / path for path in ("reports/rounds.csv", "reports/metrics.json", "data/partition/partition.json")
    )
    rows = rounds_of_run(log, ["val_loss", "val_accuracy", "drift"], ["federate", "prune"], "prune")
    trained = [row for row in rows if row["phase"] == "federate"]
    with reading(f"{metrics} must hold numbers by their names"):
        numbers = finite(files.read_json(metrics))
    drifts = list(_curve(log, trained, "drift").values())
    if drifts:
        numbers[DRIFT] = sum(drifts) / len(drifts)
    with reading(f"{partition} must hold the number of examples of the test set and of each client"):
        counts = files.read_json(partition)
        one_example = 1 / counts["test"]["num_examples"]
        one_of_a_client = 1 / min(client["num_examples"] for client in counts["clients"].values())
    return Result(
        cell,
        "finished",
        run_id=run_id,
        numbers=numbers,
        curve=_curve(log, rows, "val_loss"),
        accuracies=_curve(log, trained, "val_accuracy"),
        prune_from=1 + len(trained),
        resolution={
            "accuracy": one_example,
            "pruned_accuracy": one_example,
            "client_accuracy_worst": one_of_a_client,
            ROUNDS_TO_TARGET: float(cell.settings.federate.evaluate_every),
        },
    )


def finite(scores: Mapping[str, object]) -> dict[str, float]:
    """Returns the entries that are finite numbers."""
    return {
        key: float(value)
        for key, value in scores.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def common_accuracy(results: Sequence[Result]) -> float | None:
    """Returns the hold-out accuracy that every finished cell reaches: the lowest accuracy at the end of training.

    With a higher target, some cells would not reach it, so their group would have no mean number of rounds. Returns
    None if one cell's final accuracy is below _COMPARABLE times the highest: the others pass it in their first rounds.
    """
    finished = [result.accuracies for result in results if result.is_finished and result.accuracies]
    ends = [accuracies[max(accuracies)] for accuracies in finished]
    return min(ends) if ends and min(ends) >= _COMPARABLE * max(ends) else None


def with_rounds_to(results: Sequence[Result], accuracy: float | None) -> list[Result]:
    """Returns the results with `rounds_to_target` added: the first round with at least this hold-out accuracy."""

    def with_rounds(result: Result) -> Result:
        rounds = [number for number, value in result.accuracies.items() if accuracy is not None and value >= accuracy]
        if not (result.is_finished and rounds):
            return result
        return replace(result, numbers={**result.numbers, ROUNDS_TO_TARGET: float(min(rounds))})

    return [with_rounds(result) for result in results]


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """Writes compare.csv, one row per cell: the grid's settings, status, MLflow run, numbers, reason of a failure."""
    settings = list(results[0].cell.values)
    keys = {key for result in results for key in result.numbers}
    columns = [key for key in _FIRST if key in keys] + sorted(keys - set(_FIRST))
    rows = [
        {
            **result.cell.values,
            "status": result.status,
            "mlflow_run_id": result.run_id,
            **{key: _spell(value) for key, value in result.numbers.items()},
            "reason": result.reason,
        }
        for result in results
    ]
    files.write_rows(path, [*settings, "status", "mlflow_run_id", *columns, "reason"], rows)


def _spell(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def _curve(log: Path, rows: Rows, name: str) -> dict[int, float]:
    """Returns round → the number in the column `name` of the rounds.csv `log`, for the rounds in which it is finite."""
    numbers = measurements(log, name, [row[name] for row in rows]).values.tolist()
    return {int(row["round"]): number for row, number in zip(rows, numbers, strict=True) if math.isfinite(number)}
