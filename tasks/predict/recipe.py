"""How raw examples become the input of a trained model: all that is needed beside the model's weights."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from tasks.clients import CLIENTS, TEST, read_preprocessed, typical_example
from tasks.errors import DataError, listed, reading
from tasks.files import read_json, write_json
from tasks.settings import Settings

RECIPE, MODEL = "recipe.json", "model.h5"
"""The two files of a predictor. MLflow finds the weights of a Keras model only under the name `model.h5`."""


class Recipe(BaseModel):
    """How raw examples become the input of a model.

    Attributes:
        model: `federate.model`.
        classes: name of each class.
        input_shape: shape of an example of the model.
        dtype: type of a raw example's values; in uint8, v stands for v / 255.
        images: whether examples are images, (H, W, C).
        resize: `preprocess.resize`; empty: raw images must have the model's height and width.
        most: largest value of a pixel; None: any.
        normalize: `preprocess.normalize`.
        statistics: `statistics` of preprocess.json.
        features: `features` of partition.json, by which a table's columns become features; empty for other data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    dtype: Literal["uint8", "float32"]
    images: bool
    resize: tuple[int, ...] = ()
    most: float | None = None
    normalize: Literal["none", "global", "client"]
    statistics: dict[str, Any]
    features: dict[str, Any] = {}

    def site(self, client: str) -> str:
        """Returns the site whose mean and sd normalise the examples of `client`: without a client, the hold-out data.

        Raises:
            DataError: the run had no such client, or all clients share one mean and sd.
        """
        if not client:
            return TEST
        if self.normalize != "client":
            raise DataError(
                f"client must be empty, because all clients have the same mean and sd (preprocess.normalize "
                f"{self.normalize}), got {client!r}"
            )
        known = sorted(set(self.statistics.get("by_client", {})) - {TEST})
        if client not in known:
            raise DataError(
                f"client must be a client of the run ({listed(known)}), or empty for the hold-out data's mean and sd, "
                f"got {client!r}"
            )
        return client


def recipe_of(settings: Settings, folder: Path) -> Recipe:
    """Returns the recipe of the models in the workspace `folder`.

    Raises:
        DataError: data/clients or partition.json cannot be used.
    """
    preprocessed, path = read_preprocessed(folder / CLIENTS), folder / "data/partition/partition.json"
    content, partition = preprocessed.content, read_json(path)
    with reading(f"{path} and preprocess.json must describe the run's data (run the step preprocess again)"):
        return Recipe(
            model=settings.federate.model,
            classes=partition["classes"],
            input_shape=preprocessed.form.input_shape,
            dtype="uint8" if typical_example(preprocessed).dtype == np.uint8 else "float32",
            images=content["images"],
            resize=settings.preprocess.resize,
            most=1.0 if settings.data.kind == "digits" else None,
            normalize=content["normalize"],
            statistics=content["statistics"],
            features=partition.get("features", {}),
        )


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Writes RECIPE into `folder`."""
    write_json(folder / RECIPE, recipe.model_dump())


def read_recipe(folder: Path) -> Recipe:
    """Returns the recipe in `folder`.

    Raises:
        DataError: the file is missing or damaged.
    """
    content = read_json(folder / RECIPE)
    with reading(f"{folder / RECIPE} must be a recipe"):
        return Recipe.model_validate(content)
