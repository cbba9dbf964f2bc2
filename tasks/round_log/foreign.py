"""A log of another framework as rows of rounds.csv and clients.csv, and what its readers share."""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import DataError, reading, shown
from tasks.files import check_regular, write_rows
from tasks.round_log.write import CLIENTS, ROUNDS

LOSSES = ("loss", "val_loss", "validation_loss", "eval_loss", "test_loss")
"""Names of a loss on data that were not trained on, the preferred one first."""
TRAINING_LOSSES = ("train_loss", "training_loss")
"""Names of a loss on training data, the preferred one first."""
CANNOT_TELL = (
    "This log has losses only. It shows whether, when and how far the loss rose, and whether the loss of a client rose "
    "if it has that loss. It does not show why, or whether a loss that did not rise is higher than it should be: that "
    "takes the clients' data, their updates and replays."
)
_MOST_BITS = 1023
"""A larger whole number is no float."""

Row = Mapping[str, str | int | float]


@dataclass(frozen=True)
class ForeignLog:
    """What another framework logged.

    Attributes:
        rounds: rows of rounds.csv with `round` and the columns that are known.
        clients: rows of clients.csv in the same way; empty if nothing is known of single clients.
        says: what the columns mean there and what cannot be concluded, a sentence each.
    """

    rounds: tuple[Row, ...]
    clients: tuple[Row, ...]
    says: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Writes rounds.csv into `folder`, and clients.csv if there is a row for it."""
        for name, rows in ((ROUNDS, self.rounds), (CLIENTS, self.clients)):
            if rows:
                write_rows(folder / name, list(dict.fromkeys(column for row in rows for column in row)), rows)


def read_text(path: Path, how: str) -> str:
    """Returns the text of the file at `path`.

    Raises:
        DataError: it is missing, or it is no text. A pickle is refused, because it runs code when it is loaded; `how`
            says how to write a file that is accepted.
    """
    check_regular(path)
    if not path.exists():
        raise DataError(f"{path} is missing: RUN must be the file that the framework wrote")
    content = path.read_bytes()
    if content[:1] == b"\x80" or content[:6] == b"\x93NUMPY":
        raise DataError(f"{path} is a pickle, which runs code when it is loaded, so it is not read: {how}")
    with reading(f"{path} must be text in UTF-8"):
        return content.decode("utf-8-sig")


def parsed(text: str, what: str) -> Any:
    """Returns the value of a JSON text. The DataError begins with `what`."""
    with reading(f"{what} must be JSON"):
        return json.loads(text)


def known(names: Iterable[str], wanted: Collection[str]) -> str:
    """Returns the first of `wanted` that is among `names`; "" if none is. Case does not count, and `/` is `_`."""
    spelled = {name.lower().replace("/", "_"): name for name in names}
    return next((spelled[name] for name in wanted if name in spelled), "")


def loss_of(value: Any, where: str) -> float:
    """Returns a loss. The DataError begins with `where`: the file, the line and the field."""
    is_number = isinstance(value, float) or (type(value) is int and value.bit_length() <= _MOST_BITS)
    if not is_number:
        raise DataError(f"{where} must be a number, got {shown(value)}")
    return float(value)


def round_of(value: Any, where: str) -> int:
    """Returns the number of a round. The DataError begins with `where`: the file, the line and the field."""
    if type(value) is not int or not 0 <= value < 10**15:
        raise DataError(f"{where} must be a whole number >= 0, got {shown(value)}")
    return value


def list_of(value: Any, where: str) -> list[Any]:
    """Returns a list. The DataError begins with `where`: the file, the line and the field."""
    if not isinstance(value, list):
        raise DataError(f"{where} must be a list, got {shown(value)}")
    return value


def table_of(value: Any, where: str) -> dict[str, Any]:
    """Returns a JSON object. The DataError begins with `where`: the file, the line and the field."""
    if not isinstance(value, dict):
        raise DataError(f"{where} must be an object, got {shown(value)}")
    return value


def rows_of(columns: Mapping[str, Mapping[int, float]]) -> tuple[Row, ...]:
    """Returns the rows of rounds.csv for column → round → value, rounds ascending."""
    rounds = sorted({number for values in columns.values() for number in values})
    return tuple(
        {"round": number, **{name: _cell(values[number]) for name, values in columns.items() if number in values}}
        for number in rounds
    )


def _cell(value: float) -> float | str:
    return value if math.isfinite(value) else "nan"
