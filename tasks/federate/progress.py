"""The progress of the rounds: one line a round with loss, accuracy, drift, failed clients and the time left.

In a terminal there is a bar too.
"""

import logging
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tasks.round_log.columns import RoundRow

_log = logging.getLogger(__name__)


class RoundProgress:
    """Shows the rounds of a phase: `total` rounds, of which `done` were done before."""

    def __init__(self, phase: str, done: int, total: int) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn(phase),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[line]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task(phase, total=total, completed=done, line="")
        self._phase = phase

    def __enter__(self) -> "RoundProgress":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, row: RoundRow, last: int, seconds_left: float, failures: Mapping[str, str]) -> None:
        """Shows a finished round: `row` is its row of rounds.csv, `last` the number of the phase's last round."""
        line = (
            f"loss {_number(row['val_loss'])}  accuracy {_number(row['val_accuracy'])}  drift {_number(row['drift'])}"
            f"  failed {', '.join(failures) or 'none'}"
        )
        self._progress.update(self._task, advance=1, line=line)
        # In a terminal the bar shows the same. Elsewhere (a file, DVC, a scheduler) there is only this line.
        text = f"{self._phase} {row['round']}/{last}  {line}  left {seconds_left:.0f} s"
        if self._progress.disable:
            _log.info("%s", text)
        else:
            self._progress.console.print(text, highlight=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
