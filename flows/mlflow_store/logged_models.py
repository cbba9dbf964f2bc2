"""Logs Keras models to MLflow with their signature, and registers them if `track.register_as` is set."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.tensorflow
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from flows.mlflow_store import run_content
from flows.mlflow_store.connection import Store
from tasks.clients import CLIENTS, read_preprocessed
from tasks.settings import Settings

NEEDS = ("tensorflow-cpu", "numpy")
"""The packages that a logged model needs. Without this list, MLflow starts another TensorFlow to find them."""


def load_models(settings: Settings, folder: Path, paths: Mapping[str, str]) -> dict[str, Any]:
    """Returns name → Keras model, for the H5 files `paths` (name → path in the workspace `folder`).

    Raises:
        DataError: (1) `data/clients` cannot be used, or (2) a file is damaged, or holds another model than
            `federate.model` with the data's shape and classes.
        SettingsError: the model cannot be built.
    """
    from tasks.models import load_model

    form = read_preprocessed(folder / CLIENTS).form
    model = settings.federate.model
    return {name: load_model(folder / path, model, form.input_shape, form.num_classes) for name, path in paths.items()}


def log_model(
    store: Store,
    run_id: str,
    name: str,
    model: Any,
    settings: Settings,
    classes: Sequence[str],
    origin: Mapping[str, str],
) -> str:
    """Logs a Keras model with its signature and returns its id. Registers it if `track.register_as` is set.

    The logged model is created first, and MLflow's `log_model` gets its id. Otherwise, `log_model` would choose the
    experiment by the environment and the thread's active run. The global model is registered as `track.register_as`,
    any other model as `<track.register_as>-<name>`, so that the versions of a registered model are comparable.
    """
    client = store.client
    shape = " × ".join(map(str, model.input_shape[1:]))
    described = (
        f"Logits of {len(classes)} classes for batches of {shape}, preprocessed as in data/clients/preprocess.json"
    )
    logged = client.create_logged_model(
        store.experiment_id,
        name=name,
        source_run_id=run_id,
        params=run_content.spelled_settings(settings),
        model_type="classifier",
        tags={**origin, "mlflow.note.content": described},
    )
    mlflow.tensorflow.log_model(
        model,
        model_id=logged.model_id,
        run_id=run_id,
        signature=signature_of(model),
        pip_requirements=[f"{package}=={version(package)}" for package in NEEDS],
        keras_model_kwargs={"save_format": "h5"},
        metadata={"classes": list(classes)},
    )
    register_as = settings.track.register_as
    if register_as:
        register_model(client, register_as if name == "global" else f"{register_as}-{name}", run_id, logged.model_id)
    return str(logged.model_id)


def signature_of(model: Any) -> ModelSignature:
    """Returns the signature that `mlflow.pyfunc` uses for predictions: examples in, logits out.

    MLflow passes the examples under the name in the signature. A functional Keras model accepts only the name of its
    input.
    """
    float32 = np.dtype(np.float32)
    return ModelSignature(
        inputs=Schema([TensorSpec(float32, (-1, *model.input_shape[1:]), model.input_names[0])]),
        outputs=Schema([TensorSpec(float32, (-1, model.output_shape[-1]), "logits")]),
    )


def register_model(client: MlflowClient, name: str, run_id: str, model_id: str) -> None:
    """Makes a logged model the next version of the registered model `name`."""
    try:
        client.create_registered_model(name)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client.create_model_version(name, f"models:/{model_id}", run_id=run_id, model_id=model_id)
    # mlflow.register_model sets this tag too; the model's page lists the versions in it.
    versions = json.dumps([{"name": created.name, "version": created.version}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": versions})
