"""A raw example that shows the form of a model's input, and is no person's: the mean of the hold-out data."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.clients import CLIENTS, read_preprocessed, typical_example
from tasks.datasets.dates import ISO
from tasks.datasets.encoding import Fitted, FittedColumn
from tasks.predict.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd


def raw_example(recipe: Recipe, folder: Path) -> NDArray[Any] | pd.DataFrame:
    """Returns the mean hold-out example of the workspace `folder`, (1, ...); of a table, a frame with one row.

    In a table, a truth value or a text is the most frequent one.

    Raises:
        DataError: the hold-out data cannot be used.
    """
    mean = typical_example(read_preprocessed(folder / CLIENTS))
    if not recipe.features:
        return mean[np.newaxis]
    import pandas as pd

    fitted = Fitted.model_validate(recipe.features)
    cells: dict[str, Any] = {}
    for place, column in enumerate(fitted.numbers):
        cells[column.name] = _cell(column, float(mean[place]))
    place = len(fitted.numbers)
    for column in fitted.texts:
        cells[column.name] = column.categories[int(mean[place : place + len(column.categories)].argmax())]
        place += len(column.categories)
    return pd.DataFrame({column.name: [cells[column.name]] for column in fitted.columns})


def _cell(column: FittedColumn, value: float) -> Any:
    if column.kind == "boolean":
        return value >= 0.5
    if column.kind == "number":
        return value
    day = datetime.fromisoformat(column.since) + timedelta(days=value)
    return day.date().isoformat() if column.format == ISO else day.strftime(column.format)
