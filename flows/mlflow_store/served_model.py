"""A logged model as `mlflow.pyfunc` loads it: raw examples in, classes and probabilities out.

MLflow copies this file into each logged model and runs it there ("models from code"). The rest of the code is beside
it, in the model's folder `code`, so that a server needs neither the repository nor TensorFlow Federated.
"""

import logging
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

_log = logging.getLogger(__name__)


def table(classes: list[str | None], names: tuple[str, ...], probabilities: Any) -> pd.DataFrame:
    """Returns a row for each example: the class, and the probability of each class in `names`."""
    columns = pd.DataFrame(probabilities, columns=[f"probability_{name}" for name in names])
    columns.insert(0, "class", pd.Series(classes, dtype=object))
    return columns


class ServedModel(PythonModel):
    """The model with its preprocessing."""

    def load_context(self, context: PythonModelContext) -> None:
        """Reads the model."""
        from pathlib import Path

        from tasks.predict import Predictor

        self._predictor = Predictor.read(Path(context.artifacts["model"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Returns a row for each raw example: `class`, and `probability_<name>` of each class.

        `model_input` is a frame of a table's rows, and an array of other examples. (MLflow warns of a type hint that
        says so, and of a missing one.)

        Under `preprocess.normalize` client, `params` can name the client, and the column `statistics` says whose mean
        and sd were used.
        """
        from tasks.errors import UndriftError
        from tasks.predict import said_of

        recipe, client = self._predictor.recipe, str((params or {}).get("client") or "")
        try:
            predicted = self._predictor.predict(model_input, client)
        except UndriftError as exc:
            raise MlflowException(str(exc), error_code=INVALID_PARAMETER_VALUE) from exc
        rows = table(predicted.classes, recipe.classes, predicted.probabilities)
        if recipe.normalize == "client":
            rows["statistics"] = said_of(predicted.site)
            if not client:
                _log.warning(
                    "no client is named, so the mean and sd of the hold-out data are used; name one by "
                    'params={"client": "<id>"}'
                )
        return rows


set_model(ServedModel())
