"""A trained model and its preprocessing as one function from raw examples to probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tasks.arrays import Features, LogitsOf
from tasks.clients import TEST, Form, Stored, mean_and_sd, normalised, statistics_of
from tasks.datasets.encoding import encode_frame
from tasks.datasets.resize import resize_images
from tasks.errors import DataError, shown
from tasks.predict.recipe import MODEL, RECIPE, Recipe, read_recipe
from tasks.preprocess.standardise import Standardisation, standardise

if TYPE_CHECKING:
    import pandas as pd

_BATCH = 256
"""Most examples that are computed at a time."""
_INPUT = "the input"


@dataclass(frozen=True)
class Prediction:
    """What a model says about N examples.

    Attributes:
        classes: name of the most probable class of each; None if a logit is not finite.
        probabilities: (N, C); NaN for an example with a logit that is not finite.
        site: whose mean and sd normalised the examples: a client's id, or `test` for the hold-out data.
    """

    classes: list[str | None]
    probabilities: NDArray[np.float64]
    site: str


@dataclass(frozen=True)
class Predictor:
    """A trained model for raw examples.

    Attributes:
        recipe: how raw examples become the model's input.
        logits: the model.
    """

    recipe: Recipe
    logits: LogitsOf

    @classmethod
    def read(cls, folder: Path) -> Predictor:
        """Returns the predictor in `folder`, which holds the two files RECIPE and MODEL.

        Raises:
            DataError: a file is missing or damaged.
            SettingsError: the model cannot be built.
        """
        from tasks.models import load_model, logits_of  # TensorFlow takes 4 s

        recipe = read_recipe(folder)
        model = load_model(folder / MODEL, recipe.model, recipe.input_shape, len(recipe.classes))
        return cls(recipe, logits_of(model, _BATCH))

    def predict(self, raw: NDArray[Any] | pd.DataFrame, client: str = "") -> Prediction:
        """Returns the classes and probabilities of raw examples.

        Args:
            raw: (N, ...) as the data source gives them; of a table, a frame with at least the run's columns.
            client: whose examples they are, under `preprocess.normalize` client; empty: the hold-out data's mean and
                sd are used, as for a client that joins after training.

        Raises:
            DataError: the examples are of another kind or shape, or the run had no such client.
        """
        x = self.prepared(raw, client)
        logits = self.logits(x).astype(np.float64)
        finite = np.isfinite(logits).all(axis=1)
        probabilities = np.full(logits.shape, np.nan)
        probabilities[finite] = softmax(logits[finite], axis=1)
        names = self.recipe.classes
        chosen = [names[k] if sure else None for k, sure in zip(logits.argmax(axis=1), finite, strict=True)]
        return Prediction(chosen, probabilities, self.recipe.site(client))

    def prepared(self, raw: NDArray[Any] | pd.DataFrame, client: str = "") -> NDArray[np.float32]:
        """Returns the model's input (N, ...) for raw examples: the same bytes that training and scoring use.

        The arguments and errors are as in `predict`.
        """
        recipe, site = self.recipe, self.recipe.site(client)
        x = self._features(raw)
        if recipe.resize:
            x = resize_images(x, (recipe.input_shape[0], recipe.input_shape[1]))
        statistics = statistics_of({"statistics": recipe.statistics}, site)
        form = Form(recipe.input_shape, len(recipe.classes), RECIPE)
        if x.dtype == np.uint8:
            return normalised(x, Stored(site, Path(), None, None, form, statistics=statistics))
        x = np.ascontiguousarray(x, np.float32)
        if recipe.normalize == "none":
            return x
        return standardise(x, Standardisation(*mean_and_sd(statistics, site, x.shape[-1], RECIPE)))

    def _features(self, raw: NDArray[Any] | pd.DataFrame) -> Features:
        recipe = self.recipe
        if recipe.features and not isinstance(raw, np.ndarray):
            x: Features = encode_frame(raw, recipe.features, _INPUT)
        else:
            x = np.asarray(raw)
        shape = (None, None, *recipe.input_shape[2:]) if recipe.resize else recipe.input_shape
        fits = len(x.shape) == len(shape) + 1 and all(
            wanted in (None, got) for wanted, got in zip(shape, x.shape[1:], strict=True)
        )
        if not fits or len(x) == 0:
            wanted = ", ".join("any" if size is None else str(size) for size in ("N", *shape))
            raise DataError(f"{_INPUT} must hold N > 0 examples, ({wanted}), got {x.shape}")
        if (x.dtype == np.uint8) != (recipe.dtype == "uint8") or x.dtype.kind not in "biuf":
            raise DataError(f"{_INPUT} must be {recipe.dtype} as in the run, got {x.dtype}")
        if not np.isfinite(x).all():
            raise DataError(f"{_INPUT} must be finite, got {int((~np.isfinite(x)).sum())} values that are not")
        if recipe.most is not None and x.max() > recipe.most:
            raise DataError(
                f"{_INPUT} must hold pixels from 0 to {recipe.most:g}, got {shown(float(x.max()))}: divide "
                "scikit-learn's digits by 16"
            )
        return x


def said_of(site: str) -> str:
    """Returns whose mean and sd normalised the examples, in words."""
    return "hold-out data" if site == TEST else f"client {site}"
