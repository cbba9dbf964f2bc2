"""One line a round while it runs: round, loss, accuracy, drift, who failed, time left; a bar too in a terminal."""

import logging
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tasks.round_log.columns import RoundRow

_log = logging.getLogger(__name__)


class RoundProgress:
    """Shows the rounds `first` to `last` of a phase."""

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
        """Shows the finished round `row`, a row of rounds.csv."""
        line = (
            f"loss {_number(row['val_loss'])}  accuracy {_number(row['val_accuracy'])}  drift {_number(row['drift'])}"
            f"  failed {', '.join(failures) or 'none'}"
        )
        self._progress.update(self._task, advance=1, line=line)
        # The bar shows the same in a terminal; elsewhere (a file, DVC, a scheduler) this line is all there is.
        text = f"{self._phase} {row['round']}/{last}  {line}  left {seconds_left:.0f} s"
        if self._progress.disable:
            _log.info("%s", text)
        else:
            self._progress.console.print(text, highlight=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
