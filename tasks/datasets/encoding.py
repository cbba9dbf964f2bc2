"""A table's columns as features: what is fitted to the training rows, as JSON, and the transformer rebuilt from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.datasets.checks import check_memory
from tasks.datasets.columns import Column, values_of
from tasks.datasets.table_file import read_table
from tasks.errors import DataError, reading
from tasks.settings import Missing

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.compose import ColumnTransformer

Fitted = Mapping[str, Any]
"""What `fit` returns, before or after it was JSON."""


def encode(path: Path, fitted: Fitted) -> NDArray[np.float32]:
    """Returns the features x (N, F) of the table at `path`, by what partition.json has under `features`.

    The table may have more columns. The rows of a run get the bits that they have in data/partition.

    Raises:
        DataError: the table cannot be read, a column is not there or not of the recorded kind, or a value is missing
            where none was filled.
    """
    with reading("`features` must be as in partition.json"):
        columns = [_column(entry) for entry in fitted["columns"]]
    frame = read_table(path, {column.name: "the column" for column in columns})
    return transform(values_in(frame, columns, str(path)), fitted, str(path))


def values_in(frame: pd.DataFrame, columns: Sequence[Column], where: str) -> pd.DataFrame:
    """Returns the values of these columns of `frame`, as `values_of` does.

    Raises:
        DataError: a cell is not what its column says.
    """
    import pandas as pd

    read = {c.name: values_of(frame[c.name], c, f"{where}: column {c.name!r}") for c in columns}
    return pd.DataFrame(read, index=range(len(frame)))


def fit(values: pd.DataFrame, columns: Sequence[Column], missing: Missing, where: str) -> dict[str, Any]:
    """Returns what the training rows `values` fit, as JSON: fills, categories, and the day from which dates count.

    Raises:
        DataError: a column has no value in these rows, or two features would have one name.
    """
    empty = values.columns[values.isna().all()].tolist()
    if empty:
        raise DataError(
            f"{where}: column {empty[0]!r} must have a value in a training row, got none: leave it out "
            "(data.drop_columns)"
        )
    entries = [_entry(column) for column in columns]
    for entry in entries:
        if entry["kind"] == "date":
            entry["since"] = str(np.datetime64(int(np.floor(values[entry["name"]].min())), "D"))
    fitted: dict[str, Any] = {"missing": missing, "columns": entries}
    transformer = _transformer(fitted).fit(_since(values, entries))
    numbers, texts = _by_group(entries)
    if texts:
        encoder = transformer.named_transformers_["texts"].named_steps["encode"]
        for entry, categories in zip(texts, encoder.categories_, strict=True):
            entry["categories"] = categories.tolist()
    if missing != "refuse":
        fills = transformer.named_transformers_["numbers"].statistics_.tolist() if numbers else []
        fills += transformer.named_transformers_["texts"].named_steps["fill"].statistics_.tolist() if texts else []
        for entry, fill in zip([*numbers, *texts], fills, strict=True):
            entry["fill"] = fill
    with reading(f"{where}: every feature must have a name of its own (name the column otherwise, or leave it out)"):
        fitted["names"] = transformer.get_feature_names_out().tolist()
    return fitted


def transform(values: pd.DataFrame, fitted: Fitted, where: str) -> NDArray[np.float32]:
    """Returns the features x (N, F) of `values` by a transformer that is rebuilt from `fitted`.

    A text that is not among the categories is 0 in each of their features.

    Raises:
        DataError: a value is missing and `fitted` has no fill, or x does not fit into memory or float32.
    """
    if fitted["missing"] == "refuse":
        refuse_missing(values, where)
    check_memory(16 * len(values) * len(fitted["names"]), f"{where} with {len(fitted['names'])} features")
    known = _transformer(fitted).fit(_one_row(fitted["columns"]))
    return np.ascontiguousarray(known.transform(_since(values, fitted["columns"])), dtype=np.float32)


def refuse_missing(values: pd.DataFrame, where: str) -> None:
    """Refuses missing values.

    Raises:
        DataError: with their number, the columns and the settings that fill them.
    """
    counts = values.isna().sum()
    counts = counts[counts > 0].sort_values(ascending=False, kind="stable")
    if len(counts):
        row = int(np.argmax(values.isna().any(axis=1).to_numpy())) + 1
        named = ", ".join(f"{name} {count}" for name, count in counts.iloc[:5].items())
        raise DataError(
            f"{where}: no value may be missing, got {counts.sum()} missing in {len(counts)} of {values.shape[1]} "
            f"columns ({named}{', …' if len(counts) > 5 else ''}; first in row {row}): fill them (data.missing: mean, "
            "median or most_frequent), or leave columns out (data.drop_columns)"
        )


def _transformer(fitted: Fitted) -> ColumnTransformer:
    """Returns a transformer, not yet fitted: numbers in the order of the columns, then the categories of the texts.

    What is fitted to one row of the fills, with the categories given, is what was fitted to the training rows.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder

    numbers, texts = _by_group(fitted["columns"])
    missing = fitted["missing"]
    known = [np.array(entry["categories"], dtype=object) for entry in texts if "categories" in entry]
    encoder = OneHotEncoder(
        categories=known or "auto",
        handle_unknown="ignore",
        sparse_output=False,
        dtype=np.float32,
        feature_name_combiner=lambda column, category: f"{column}={category}",
    )
    filling = missing != "refuse"
    return ColumnTransformer(
        [
            ("numbers", SimpleImputer(strategy=missing) if filling else "passthrough", [e["name"] for e in numbers]),
            (
                "texts",
                Pipeline(
                    [
                        ("fill", SimpleImputer(strategy="most_frequent") if filling else "passthrough"),
                        ("encode", encoder),
                    ]
                ),
                [e["name"] for e in texts],
            ),
        ],
        sparse_threshold=0,
        verbose_feature_names_out=False,
    )


def _one_row(entries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            entry["name"]: np.array([entry.get("fill", entry["categories"][0])], dtype=object)
            if entry["kind"] == "text"
            else [float(entry.get("fill", 0))]
            for entry in entries
        }
    )


def _since(values: pd.DataFrame, entries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns `values` with dates as days since the recorded day: float32 has no seconds of the days since 1970."""
    first = {e["name"]: float(np.datetime64(e["since"], "D").astype(int)) for e in entries if "since" in e}
    return values.assign(**{name: values[name] - day for name, day in first.items()}) if first else values


def _by_group(entries: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    numbers = [entry for entry in entries if entry["kind"] != "text"]
    return numbers, [entry for entry in entries if entry["kind"] == "text"]


def _entry(column: Column) -> dict[str, Any]:
    """Returns the column as JSON, without what stands at its default."""
    plain = Column(column.name, column.kind)
    return {key: value for key, value in asdict(column).items() if key == "kind" or value != getattr(plain, key)} | {
        "name": column.name
    }


def _column(entry: Mapping[str, Any]) -> Column:
    return Column(**{field.name: entry[field.name] for field in fields(Column) if field.name in entry})
