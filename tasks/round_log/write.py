"""Writes rounds.csv and clients.csv."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.files import write_rows
from tasks.round_log.columns import CLIENT_COLUMNS, ROUND_COLUMNS


def write_log(folder: Path, rounds: Sequence[Mapping[str, object]], clients: Sequence[Mapping[str, object]]) -> None:
    """Writes rounds.csv and clients.csv into `folder`, a row each; a key that is no column is left out."""
    write_rows(folder / "rounds.csv", ROUND_COLUMNS, rounds)
    write_rows(folder / "clients.csv", CLIENT_COLUMNS, clients)
