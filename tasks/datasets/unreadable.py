"""Records that cannot be read. By `data.skip_unreadable`, they are left out and counted, or the first is an error."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.clients import TEST
from tasks.datasets.examples import Labelled, Skipped
from tasks.datasets.spool import SourceArray, select
from tasks.errors import DataError, listed, shown
from tasks.settings import DataSettings

_log = logging.getLogger(__name__)

Record = TypeVar("Record")
Read = TypeVar("Read")

LeaveOut: TypeAlias = Callable[[NDArray[np.bool_], str], None]
"""Takes which of the N records cannot be read, (N,), and the first error; leaves them out or raises a DataError."""


class RowsError(DataError):
    """Rows of a table cannot be read: `wrong` (N,) marks them, and the text says what is wrong with the first."""

    def __init__(self, says: str, wrong: NDArray[np.bool_]) -> None:
        """Keeps the rows in `wrong`."""
        super().__init__(says)
        self.wrong = wrong


ADVICE = "data.skip_unreadable: true leaves out what cannot be read"

_NAMED = 10
"""Most clients that a line of the log names."""


def refuse(wrong: NDArray[np.bool_], says: str) -> None:
    """Raises an error for a wrong record: the `LeaveOut` of data without unreadable records.

    Raises:
        DataError: a record is wrong.
    """
    if wrong.any():
        raise DataError(says)


def few_or_none(leave_out: LeaveOut, wrong: NDArray[np.bool_]) -> LeaveOut:
    """Returns `leave_out`, or `refuse` if more than half of the records are wrong: the data are of another kind."""
    return refuse if 2 * wrong.sum() > len(wrong) else leave_out


class Unreadable:
    """Collects the records that cannot be read while a source is read."""

    def __init__(self, settings: DataSettings) -> None:
        """Without `skip_unreadable` in `settings`, the first error is raised, with `path` and what to do."""
        self._skip, self._path = settings.skip_unreadable, settings.path
        self._wrong: dict[str, NDArray[np.bool_]] = {}
        self._lost: dict[str, str] = {}
        self._first = ""

    def of(self, whose: str) -> LeaveOut:
        """Returns the `LeaveOut` for the records of a client, of the test set (`test`) or of all data ('')."""
        return partial(self._leave_out, whose)

    def _leave_out(self, whose: str, wrong: NDArray[np.bool_], says: str) -> None:
        if wrong.any():
            self._check(says)
            self._first = self._first or says
        self._wrong[whose] = self.wrong(whose, len(wrong)) | wrong

    def lose(self, client: str, error: DataError) -> None:
        """Leaves out a client whose file cannot be read.

        Raises:
            DataError: `error`, with what to do, if `skip_unreadable` is false.
        """
        self._check(str(error))
        self._lost[client] = str(error)
        self._wrong.pop(client, None)

    def _check(self, says: str) -> None:
        if not self._skip:
            raise DataError(says if ADVICE in says else f"{says} (data.path {shown(self._path)}; {ADVICE})")

    @property
    def first(self) -> str:
        """The error of the first record or file that cannot be read."""
        return self._first or next(iter(self._lost.values()), "")

    def each(self, whose: str, records: Sequence[Record], read: Callable[[Record], Read]) -> list[Read]:
        """Returns the result of `read` for each of the N records that is not left out yet.

        A record for which `read` raises a DataError is left out.

        Raises:
            DataError: the error of `read` if `skip_unreadable` is false; or no record is left.
        """
        wrong, values = self.wrong(whose, len(records)), []
        for place in np.flatnonzero(~wrong).tolist():
            try:
                values.append(read(records[place]))
            except DataError as exc:
                self._check(str(exc))
                self._first = self._first or str(exc)
                wrong[place] = True
        if not values:
            raise DataError(f"none of {len(records)} records can be read; the first: {self.first}")
        return values

    def wrong(self, whose: str, num_records: int) -> NDArray[np.bool_]:
        """Returns (N,) which of the N records are left out so far."""
        return self._wrong.setdefault(whose, np.zeros(num_records, dtype=np.bool_))

    def take(self, whose: str, x: SourceArray, y: NDArray[np.int32]) -> Labelled:
        """Returns the readable examples; a client can have none.

        Raises:
            DataError: no example of the test set can be read.
        """
        wrong = self.wrong(whose, len(y))
        if whose == TEST and wrong.all():
            raise DataError(f"no example of the test set can be read; the first: {self.first}")
        return Labelled(select(x, ~wrong), y[~wrong])

    def skipped(self, owners: NDArray[np.str_] | None = None) -> Skipped | None:
        """Returns the records that were left out, and warns of them; None if `skip_unreadable` is false.

        Args:
            owners: client of each record, (N,), if all data are one file; '' if the client is unknown.

        Raises:
            DataError: no record is left.
        """
        if not self._skip:
            return None
        records, left_out = Counter[str](), Counter[str]()
        for whose, wrong in self._wrong.items():
            whom = owners if owners is not None and whose == "" else np.full(len(wrong), whose)
            records.update(whom.tolist())
            left_out.update(whom[wrong].tolist())
        empty = {whose for whose, count in left_out.items() if count == records[whose] and whose not in ("", TEST)}
        left = Skipped(records, left_out, tuple(sorted(empty | self._lost.keys())))
        if records.total() - records[TEST] == left_out.total() - left_out[TEST]:
            raise DataError(f"no record of the data can be read; the first: {self.first}")
        self._report(left)
        return left

    def _report(self, skipped: Skipped) -> None:
        records, left_out = sum(skipped.records.values()), sum(skipped.left_out.values())
        if left_out:
            _log.warning(
                "%s%d of %d records cannot be read and are left out; %s; the first: %s",
                "MORE THAN HALF IS LOST: " if 2 * left_out > records else "",
                left_out,
                records,
                _used(skipped),
                self._first,
            )
        if skipped.clients:
            _log.warning(
                "no record of the clients %s can be read, so they are left out; the first: %s",
                listed(skipped.clients, _NAMED),
                self._lost.get(skipped.clients[0], self._first),
            )


def _used(skipped: Skipped) -> str:
    """Returns text: n of m readable records of each client. The hold-out data can be drawn from them later."""
    trained = listed([_share(whose, skipped) for whose in sorted(skipped.left_out) if whose != TEST], _NAMED)
    if TEST not in skipped.records:
        return f"trained and tested on {trained}"
    return f"trained on {trained or 'all others'}; tested on {_share(TEST, skipped)}"


def _share(whose: str, skipped: Skipped) -> str:
    records = skipped.records[whose]
    clients = skipped.records.keys() - {"", TEST}
    whole = "the training set" if TEST in skipped.records else "the data"
    name = {"": "no known client" if clients else whole, TEST: "the test set"}
    return f"{records - skipped.left_out[whose]} of {records} of {name.get(whose, f'client {whose}')}"
