"""The versions of a run's data: DVC's hashes in dvc.lock, and MLflow's data set with such a hash as its digest."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mlflow.data.dataset import Dataset
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.schema import TensorDatasetSchema
from mlflow.types import Schema, TensorSpec

from tasks.files import read_json

_DESCRIPTION = {"data/partition": "partition.json", "data/clients": "preprocess.json"}


def locked(lock: Path) -> dict[str, str]:
    """Returns the hashes of all outputs that dvc.lock names, by path."""
    stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def lock_of_results(lock: Path) -> str:
    """Returns the text of dvc.lock without the stage `track`, whose entry is an earlier run's while a run is logged."""
    loaded = yaml.safe_load(lock.read_text(encoding="utf-8"))
    loaded["stages"].pop("track", None)
    return str(yaml.safe_dump(loaded, sort_keys=False, allow_unicode=True))


class DvcSource(DatasetSource):
    """A folder that DVC versions; with its digest in dvc.lock, `dvc checkout` brings it back."""

    def __init__(self, path: str) -> None:
        self.path = path

    @staticmethod
    def _get_source_type() -> str:
        return "dvc"

    def load(self) -> Path:
        """Returns the folder, relative to the current one."""
        return Path(self.path)

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return False

    @classmethod
    def _resolve(cls, raw_source: Any) -> "DvcSource":
        raise NotImplementedError("a DVC folder is named by its path and digest")

    def to_dict(self) -> dict[str, Any]:
        """Returns what MLflow stores."""
        return {"path": self.path}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> "DvcSource":
        """Returns the source that `to_dict` described."""
        return cls(source_dict["path"])


class DvcFolder(Dataset):
    """A data set in a folder that DVC versions, e.g. `data/clients`; its name is the folder's.

    The digest is DVC's hash of the folder, exactly the 36 characters that MLflow allows. Schema and profile are what
    MLflow's page shows of it.
    """

    def __init__(
        self, path: str, digest: str, schema: TensorDatasetSchema | None = None, profile: dict[str, Any] | None = None
    ) -> None:
        self._schema, self._profile = schema, profile
        super().__init__(source=DvcSource(path), name=Path(path).name, digest=digest)

    def _compute_digest(self) -> str:
        raise NotImplementedError("the digest is DVC's")

    @property
    def profile(self) -> dict[str, Any] | None:
        """Numbers about the data."""
        return self._profile

    @property
    def schema(self) -> TensorDatasetSchema | None:
        """Shapes and types of features and labels."""
        return self._schema

    def to_dict(self) -> dict[str, str]:
        """Returns what MLflow stores, as text."""
        schema = json.dumps(self._schema.to_dict()) if self._schema else ""
        return {**super().to_dict(), "schema": schema, "profile": json.dumps(self._profile or {})}


def data_set(folder: Path, path: str, digest: str) -> DvcFolder:
    """Returns MLflow's data set for `data/partition` or `data/clients`: shapes, classes and counts in brief."""
    counts = read_json(folder / "data/partition/partition.json")
    description = read_json(folder / path / _DESCRIPTION[path])
    features = TensorSpec(np.dtype(np.float32), (-1, *description["input_shape"]), "x")
    schema = TensorDatasetSchema(Schema([features]), Schema([TensorSpec(np.dtype(np.int32), (-1,), "y")]))
    profile = {
        "num_clients": len(counts["clients"]),
        "num_examples": counts["num_examples"],
        "num_test_examples": counts["test"]["num_examples"],
        "num_classes": len(counts["classes"]),
    }
    return DvcFolder(path, digest, schema, profile)
