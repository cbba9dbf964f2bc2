"""The logged models: `mlflow.pyfunc` predicts for raw data, `mlflow.tensorflow` gives the Keras model."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import mlflow.models
import numpy as np
import pytest
from mlflow.models import Model
from scipy.special import softmax

from flows.mlflow_store import model_flavors
from tasks.clients import CLIENTS, read_hold_out, read_preprocessed
from tasks.models import build, save_model
from tasks.partition import partition
from tasks.predict import Predictor, recipe_of
from tasks.predict.example import raw_example
from tasks.preprocess import preprocess
from tasks.settings import parse
from tests import servers

pytestmark = pytest.mark.slow

SITES = ("00", "01")


def saved(folder: Path, raw_settings: dict[str, Any]) -> Path:
    """Returns the folder of an MLflow model with random weights, for the raw data in `folder`."""
    settings = parse({"federate": {"model": "mlp"}, **raw_settings})
    partition(settings, folder)
    preprocess(settings, folder)
    recipe = recipe_of(settings, folder)
    save_model(build("mlp", recipe.input_shape, len(recipe.classes), seed=3), folder / "models/global.h5")
    target, model = folder / "mlflow_model", Model()
    example = raw_example(recipe, folder)
    model_flavors.save_model(str(target), model, folder / "models/global.h5", recipe, example)
    return target


def expected(folder: Path) -> np.ndarray:
    """The probabilities of the hold-out data by the model and the data that scoring uses."""
    import tensorflow as tf

    x, _ = read_hold_out(read_preprocessed(folder / CLIENTS))
    model = tf.keras.models.load_model(folder / "models/global.h5", compile=False)
    return softmax(model(x).numpy().astype(np.float64), axis=1)


def write_images(folder: Path) -> np.ndarray:
    """Writes 8-bit images of two clients, and returns the raw hold-out images."""
    rng = np.random.default_rng(0)
    root = folder / "raw"
    root.mkdir()
    for number, site in enumerate(SITES):
        x = rng.integers(0, 100 + 100 * number, (12, 6, 6, 1), np.uint8)
        np.savez(root / f"{site}.npz", x=x, y=np.array(["cat", "dog", "eel"] * 4))
    test = rng.integers(0, 255, (5, 6, 6, 1), np.uint8)
    np.savez(root / "test.npz", x=test, y=np.array(["cat", "dog", "eel", "cat", "dog"]))
    return test


def of_images(normalize: str) -> dict[str, Any]:
    return {
        "data": {"kind": "clients", "path": "raw"},
        "partition": {"kind": "natural"},
        "preprocess": {"normalize": normalize},
    }


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """(workspace, raw hold-out images) of a model whose clients normalise their own images."""
    folder = tmp_path_factory.mktemp("images")
    test = write_images(folder)
    saved(folder, of_images("client"))
    return folder, test


def in_a_fresh_process(folder: Path, code: str) -> str:
    """Returns what `code` prints in a process that does not find the repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={**kept, **servers.QUIET}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pyfunc_gives_classes_and_probabilities_of_raw_images(images: tuple[Path, np.ndarray]) -> None:
    folder, test = images
    np.save(folder / "test.npy", test)
    code = """
import sys, numpy as np, mlflow.pyfunc
model = mlflow.pyfunc.load_model("mlflow_model")
x = np.load("test.npy")
print(model.predict(x).to_json(orient="split", double_precision=15))
print(model.predict(x, params={"client": "01"}).to_json(orient="split", double_precision=15))
print([name for name in sys.modules if name.startswith("tensorflow_federated") or name == "flows"])
print(sys.modules["tasks"].__file__)
print(model.predict(model.input_example).shape)
try:
    model.predict(x, params={"client": "99"})
except Exception as exc:
    print(exc)
"""
    without, of_01, others, place, of_example, refused = in_a_fresh_process(folder, code).splitlines()
    hold_out, one = json.loads(without), json.loads(of_01)
    names = ["cat", "dog", "eel"]
    assert hold_out["columns"] == ["class", *(f"probability_{name}" for name in names), "statistics"]
    probabilities = np.array([row[1:4] for row in hold_out["data"]])
    np.testing.assert_allclose(probabilities, expected(folder), rtol=1e-5)
    assert [row[0] for row in hold_out["data"]] == [names[k] for k in expected(folder).argmax(axis=1)]
    assert {row[4] for row in hold_out["data"]} == {"hold-out data"}
    # Client 01's own mean and sd: those of its raw images.
    raw = np.load(folder / "raw/01.npz")["x"] / 255
    by_01 = (test / 255 - raw.mean()) / raw.std()
    import tensorflow as tf

    model = tf.keras.models.load_model(folder / "models/global.h5", compile=False)
    np.testing.assert_allclose(
        [row[1:4] for row in one["data"]], softmax(model(by_01.astype(np.float32)).numpy(), axis=1), rtol=1e-4
    )
    assert {row[4] for row in one["data"]} == {"client 01"}
    assert others == "[]"
    assert place == str(folder / "mlflow_model/code/tasks/__init__.py")
    assert of_example == "(1, 5)"
    assert "must be a client of the run (00, 01)" in refused


def test_mlflow_tensorflow_loads_the_keras_model_of_the_same_folder(images: tuple[Path, np.ndarray]) -> None:
    import mlflow.tensorflow
    import tensorflow as tf

    folder, _ = images
    x, _ = read_hold_out(read_preprocessed(folder / CLIENTS))
    found = mlflow.tensorflow.load_model(str(folder / "mlflow_model"))(x).numpy()
    keras = tf.keras.models.load_model(folder / "models/global.h5", compile=False)
    np.testing.assert_array_equal(found, keras(x).numpy())


def test_nothing_is_pickled(images: tuple[Path, np.ndarray]) -> None:
    folder, _ = images
    logged = [path for path in (folder / "mlflow_model").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {path.suffix for path in logged} <= {".py", ".h5", ".json", ".yaml", ".txt", ""}
    assert (folder / "mlflow_model/artifacts/model/model.h5").read_bytes() == (folder / "models/global.h5").read_bytes()


def test_resized_images_of_any_size_are_raw_data(tmp_path: Path) -> None:
    test = write_images(tmp_path)
    options = of_images("global")
    saved(tmp_path, options | {"preprocess": {"normalize": "global", "resize": [4, 4]}})
    assert model_flavors.signature_of(recipe(tmp_path)).inputs.inputs[0].shape == (-1, -1, -1, 1)
    found = Predictor.read(tmp_path / "mlflow_model/artifacts/model").predict(test)
    np.testing.assert_allclose(found.probabilities, expected(tmp_path), rtol=1e-5)


def recipe(folder: Path) -> Any:
    return Predictor.read(folder / "mlflow_model/artifacts/model").recipe


def test_a_table_is_encoded_inside(tmp_path: Path) -> None:
    """The raw table has a decimal comma, words for truth values, dates, categories and missing numbers."""
    rng = np.random.default_rng(1)
    lines = ["age;dose;smoker;seen;ward;ill"]
    for row in range(60):
        age = "" if row % 9 == 4 else str(rng.integers(20, 90))
        dose = f"{rng.random():.2f}".replace(".", ",")
        lines.append(f"{age};{dose};{'yes' if row % 3 else 'no'};2024-01-{1 + row % 28:02};{'abc'[row % 3]};{row % 2}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    data = {"kind": "table", "path": "t.csv", "label_column": "ill", "missing": "mean"}
    model = saved(tmp_path, {"data": data, "partition": {"kind": "iid", "num_clients": 2}})
    import pandas as pd

    frame = pd.read_csv(tmp_path / "t.csv", sep=";").drop(columns="ill")
    hold_out, _ = read_hold_out(read_preprocessed(tmp_path / CLIENTS))
    predictor = Predictor.read(model / "artifacts/model")
    prepared = {row.tobytes() for row in predictor.prepared(frame)}
    assert {row.tobytes() for row in hold_out} <= prepared  # the same bytes as in data/clients
    schema = json.loads(mlflow.models.Model.load(str(model)).signature.inputs.to_json())
    assert [(column["name"], column["type"]) for column in schema] == [
        ("age", "double"),
        ("dose", "any"),
        ("smoker", "any"),
        ("seen", "string"),
        ("ward", "string"),
    ]
    frame.to_json(tmp_path / "rows.json", orient="split")
    code = """
import pandas as pd, mlflow.pyfunc
model = mlflow.pyfunc.load_model("mlflow_model")
print(model.predict(pd.read_csv("t.csv", sep=";")).to_json(orient="split", double_precision=15))
print(model.predict(model.input_example).shape)
"""
    rows, of_example = in_a_fresh_process(tmp_path, code).splitlines()
    found = np.array([row[1:] for row in json.loads(rows)["data"]])
    np.testing.assert_allclose(found, predictor.predict(frame).probabilities, rtol=1e-6)
    assert of_example == "(1, 3)"


def test_digits_that_were_not_divided_are_refused(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    from tasks.errors import DataError

    saved(tmp_path, {"partition": {"kind": "iid", "num_clients": 2}})
    predictor = Predictor.read(tmp_path / "mlflow_model/artifacts/model")
    raw = load_digits().images[:3, ..., np.newaxis].astype(np.float32)
    with pytest.raises(DataError, match="divide scikit-learn's digits by 16"):
        predictor.predict(raw)
    assert predictor.predict(raw / 16).probabilities.sum(axis=1) == pytest.approx([1, 1, 1])


@pytest.mark.slow
def test_mlflow_serves_the_model(images: tuple[Path, np.ndarray]) -> None:
    folder, test = images
    environment = servers.user_environment(folder / "prefect")
    with servers.model_server(environment, folder / "served.log", folder, "mlflow_model") as url:
        body = json.dumps({"inputs": test.tolist(), "params": {"client": "00"}}).encode()
        asked = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": "application/json"})
        with servers.direct().open(asked, timeout=60) as answer:
            rows = json.load(answer)["predictions"]
    predicted = Predictor.read(folder / "mlflow_model/artifacts/model").predict(test, "00")
    assert [row["class"] for row in rows] == predicted.classes
    assert {row["statistics"] for row in rows} == {"client 00"}
    found = [[row[f"probability_{name}"] for name in ("cat", "dog", "eel")] for row in rows]
    np.testing.assert_allclose(found, predicted.probabilities, rtol=1e-5)


def test_a_model_of_the_user_s_own_brings_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layer is no Keras layer: only the user's function can build the model."""
    (tmp_path / "own_net.py").write_text("""
import tensorflow as tf

class Twice(tf.keras.layers.Layer):
    def call(self, x):
        return 2 * x

def build(input_shape, num_classes):
    layers = tf.keras.layers
    return tf.keras.Sequential([layers.Input(input_shape), layers.Flatten(), Twice(), layers.Dense(num_classes)])
""")
    monkeypatch.syspath_prepend(tmp_path)
    settings = parse({"federate": {"model": "own_net:build"}, "partition": {"kind": "iid", "num_clients": 2}})
    partition(settings, tmp_path)
    preprocess(settings, tmp_path)
    found = recipe_of(settings, tmp_path)
    save_model(build("own_net:build", found.input_shape, len(found.classes), seed=3), tmp_path / "models/global.h5")
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere/mlflow_model"
    model_flavors.save_model(str(target), Model(), tmp_path / "models/global.h5", found, raw_example(found, tmp_path))
    code = 'import mlflow.pyfunc as p; m = p.load_model("mlflow_model"); print(m.predict(m.input_example).shape)'
    assert in_a_fresh_process(tmp_path / "elsewhere", code) == "(1, 11)\n"
