"""The versions of a run's data: DVC's hashes in dvc.lock, and MLflow data sets with a DVC hash as their digest."""

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
    """Returns path → DVC's hash, for all outputs in the file dvc.lock."""
    stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def lock_of_results(lock: Path) -> str:
    """Returns the text of dvc.lock without the stage `track`: while a run is logged, it is still an earlier run's."""
    loaded = yaml.safe_load(lock.read_text(encoding="utf-8"))
    loaded["stages"].pop("track", None)
    return str(yaml.safe_dump(loaded, sort_keys=False, allow_unicode=True))


class DvcSource(DatasetSource):
    """A folder that DVC versions. With its digest in dvc.lock, `dvc checkout` restores it."""

    def __init__(self, path: str) -> None:
        self.path = path

    @staticmethod
    def _get_source_type() -> str:
        return "dvc"

    def load(self) -> Path:
        """Returns the folder, relative to the current folder."""
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
    """A data set in a folder that DVC versions, such as `data/clients`; its name is the folder's name.

    The digest is DVC's hash of the folder. It has 36 characters, the most that MLflow allows. MLflow's page of the data
    set shows the schema and the profile.
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
        """Returns what MLflow stores; every value is text."""
        schema = json.dumps(self._schema.to_dict()) if self._schema else ""
        return {**super().to_dict(), "schema": schema, "profile": json.dumps(self._profile or {})}


def data_set(folder: Path, path: str, digest: str) -> DvcFolder:
    """Returns MLflow's data set for `path`, which is `data/partition` or `data/clients`: shapes, classes and counts."""
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
