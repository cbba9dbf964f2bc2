"""reports/timings.csv: seconds per step and round, the one report that differs between two runs of one seed."""

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
        seconds: of the whole step, its row without a round; None leaves that row as it is.
        rounds: seconds of the rounds `first_round`, `first_round` + 1, …; rows of earlier rounds stay (those before
            a resume), later ones are replaced. Empty: the rounds' rows stay as they are.
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
    """Returns the rows; none of a damaged file, for which no step that did its work may fail."""
    try:
        rows = files.read_rows(path, COLUMNS)
        return [row for row in rows if row["round"] == "" or row["round"].isdecimal()]
    except DataError:
        return []


def _row(step: str, number: str, seconds: float) -> dict[str, str]:
    return {"step": step, "round": number, "seconds": f"{seconds:.4f}"}
