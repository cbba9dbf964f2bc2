"""Writes rounds.csv and clients.csv."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from tasks.files import write_rows
from tasks.round_log.columns import CLIENT_COLUMNS, ROUND_COLUMNS

ROUNDS, CLIENTS = LOGS = ("rounds.csv", "clients.csv")
"""Names of the two files."""


def write_log(folder: Path, rounds: Iterable[Mapping[str, object]], clients: Iterable[Mapping[str, object]]) -> None:
    """Writes rounds.csv and clients.csv into `folder`. A column that a row does not have is an empty cell.

    `rounds` and `clients` are read once, row by row: 10,000 clients over 100 rounds are a million rows.

    Raises:
        ValueError: a row has a key that is not a column.
    """
    write_rows(folder / ROUNDS, ROUND_COLUMNS, rounds)
    write_rows(folder / CLIENTS, CLIENT_COLUMNS, clients)
