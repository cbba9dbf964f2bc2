"""Logs models to MLflow, and registers them if `track.register_as` is set."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from flows.mlflow_store import model_flavors
from flows.mlflow_store.connection import Store
from flows.mlflow_store.run_names import spelled_settings
from tasks.clients import CLIENTS, read_preprocessed
from tasks.predict import Recipe
from tasks.settings import Settings


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
    weights: Path,
    recipe: Recipe,
    example: Any,
    settings: Settings,
    origin: Mapping[str, str],
) -> str:
    """Logs the model in the H5 file `weights` and returns its id. Registers it if `track.register_as` is set.

    The logged model is created first, and MLflow's `log` gets its id. Otherwise, `log` would choose the experiment by
    the environment and the thread's active run. The global model is registered as `track.register_as`, any other model
    as `<track.register_as>-<name>`, so that the versions of a registered model are comparable.
    """
    client = store.client
    logged = client.create_logged_model(
        store.experiment_id,
        name=name,
        source_run_id=run_id,
        params=spelled_settings(settings),
        model_type="classifier",
        tags={**origin, "mlflow.note.content": model_flavors.described(recipe)},
    )
    Model.log(
        None,  # the deprecated name
        name=name,
        flavor=model_flavors,
        model_id=logged.model_id,
        run_id=run_id,
        weights=weights,
        recipe=recipe,
        example=example,
        metadata={"classes": list(recipe.classes)},
        validate_serving_input=False,  # it would load the model again, and leave its copy of the code on sys.path
    )
    register_as = settings.track.register_as
    if register_as:
        register_model(client, register_as if name == "global" else f"{register_as}-{name}", run_id, logged.model_id)
    return str(logged.model_id)


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
