"""The MLflow model of a trained Keras model, with two flavors on the same weights.

`mlflow.pyfunc.load_model` gives the model with its preprocessing; `mlflow.tensorflow.load_model` gives the Keras model
itself. MLflow calls `save_model` of this module as it calls that of `mlflow.tensorflow`.
"""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType

from flows.mlflow_store import served_model
from flows.mlflow_store.served_code import copy_code
from tasks.datasets.encoding import Fitted
from tasks.predict import MODEL, Recipe, write_recipe

_NEEDS = ("h5py", "numpy", "pandas", "pyarrow", "pydantic", "pyyaml", "scikit-learn", "scipy", "tensorflow-cpu")
"""The packages that a logged model needs. Without this list, MLflow starts another TensorFlow to find them."""
_ANY: Any = AnyType()  # type: ignore[no-untyped-call]
_DATA = "model"
"""The artifact that holds the weights and the recipe."""


def save_model(path: str, mlflow_model: Model, weights: Path, recipe: Recipe, example: Any, **options: Any) -> None:
    """Writes the model with both flavors into the folder `path`.

    Nothing is pickled: the weights are the H5 file itself, the preprocessing is JSON, and the rest is source code.

    Args:
        path: the folder of the model.
        mlflow_model: gets the flavors.
        weights: the H5 file.
        recipe: how raw examples become the model's input.
        example: a raw example.
        options: more options of MLflow's `pyfunc.save_model`, such as `metadata`.
    """
    import tensorflow as tf

    options.pop("validate_serving_input", None)  # an option of `Model.log` alone
    with tempfile.TemporaryDirectory() as holder:
        data = Path(holder, _DATA)
        data.mkdir()
        shutil.copyfile(weights, data / MODEL)
        write_recipe(recipe, data)
        mlflow.pyfunc.save_model(
            path,
            mlflow_model=mlflow_model,
            python_model=served_model.__file__,
            artifacts={_DATA: str(data)},
            code_paths=copy_code(recipe.model, Path(holder)),
            signature=signature_of(recipe),
            input_example=example,
            pip_requirements=[f"{package}=={version(package)}" for package in _NEEDS],
            **options,
        )
    saved = mlflow_model.flavors[mlflow.pyfunc.FLAVOR_NAME]["artifacts"][_DATA]["path"]
    mlflow_model.add_flavor(
        "tensorflow", data=saved, model_type="keras", keras_version=tf.__version__, save_format="h5"
    )
    mlflow_model.save(str(Path(path, MLMODEL_FILE_NAME)))


def signature_of(recipe: Recipe) -> ModelSignature:
    """Returns the signature of `mlflow.pyfunc`: raw examples in; the class and a probability for each class out."""
    outputs: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, "class")]
    outputs += [ColSpec(DataType.double, f"probability_{name}") for name in recipe.classes]
    params: Any = None
    if recipe.normalize == "client":
        outputs.append(ColSpec(DataType.string, "statistics"))
        params = ParamSchema([ParamSpec("client", DataType.string, "")])
    return ModelSignature(_inputs(recipe), Schema(outputs), params)


def _inputs(recipe: Recipe) -> Schema:
    if recipe.features:
        return Schema([_column(column) for column in Fitted.model_validate(recipe.features).columns])
    shape = (-1, -1, *recipe.input_shape[2:]) if recipe.resize else recipe.input_shape
    return Schema([TensorSpec(np.dtype(recipe.dtype), (-1, *shape))])


def _column(column: Any) -> ColSpec:
    """Returns the specification of a table's column. Truth values and numbers in a special notation can be text too."""
    if column.kind == "number" and (column.decimal, column.thousands, column.unit) == (".", "", ""):
        return ColSpec(DataType.double, column.name)
    return ColSpec(DataType.string if column.kind in ("text", "date") else _ANY, column.name)


def described(recipe: Recipe) -> str:
    """Returns what the model takes and gives, in one sentence."""
    if recipe.features:
        taken = f"rows of the raw table ({len(Fitted.model_validate(recipe.features).columns)} columns)"
    else:
        sizes = ("H", "W", *recipe.input_shape[2:]) if recipe.resize else recipe.input_shape
        taken = f"raw {'images' if recipe.images else 'examples'} {' × '.join(map(str, sizes))}, {recipe.dtype}"
    return f"Takes {taken}; gives the class and the probabilities of {len(recipe.classes)} classes."
