"""reports/timings.csv: seconds per step and round. Only this report differs between two runs with the same seed."""

from collections.abc import Sequence
from pathlib import Path

from tasks import files
from tasks.errors import DataError

PATH = Path("reports/timings.csv")
COLUMNS = ("step", "round", "seconds")


def record(
    folder: Path, step: str, seconds: float | None = None, rounds: Sequence[float] = (), first_round: int = 1
) -> None:
    """Replaces the rows of `step` in the timings of the workspace `folder`; other steps' rows stay.

    Args:
        folder: the workspace.
        step: which step took the time.
        seconds: seconds of the whole step, for its row without a round; None: that row stays.
        rounds: seconds of the rounds `first_round`, `first_round` + 1, …. Rows of earlier rounds stay, because the run
            made them before it was resumed; later rows are replaced. Empty: all rows of rounds stay.
        first_round: the number of the first of `rounds`.
    """
    path = folder / PATH
    rows = _read(path)
    others = [row for row in rows if row["step"] != step]
    whole = [row for row in rows if row["step"] == step and not row["round"]]
    each = [row for row in rows if row["step"] == step and row["round"]]
    if seconds is not None:
        whole = [_row(step, "", seconds)]
    if rounds:
        each = [row for row in each if int(row["round"]) < first_round]
        each += [_row(step, str(number), value) for number, value in enumerate(rounds, first_round)]
    files.write_rows(path, COLUMNS, [*others, *each, *whole])


def _read(path: Path) -> list[dict[str, str]]:
    """Returns the rows; none if the file is damaged, because timings must not make a finished step fail."""
    try:
        rows = files.read_rows(path, COLUMNS)
        return [row for row in rows if row["round"] == "" or row["round"].isdecimal()]
    except DataError:
        return []


def _row(step: str, number: str, seconds: float) -> dict[str, str]:
    return {"step": step, "round": number, "seconds": f"{seconds:.4f}"}
