"""A Flower `History`, or the `Result` of Flower's newer strategies, as a round log.

Flower's source (1.42) says what they hold:

- `flwr.server.history.History`: `losses_centralized` and `losses_distributed` are lists of [round, loss];
  `metrics_distributed_fit` has a list of [round, value] for each name. Round 0 is the first model, which only
  `losses_centralized` has.
- `flwr.serverapp.strategy.Result`: `evaluate_metrics_serverapp`, `evaluate_metrics_clientapp` and
  `train_metrics_clientapp` have the metrics of each round by name. The user's code chooses the names.

All are of the model after the round. Neither holds anything of a single client.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.errors import DataError, listed
from tasks.round_log.foreign import (
    CANNOT_TELL,
    LOSSES,
    TRAINING_LOSSES,
    ForeignLog,
    known,
    list_of,
    loss_of,
    parsed,
    read_text,
    round_of,
    rows_of,
    table_of,
)

HOW = (
    "where the run ends, write a History with json.dump(vars(history), file, default=float), or a Result without its "
    "arrays: docs/round-log.md"
)
"""How to write a file that is accepted."""

_HISTORY = ("losses_centralized", "losses_distributed")
_FIT = "metrics_distributed_fit"
_RESULT = ("evaluate_metrics_serverapp", "evaluate_metrics_clientapp", "train_metrics_clientapp")
_MEANS = {
    "losses_centralized": "the loss on the server's data after each round",
    "losses_distributed": "the clients' mean loss on their evaluation data after each round",
    _FIT: "what the clients reported of their training, averaged by the strategy",
    "evaluate_metrics_serverapp": "the loss on the server's data after each round",
    "evaluate_metrics_clientapp": "the clients' mean loss on their evaluation data after each round",
    "train_metrics_clientapp": "what the clients reported of their training, averaged by the strategy",
}

Series = dict[int, float]
"""Round → loss."""


def read_flower(path: Path) -> ForeignLog:
    """Returns the log in a JSON file of `vars(history)`, or of a Result's three metrics.

    `val_loss` is the loss on the server's data if there is one, otherwise that on the clients' evaluation data.
    `train_loss` is the next loss that there is.

    Raises:
        DataError: (1) the file is missing, a pickle, or not JSON, (2) it has none of Flower's fields, (3) a field has
            another form, or (4) there is no loss.
    """
    content = table_of(parsed(read_text(path, HOW), str(path)), str(path))
    if not {*_HISTORY, _FIT, *_RESULT} & content.keys():
        got = listed(sorted(content), 5) or "no field"
        raise DataError(
            f"{path} must have fields of a Flower History ({', '.join(_HISTORY)}) or Result ({', '.join(_RESULT)}), "
            f"got {got}: {HOW}"
        )
    found = _of_result(content, path) if {*_RESULT} & content.keys() else _of_history(content, path)
    measured = [(source, series) for source, series in found.items() if series]
    if not measured:
        raise DataError(
            f"{path} holds no loss: Flower records one if the strategy has an evaluation function, or if the clients "
            f"evaluate and return a metric named {', '.join(LOSSES)}"
        )
    columns = dict(zip(("val_loss", "train_loss"), measured, strict=False))
    says = [f"{column} is {source} of Flower's log: {_means(source)}." for column, (source, _) in columns.items()]
    rows = rows_of({column: series for column, (_, series) in columns.items()})
    return ForeignLog(rows, (), (CANNOT_TELL, *says))


def _means(source: str) -> str:
    return _MEANS[source.partition("[")[0]]


def _of_history(content: Mapping[str, Any], path: Path) -> dict[str, Series]:
    """The losses by the name of their field, the preferred one first."""
    found = {name: _pairs(content.get(name, []), f"{path}: {name}") for name in _HISTORY}
    fitted = table_of(content.get(_FIT, {}), f"{path}: {_FIT}")
    name = known(fitted, (*TRAINING_LOSSES, *LOSSES))
    if name:
        found[f"{_FIT}[{name}]"] = _pairs(fitted[name], f"{path}: {_FIT}[{name}]")
    return found


def _pairs(value: Any, where: str) -> Series:
    series: Series = {}
    for place, pair in enumerate(list_of(value, where)):
        at = f"{where}[{place}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(f"{at} must be [round, loss], got {str(pair)[:50]}")
        number = round_of(pair[0], f"{at}[0]")
        if number in series:
            raise DataError(f"{at}[0] must be a round that the list has once, got {number} again")
        series[number] = loss_of(pair[1], f"{at}[1]")
    return series


def _of_result(content: Mapping[str, Any], path: Path) -> dict[str, Series]:
    """The losses by the name of their field and metric, the preferred one first."""
    found: dict[str, Series] = {}
    for field in _RESULT:
        rounds = table_of(content.get(field, {}), f"{path}: {field}")
        records = {number: table_of(record, f"{path}: {field}[{number}]") for number, record in rounds.items()}
        wanted = (*TRAINING_LOSSES, *LOSSES) if field.startswith("train") else (*LOSSES, *TRAINING_LOSSES)
        name = known([each for record in records.values() for each in record], wanted)
        series = found.setdefault(f"{field}[{name}]", {})
        for number, record in records.items():
            if name in record:
                where = f"{path}: {field}[{number}]"
                at = round_of(int(number) if number.isascii() and number.isdigit() else number, where)
                series[at] = loss_of(record[name], f"{where}[{name}]")
    return found
