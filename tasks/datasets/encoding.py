"""A table's columns as features. The fit to the training rows is JSON, from which the transformer is built again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tasks.datasets.checks import check_memory
from tasks.datasets.column_values import values_of
from tasks.datasets.columns import ColumnType
from tasks.datasets.table_file import read_table
from tasks.datasets.unreadable import RowsError
from tasks.errors import DataError, listed, reading
from tasks.settings import Missing

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.compose import ColumnTransformer

_RECORD = "`features` must be as in partition.json"


class FittedColumn(ColumnType):
    """A column, and the values that were fitted to its training rows.

    Attributes:
        fill: value that replaces a missing one; None if no value can be missing.
        categories: sorted categories of text.
        since: day 0 of the dates, YYYY-MM-DD.
    """

    fill: float | str | None = None
    categories: tuple[str, ...] = ()
    since: str = ""


class Fitted(BaseModel):
    """The fit to the training rows, as under `features` in partition.json.

    Attributes:
        missing: `data.missing`.
        columns: the columns in the order of the table.
        names: names of the features: first the numbers in the order of the columns, then each text's categories.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    missing: Missing
    columns: tuple[FittedColumn, ...]
    names: tuple[str, ...] = ()

    @property
    def numbers(self) -> list[FittedColumn]:
        """Columns that become one feature each."""
        return [column for column in self.columns if column.kind != "text"]

    @property
    def texts(self) -> list[FittedColumn]:
        """Columns that become one feature for each category."""
        return [column for column in self.columns if column.kind == "text"]


def encode(path: Path, features: Mapping[str, Any]) -> NDArray[np.float32]:
    """Returns the features x (N, F) of the table at `path`, by `features` of partition.json.

    The table can have further columns. The rows of the run's own table get exactly the values in data/partition.

    Raises:
        DataError: the table cannot be read, a column is missing or of another kind, or a value is missing and the run
            filled none.
    """
    with reading(_RECORD):
        fitted = Fitted.model_validate(features)
    frame = read_table(path, {column.name: "the column" for column in fitted.columns})
    return encode_frame(frame, features, str(path))


def encode_frame(frame: pd.DataFrame, features: Mapping[str, Any], where: str) -> NDArray[np.float32]:
    """Returns the features x (N, F) of a table in memory, by `features` of partition.json; `where` names it in errors.

    Raises:
        DataError: see `encode`.
    """
    with reading(_RECORD):
        fitted = Fitted.model_validate(features)
    missing = [column.name for column in fitted.columns if column.name not in frame]
    if missing:
        raise DataError(f"{where} must have the run's columns, got none of these: {listed([*map(repr, missing)])}")
    with reading(_RECORD):
        values = values_in(frame, fitted.columns, where)
    return transform(values, fitted, where)


def values_in(frame: pd.DataFrame, columns: Sequence[ColumnType], where: str) -> pd.DataFrame:
    """Returns the values of `columns` of `frame`; see `values_of`.

    Raises:
        DataError: a cell is not of its column's kind.
    """
    import pandas as pd

    read = {c.name: values_of(frame[c.name], c, f"{where}: column {c.name!r}") for c in columns}
    return pd.DataFrame(read, index=range(len(frame)))


def fit(values: pd.DataFrame, columns: Sequence[ColumnType], missing: Missing, where: str) -> Fitted:
    """Returns the fit to the training rows `values`.

    Raises:
        DataError: a column has no value in these rows, or two features have the same name.
    """
    refuse_empty(values, where)
    begun = Fitted(
        missing=missing, columns=tuple(FittedColumn(**dict(c), since=_first_day(values[c.name], c)) for c in columns)
    )
    transformer = _transformer(begun).fit(_since(values, begun))
    numbers, texts = (transformer.named_transformers_[group] for group in ("numbers", "texts"))
    fits: dict[str, dict[str, Any]] = {column.name: {} for column in columns}
    if begun.texts:
        for column, categories in zip(begun.texts, texts.named_steps["encode"].categories_, strict=True):
            fits[column.name]["categories"] = tuple(categories.tolist())
    if missing != "refuse":
        fills = numbers.statistics_.tolist() if begun.numbers else []
        fills += texts.named_steps["fill"].statistics_.tolist() if begun.texts else []
        for column, fill in zip([*begun.numbers, *begun.texts], fills, strict=True):
            fits[column.name]["fill"] = fill
    with reading(f"{where}: every feature must have its own name (rename the column, or leave it out)"):
        names = tuple(transformer.get_feature_names_out().tolist())
    fitted = tuple(column.model_copy(update=fits[column.name]) for column in begun.columns)
    return Fitted(missing=missing, columns=fitted, names=names)


def transform(values: pd.DataFrame, fitted: Fitted, where: str) -> NDArray[np.float32]:
    """Returns the features x (N, F) of `values`, by a transformer that is built again from `fitted`.

    A text of another category is 0 in all features of its column.

    Raises:
        DataError: a value is missing and `fitted` has no fill, or x does not fit into memory.
    """
    if fitted.missing == "refuse":
        refuse_missing(values, where)
    check_memory(16 * len(values) * len(fitted.names), f"{where} with {len(fitted.names)} features")
    with reading(_RECORD):
        transformer, since = _transformer(fitted).fit(_one_row(fitted)), _since(values, fitted)
    return np.ascontiguousarray(transformer.transform(since), dtype=np.float32)


def refuse_empty(values: pd.DataFrame, where: str) -> None:
    """Refuses a column without values.

    Raises:
        DataError: with the column's name.
    """
    empty = values.columns[values.isna().all()].tolist()
    if empty:
        raise DataError(
            f"{where}: column {empty[0]!r} must have a value in a training row, got none: leave it out "
            "(data.drop_columns)"
        )


def refuse_missing(values: pd.DataFrame, where: str) -> None:
    """Refuses missing values.

    Raises:
        RowsError: with their number, the columns and the settings that fill them.
    """
    counts = values.isna().sum()
    counts = counts[counts > 0].sort_values(ascending=False, kind="stable")
    if len(counts):
        wrong = values.isna().any(axis=1).to_numpy()
        row = int(np.argmax(wrong)) + 1
        named = ", ".join(f"{name} {count}" for name, count in counts.iloc[:5].items())
        raise RowsError(
            f"{where}: no value may be missing, got {counts.sum()} missing in {len(counts)} of {values.shape[1]} "
            f"columns ({named}{', …' if len(counts) > 5 else ''}; first in row {row}): fill them (data.missing: mean, "
            "median or most_frequent), or leave columns out (data.drop_columns)",
            wrong,
        )


def _transformer(fitted: Fitted) -> ColumnTransformer:
    """Returns an unfitted transformer: first the numbers in the order of the columns, then each text's categories.

    With the categories given, a fit to one row of the fills gives the same transformer as the fit to the training rows.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder

    filling = fitted.missing != "refuse"
    categories = [np.array(column.categories, dtype=object) for column in fitted.texts if column.categories]
    encoder = OneHotEncoder(
        categories=categories or "auto",
        handle_unknown="ignore",
        sparse_output=False,
        dtype=np.float32,
        feature_name_combiner=lambda column, category: f"{column}={category}",
    )
    fill = SimpleImputer(strategy="most_frequent") if filling else "passthrough"
    return ColumnTransformer(
        [
            (
                "numbers",
                SimpleImputer(strategy=fitted.missing) if filling else "passthrough",
                [column.name for column in fitted.numbers],
            ),
            ("texts", Pipeline([("fill", fill), ("encode", encoder)]), [column.name for column in fitted.texts]),
        ],
        sparse_threshold=0,
        verbose_feature_names_out=False,
    )


def _one_row(fitted: Fitted) -> pd.DataFrame:
    import pandas as pd

    row: dict[str, NDArray[Any]] = {}
    for column in fitted.columns:
        if column.kind == "text":
            row[column.name] = np.array([column.categories[0] if column.fill is None else column.fill], dtype=object)
        else:
            row[column.name] = np.array([float(column.fill or 0)])
    return pd.DataFrame(row)


def _first_day(values: pd.Series[Any], column: ColumnType) -> str:
    return str(np.datetime64(int(np.floor(values.min())), "D")) if column.kind == "date" else ""


def _since(values: pd.DataFrame, fitted: Fitted) -> pd.DataFrame:
    """Returns `values` with dates as days since `since`: days since 1970 are too large for seconds in float32."""
    first = {c.name: float(np.datetime64(c.since, "D").astype(int)) for c in fitted.columns if c.since}
    return values.assign(**{name: values[name] - day for name, day in first.items()}) if first else values
