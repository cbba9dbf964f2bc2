"""Writes rounds.csv and clients.csv."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.files import write_rows
from tasks.round_log.columns import CLIENT_COLUMNS, ROUND_COLUMNS

Row = Mapping[str, Any]


def write_log(
    folder: Path, lines: Sequence[Row], earlier_rounds: Sequence[Row] = (), earlier_clients: Sequence[Row] = ()
) -> None:
    """Writes rounds.csv and clients.csv into `folder`.

    Args:
        folder: where the two files go.
        lines: a line per round, with the `row` of rounds.csv and the rows of clients.csv as `clients`.
        earlier_rounds: rows of rounds.csv that stand before the first line: the rounds of an earlier step.
        earlier_clients: the same for clients.csv.
    """
    clients = [row for line in lines for row in line["clients"]]
    write_rows(folder / "rounds.csv", ROUND_COLUMNS, [*earlier_rounds, *(line["row"] for line in lines)])
    write_rows(folder / "clients.csv", CLIENT_COLUMNS, [*earlier_clients, *clients])
