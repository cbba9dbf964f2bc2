"""`table`: a file with a row for each example, a column of labels and, optionally, a column of clients."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tasks.clients import check_client_id
from tasks.datasets.checks import LONGEST_CLASS, named_classes
from tasks.datasets.column_values import distinct_integers
from tasks.datasets.columns import ColumnType, recognise
from tasks.datasets.encoding import Fitted, fit, refuse_empty, refuse_missing, transform, values_in
from tasks.datasets.examples import Source, SourceFeatures
from tasks.datasets.resize import Size
from tasks.datasets.table_file import read_table
from tasks.datasets.unreadable import LeaveOut, RowsError, Unreadable, few_or_none
from tasks.errors import DataError, SettingsError, listed, shown
from tasks.settings import DataSettings

if TYPE_CHECKING:
    import pandas as pd

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NAMED = 10
"""Most columns that a line of the log names."""
_LONGEST_NAME = 60
"""Most characters of a column's name in the log."""

_Texts: TypeAlias = "NDArray[np.object_]"
"""Texts (N,) as objects. As NumPy's own text, each would need the memory of the longest text."""

_log = logging.getLogger(__name__)


def read(settings: DataSettings, path: Path, seed: int, size: Size, scratch: Path) -> Source:
    """Returns the rows in the file's order, and no test set.

    Each column becomes one feature or more, except the columns of labels, clients and groups and `data.drop_columns`.
    Text becomes a feature for each category, a date a number of days, a truth value 0 or 1.

    Labels are text or integers (1.0 is 1), and the classes are the sorted labels. A label, client or group that pandas
    reads as missing (empty, NA, nan, …) is an error. Rows count from 1, without the header.

    Raises:
        DataError: a column is missing, unnamed, there twice, or not as `tasks.datasets.columns` says; a label, client
            or group is missing; or another value is missing and `data.missing` is `refuse`.
        SettingsError: the column of labels is also the column of clients or groups, or `data.drop_columns` has one of
            the three columns.
    """
    frame = read_table(path, _wanted(settings))
    if frame.empty:
        raise DataError(f"{path} must have at least one row, got none")
    label, client, group = settings.label_column, settings.client_column, settings.group_column
    unreadable = Unreadable(settings)
    leave_out = unreadable.of("")
    owners = _clients(frame[client], f"{path}: data.client_column {client!r}", leave_out) if client else None
    groups = _groups(frame[group], f"{path}: data.group_column {group!r}", leave_out) if group else None
    where = f"{path}: data.label_column {label!r}"
    labels = _labels(frame[label], where, leave_out)
    features = frame.drop(columns=list({label, client, group, *settings.drop_columns} & set(frame.columns)))
    if not len(features.columns):
        raise DataError(f"{path} must have a feature column in addition to {label!r}, got none")
    features, columns, values = _read_rows(features, settings, path, unreadable)
    skipped = unreadable.skipped(owners)
    _warn_of_ids(features, values, columns, path)
    kept = ~unreadable.wrong("", len(frame))
    y, classes = named_classes(labels[kept].tolist(), f"{where}: a label")
    return Source(
        y=y,
        features=partial(_features, values, columns, settings, path),
        classes=classes,
        clients=None if owners is None else owners[kept],
        groups=None if groups is None else groups[kept],
        skipped=skipped,
    )


def _read_rows(
    frame: pd.DataFrame, settings: DataSettings, path: Path, unreadable: Unreadable
) -> tuple[pd.DataFrame, list[ColumnType], pd.DataFrame]:
    """Returns the readable rows, the types of their columns, and their values."""
    while True:  # it ends: each pass except the last loses a row
        kept = ~unreadable.wrong("", len(frame))
        if not kept.any():
            raise DataError(f"{path}: no row can be read; the first: {unreadable.first}")
        rows = frame if kept.all() else frame[kept]
        try:
            columns = recognise(rows, str(path))
            values = values_in(rows, columns, str(path))
            refuse_empty(values, str(path))
            if settings.missing == "refuse":
                refuse_missing(values, str(path))
            return rows, columns, values
        except RowsError as exc:
            # Without these rows, a column can have another type, so all columns are read again.
            wrong = np.zeros(len(frame), dtype=np.bool_)
            wrong[np.flatnonzero(kept)[exc.wrong]] = True
            unreadable.of("")(wrong, str(exc))


def _wanted(settings: DataSettings) -> dict[str, str]:
    """Returns the columns that settings name, and the setting's name for errors."""
    named = {settings.label_column: "the data.label_column"}
    for setting in ("client_column", "group_column"):
        column = getattr(settings, setting)
        if column == settings.label_column:
            raise SettingsError(f"data.{setting} must differ from data.label_column, got {column!r} for both")
        if column:
            named.setdefault(column, f"the data.{setting}")
    for column in settings.drop_columns:
        if column in named:
            raise SettingsError(f"data.drop_columns must not name {named[column]}, got {column!r}")
    return dict.fromkeys(settings.drop_columns, "the column of data.drop_columns") | named


def _features(
    values: pd.DataFrame, columns: Sequence[ColumnType], settings: DataSettings, path: Path, held: NDArray[np.bool_]
) -> SourceFeatures:
    fitted = fit(values[~held], columns, settings.missing, str(path))
    x = transform(values, fitted, str(path))
    empty = values.isna()
    _log.info("%s", _said(fitted, values, empty, settings, path))
    return SourceFeatures(
        x=x,
        names=fitted.names,
        fitted=fitted.model_dump(mode="json", exclude={"names"}, exclude_defaults=True),
        filled=None if settings.missing == "refuse" else empty.sum(axis=1).to_numpy(dtype=np.int64),
        held_digest=_digest(values[held]),
    )


def _digest(values: pd.DataFrame) -> str:
    """Returns the md5 of the values of rows, as they are before missing ones are filled and text is encoded."""
    import pandas as pd

    rows = pd.util.hash_pandas_object(values, index=False).to_numpy()
    return hashlib.md5("\0".join(map(str, values.columns)).encode() + rows.tobytes(), usedforsecurity=False).hexdigest()


def _said(fitted: Fitted, values: pd.DataFrame, empty: pd.DataFrame, settings: DataSettings, path: Path) -> str:
    """Returns a line for the log: what was done to which columns."""
    counts = empty.sum()
    dates = [column for column in fitted.columns if column.kind == "date"]
    numbers = [column for column in fitted.columns if column.kind == "number"]
    written = [c.name for c in numbers if c.decimal != "." or c.thousands or c.unit]
    times = [column.name for column in dates if column.format[:2] in ("%H", "%I")]
    dates = [column for column in dates if column.name not in times]
    other = [~values[c.name].isin(c.categories) & ~empty[c.name] for c in fitted.texts]
    said = {
        "as they are": len(numbers) - len(written),
        "one-hot": _listed(f"{column.name} ({len(column.categories)})" for column in fitted.texts),
        "held-out cells of other categories, all 0": sum(int(cells.sum()) for cells in other),
        "yes or no as 1 or 0": _listed(column.name for column in fitted.columns if column.kind == "boolean"),
        "dates as days": _listed(f"{column.name} (since {column.since})" for column in dates),
        "times as fractions of a day": _listed(times),
        "decimal commas, separators of thousands or units": _listed(written),
        f"filled ({settings.missing})": _listed(f"{name} ({count})" for name, count in counts[counts > 0].items()),
        "left out": _listed(settings.drop_columns),
    }
    done = "; ".join(f"{what}: {which}" for what, which in said.items() if which)
    return f"{path.name}: columns: {len(fitted.columns)}, features: {len(fitted.names)}; {done}"


def _listed(names: Iterable[str]) -> str:
    plain = ("".join(c if c.isprintable() else " " for c in name) for name in names)
    every = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in plain]
    return listed(every, _NAMED)


def _warn_of_ids(frame: pd.DataFrame, values: pd.DataFrame, columns: Sequence[ColumnType], path: Path) -> None:
    numbers = [column.name for column in columns if column.kind == "number"]
    ids = [name for name in numbers if distinct_integers(frame[name], values[name].to_numpy())]
    if ids:
        _log.warning(
            "%s: whole numbers that differ in nearly every row are taken as features: %s; "
            "leave out ids (data.drop_columns)",
            path.name,
            _listed(ids),
        )


def _labels(column: pd.Series[Any], where: str, leave_out: LeaveOut) -> _Texts:
    names = texts_of(column, where, "label", leave_out)
    present = [name for name in names.tolist() if name]
    if not all(_NUMBER.fullmatch(name) for name in present) or not any("." in n or "e" in n.lower() for n in present):
        return names
    # As floats, integers from 2^53 on are rounded, and two classes could become one.
    whole = [_whole(name) if name else "" for name in names.tolist()]
    wrong = np.array([label is None for label in whole])
    worst = int(np.argmax(wrong))
    few_or_none(leave_out, wrong)(
        wrong,
        f"{where} must hold text or integers as labels, got {names[worst][:80]} in row {worst + 1}: a number to "
        "predict must be cut into classes first",
    )
    return np.array([label or "" for label in whole], dtype=object)


def _whole(name: str) -> str | None:
    """Returns a number without its decimals; None if it is not whole."""
    number = Decimal(name)
    if number.adjusted() > LONGEST_CLASS or number != number.to_integral_value():
        return None
    return str(int(number))


def _clients(column: pd.Series[Any], where: str, leave_out: LeaveOut) -> NDArray[np.str_]:
    ids = texts_of(column, where, "client", leave_out)
    for client in dict.fromkeys(ids.tolist()):
        try:
            if client:
                check_client_id(client)
        except DataError as exc:
            raise DataError(f"{where} row {ids.tolist().index(client) + 1}: {exc}") from exc
    return ids.astype(np.str_)


def _groups(column: pd.Series[Any], where: str, leave_out: LeaveOut) -> NDArray[np.str_]:
    groups = texts_of(column, where, "group", leave_out)
    longest = max(groups.tolist(), key=len)
    if len(longest) > LONGEST_CLASS:
        raise DataError(f"{where} must hold at most {LONGEST_CLASS} characters, got {shown(longest)} of {len(longest)}")
    return groups.astype(np.str_)


def texts_of(column: pd.Series[Any], where: str, what: str, leave_out: LeaveOut) -> _Texts:
    """Returns the cells as text (N,), '' for a missing one."""
    missing = column.isna().to_numpy()
    texts = np.array([_text(value) for value in column.tolist()], dtype=object)
    wrong = ~missing & (texts == "")
    texts[missing] = ""
    worst = int(np.argmax(missing))
    leave_out(
        missing,
        f"{where} has no {what} in row {worst + 1}: every row must have one (an empty cell, NA, None and null count as "
        f"missing; if one of them is a {what}, rename it)",
    )
    worst = int(np.argmax(wrong))
    leave_out(wrong, f"{where} must hold text or integers, got {shown(column.iloc[worst])} in row {worst + 1}")
    return texts


def _text(value: Any) -> str:
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, (str, int, float)) else ""
