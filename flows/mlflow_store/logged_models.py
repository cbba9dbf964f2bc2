"""Keras models in MLflow: logged with their signature, registered on demand."""

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
from tasks.clients import form_of
from tasks.files import read_json
from tasks.settings import Settings

NEEDS = ("tensorflow-cpu", "numpy")
"""The packages that serve a logged model. Without this list MLflow starts another TensorFlow to guess them."""


def load_models(settings: Settings, folder: Path, paths: Mapping[str, str]) -> dict[str, Any]:
    """Returns the run's Keras models in the H5 files `paths` of the workspace `folder`, by the same names.

    Raises:
        DataError: a file is damaged, or is of another model than the settings and the data say.
        SettingsError: the model cannot be built.
    """
    from tasks.models import load_model

    path = folder / "data/clients/preprocess.json"
    form = form_of(read_json(path), path)
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
    """Logs a Keras model with its signature and returns its id; registers it if `track.register_as` says so.

    The model is created by its id first: MLflow's own `log_model` would choose the experiment by the environment and
    the thread's active run. The global model is registered under `track.register_as`, another model under
    `<track.register_as>-<name>`, so that the versions of a registered model are comparable.
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
    """Returns the signature by which `mlflow.pyfunc` predicts: examples in, logits out.

    MLflow passes the examples by the name in the signature; a functional Keras model takes only its input's name.
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
    # As mlflow.register_model does: the model's page lists its versions by this tag.
    versions = json.dumps([{"name": created.name, "version": created.version}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": versions})
