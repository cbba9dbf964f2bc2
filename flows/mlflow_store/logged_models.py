"""Logs models to MLflow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    """Logs the model in the H5 file `weights` and returns its id.

    The logged model is created first, and MLflow's `log` gets its id. Otherwise, `log` would choose the experiment by
    the environment and the thread's active run.
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
    return str(logged.model_id)
