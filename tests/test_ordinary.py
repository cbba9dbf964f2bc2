"""Ordinary data and models, from the raw data to the diagnosis; two runs have the same bytes."""

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import ordinary_inputs as inputs
import ordinary_models as models
import pytest
import yaml

from flows.mlflow_store import data_versions
from tasks.clients import TEST
from tasks.clients.preprocessed import read_hold_out, read_preprocessed
from tasks.datasets.encoding import encode
from tasks.diagnose import diagnose
from tasks.evaluate import evaluate
from tasks.federate import federate
from tasks.files import read_json
from tasks.models import load_model
from tasks.outputs import OUTPUTS
from tasks.partition import partition
from tasks.preprocess import preprocess
from tasks.prune import prune
from tasks.settings import Settings
from tests.shards import read_client

ROOT = Path(__file__).parents[1]
STEPS = (partition, preprocess, federate, prune, evaluate, diagnose)


class Lines(logging.Handler):
    """Collects the lines of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())

    def once(self, *parts: str) -> None:
        """Asserts that exactly one line has all these parts."""
        assert sum(all(part in line for part in parts) for line in self.said) == 1, self.said


class Run:
    """A run of all six steps in its own folder."""

    def __init__(self, folder: Path, write: inputs.Write, settings_of: Callable[..., Settings]) -> None:
        self.folder, self.log = folder, Lines()
        folder.mkdir()
        self.settings = settings_of({**inputs.SHORT, **write(folder)})
        logger = logging.getLogger("tasks")
        before = logger.level
        logger.addHandler(self.log)
        logger.setLevel(logging.INFO)
        try:
            for step in STEPS:
                step(self.settings, folder)
        finally:
            logger.removeHandler(self.log)
            logger.setLevel(before)

    def outputs(self) -> dict[str, bytes]:
        """{file: its bytes} of all outputs of the steps."""
        made = [self.folder / name for step in STEPS for name in OUTPUTS[step.__name__]]
        files = [file for path in made for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
        return {file.relative_to(self.folder).as_posix(): file.read_bytes() for file in files}

    def report(self, name: str) -> Any:
        return read_json(self.folder / "reports" / name)

    @cached_property
    def partition(self) -> Any:
        return read_json(self.folder / "data/partition/partition.json")

    def examples(self, stage: str = "partition", *sites: str) -> tuple[np.ndarray, np.ndarray]:
        """The examples of `sites`, or of all clients if none is given."""
        parts = [read_client(self.folder / "data" / stage, site) for site in sites or self.partition["clients"]]
        x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return x, y

    def model(self, file: str = "global.h5") -> Any:
        shape, classes = tuple(self.partition["input_shape"]), len(self.partition["classes"])
        return load_model(self.folder / "models" / file, self.settings.federate.model, shape, classes)

    def check_probabilities(self, build: Callable[..., Any], probabilities: Callable[[Any], Any]) -> None:
        """Asserts that the user's model has the run's loss and accuracy, and that the run's model gives logits."""
        x, y = read_hold_out(read_preprocessed(self.folder / "data/clients"))
        trained, own = self.model(), build(x.shape[1:], len(self.partition["classes"]))
        own.set_weights(trained.get_weights()[: len(own.weights)])
        p, logits = probabilities(own.predict(x, verbose=0)), trained.predict(x, verbose=0)
        np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
        assert np.abs(logits.sum(axis=1) - 1).max() > 0.01
        exponents = np.exp(logits)
        np.testing.assert_allclose(exponents / exponents.sum(axis=1, keepdims=True), p, rtol=1e-4, atol=1e-6)
        metrics = self.report("metrics.json")
        assert metrics["loss"] == pytest.approx(-np.log(p[np.arange(len(y)), y]).mean(), rel=1e-4)
        assert metrics["accuracy"] == pytest.approx((p.argmax(axis=1) == y).mean())


@pytest.fixture
def run_twice(tmp_path: Path, settings_of: Callable[..., Settings]) -> Callable[[inputs.Write], Run]:
    """(writer of the raw data) -> a run of all steps; a second run in another folder has the same bytes."""

    def run(write: inputs.Write) -> Run:
        first, second = (Run(tmp_path / name, write, settings_of) for name in ("first", "second"))
        made = first.outputs()
        # All outputs of all steps exist; a folder has files.
        for name in (name for step in STEPS for name in OUTPUTS[step.__name__]):
            assert any(file == name or file.startswith(f"{name}/") for file in made), name
        assert {name for name, content in second.outputs().items() if made.get(name) != content} == set()
        assert made.keys() == second.outputs().keys()
        assert len((first.folder / "reports/rounds.csv").read_text().splitlines()) == 1 + 2 + 2
        return first

    return run


@pytest.mark.slow
def test_table_of_visits(run_twice: Callable[[inputs.Write], Run]) -> None:
    run = run_twice(inputs.table)
    record = run.partition
    names = ["age", "smoker", "came", *(f"work={work}" for work in inputs.WORK)]
    assert record["features"]["names"] == names
    assert {column["name"]: column["kind"] for column in record["features"]["columns"]} == {
        "age": "number",
        "smoker": "boolean",
        "work": "text",
        "came": "date",
    }
    # Encoded by partition.json, the raw rows are the rows of the clients and of the hold-out data.
    again = encode(run.folder / "visits.csv", record["features"])
    (x, _), (held, _) = run.examples(), run.examples("partition", TEST)
    assert sorted(map(bytes, again)) == sorted(map(bytes, np.concatenate([x, held])))
    # The fill is the median of the training rows. Rows without an age have it.
    (age,) = (column for column in record["features"]["columns"] if column["name"] == "age")
    known = x[:, 0][x[:, 0] != np.float32(age["fill"])]
    assert known.min() < age["fill"] < known.max()
    filled = sum(client["filled"] for client in record["clients"].values()) + record["test"]["filled"]
    assert filled == len(inputs.AGES_MISSING) + len(inputs.WORK_MISSING)
    # Each patient came on another day, and is in the training or in the hold-out data, not in both.
    days, held_days = set(x[:, 2].tolist()), set(held[:, 2].tolist())
    assert not days & held_days
    assert record["held_out"]["groups"] == {"column": "patient", "train": len(days), "test": len(held_days)}
    assert len(days | held_days) == inputs.PATIENTS
    assert set(record["clients"]) == {*inputs.SITES}
    run.log.once(
        "visits.csv: columns: 4, features: 6", "one-hot: work (3)", "left out: id", "decimal commas", "age (4)"
    )
    run.log.once("groups of 'patient'")
    run.log.once("missing cells filled at")
    assert not [line for line in run.log.said if "differ in nearly every row" in line]
    run.check_probabilities(models.tabular, lambda p: p)
    assert set(run.report("prune.json")["layers"]) == {"dense", "dense_1"}


@pytest.mark.slow
def test_images_of_many_sizes_and_modes(run_twice: Callable[[inputs.Write], Run]) -> None:
    run = run_twice(inputs.images)
    record = run.partition
    assert (record["input_shape"], record["classes"]) == ([8, 8, 3], ["bottom", "top"])
    assert record["unreadable"]["num_records"] == inputs.IMAGES
    left_out = {client: own["num_left_out"] for client, own in record["unreadable"]["clients"].items()}
    assert {client: count for client, count in left_out.items() if count} == {"east": 2, "west": 1}
    used = sum(client["num_examples"] for client in record["clients"].values()) + record["test"]["num_examples"]
    assert used == inputs.IMAGES - len(inputs.UNREADABLE)
    run.log.once("57 images of mode", "L (12), RGBA (12), P (12), RGB (11), CMYK (10)", "read as RGB of [8, 8]")
    run.log.once("3 of 60 records cannot be read", "10 of 12 of client east")
    run.check_probabilities(models.pretrained, lambda p: np.concatenate([1 - p, p], axis=1))
    base = models.pretrained((8, 8, 3), 2).layers[0].get_weights()
    for file in ("global.h5", "pruned.h5"):
        # The base keeps the builder's parameters. The layer that makes two logits of one output is fixed, too.
        frozen = [weight.numpy() for weight in run.model(file).non_trainable_weights]
        assert [weight.tolist() for weight in frozen] == [*(weight.tolist() for weight in base), [[0, 1]]]
    pruned = run.report("prune.json")
    # Only the head is trained, so only the head is pruned: 6 channels to one output.
    assert {layer: own["weights"] for layer, own in pruned["layers"].items()} == {"dense": 6}


@pytest.mark.slow
def test_sentences_of_clinics(run_twice: Callable[[inputs.Write], Run]) -> None:
    run = run_twice(inputs.sentences)
    record = run.partition
    assert record["held_out"] == {"clients": ["clinic-3", "clinic-4"]}
    assert {client: own["num_examples"] for client, own in record["clients"].items()} == {
        f"clinic-{number}": 20 + number for number in range(3)
    }
    assert record["classes"] == ["anaemia", "burns", "cough"]
    run.log.once("the labels (text) become 3 classes: 'anaemia' is 0, 'burns' is 1, 'cough' is 2")
    run.log.once("the hold-out set is the 47 examples", "clinic-3, clinic-4")
    raw = [np.load(run.folder / "clinics" / f"clinic-{number}.npz") for number in (3, 4)]
    for stage in ("partition", "clients"):  # token ids are not changed
        x, y = run.examples(stage, TEST)
        np.testing.assert_array_equal(x, np.concatenate([each["x"] for each in raw]))
        np.testing.assert_array_equal(np.array(record["classes"])[y], np.concatenate([each["y"] for each in raw]))
    pruned = run.report("prune.json")
    # Embeddings of 60 x 6, and a layer from 5 units to 3 classes.
    assert {layer: own["weights"] for layer, own in pruned["layers"].items()} == {"embedding": 360, "dense": 15}
    assert pruned["unpruned"] == ["simple_rnn", "mix", "scale"]
    run.log.once("prune will leave simple_rnn, mix, scale as they are")
    # The matrix was trained, also during pruning, but no entry is zero.
    before, after = (run.model(file).get_layer("mix").get_weights()[0] for file in ("global.h5", "pruned.h5"))
    assert np.abs(after - before).max() > 0
    assert (after != 0).all()
    assert pruned["tflite_agreement"]["tflite_float"] == 1


# Through `dvc repro` and through a flow


def of_model(name: str, classes: int = 3) -> inputs.Write:
    """Returns the writer of images for a model of ordinary_models."""
    write = inputs.arrays(classes, lambda y: y)
    return lambda folder: {**write(folder), "federate.model": f"ordinary_models:{name}"}


def of_words(name: str) -> inputs.Write:
    """Returns the writer of token ids for a model of ordinary_models."""
    return lambda folder: {**inputs.sentences(folder), "federate.model": f"ordinary_models:{name}"}


COMBINED: dict[str, inputs.Write] = {each.__name__: each for each in (inputs.table, inputs.images, inputs.sentences)}
MODELS: dict[str, inputs.Write] = {
    **{name: of_model(name) for name in ("dropout", "regularised", "softmax", "own_layers", "lstm", "gru", "zeros")},
    **{name: of_model(name) for name in ("bidirectional", "transformer", "group_norm")},
    **{name: of_model(name, 2) for name in ("pretrained", "one_sigmoid", "one_logit")},
    **{name: of_words(name) for name in ("lstm_of_words", "integers")},
}
DATA: dict[str, inputs.Write] = {
    "one_hot": inputs.arrays(3, lambda y: np.eye(3, dtype=np.uint8)[y]),
    "labels_from_1": inputs.arrays(3, lambda y: y + 1),
    "labels_with_gaps": inputs.arrays(3, lambda y: 10 * y),
    "text_labels": inputs.arrays(2, lambda y: np.array(["cat", "dog"])[y]),
    "text": inputs.rows("work", lambda n: "abc"[n % 3]),
    "decimal_commas": inputs.rows("age", lambda n: f"{n},5", ";"),
    "dates": inputs.rows("came", lambda n: f"{1 + n % 28}/{1 + n % 12}/2021"),
    "id": inputs.rows("patient_id", str),
    "drop_columns": inputs.rows("note", lambda n: f"note {n}", drop_columns=["note"]),
    "missing": inputs.rows("age", lambda n: "" if n % 9 == 4 else f"{n}", missing="median"),
    "group_column": inputs.rows("patient", lambda n: f"p{n // 3}", group_column="patient"),
    "skip_unreadable": inputs.rows("age", lambda n: "tall" if n == 7 else f"{n % 9}", skip_unreadable=True),
}
EVERY = COMBINED | MODELS | DATA

Command = Callable[..., str]


@pytest.fixture(scope="module")
def command(shell: dict[str, str], prefect_server: str) -> Command:
    """(repository, *arguments of python -m) -> the output."""

    def call(repository: Path, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=repository,
            env={**shell, "PREFECT_API_URL": prefect_server},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout
        assert "Traceback" not in done.stdout
        return done.stdout

    return call


@pytest.fixture(scope="module")
def repositories(copy_repository: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two repositories with their own caches, in which the user's module is a dependency as README.md says."""
    made = [copy_repository(tmp_path_factory.mktemp("repository")) for _ in range(2)]
    for folder in made:
        shutil.copy(Path(models.__file__), folder)
        before, federate, after = (folder / "dvc.yaml").read_text().partition("\n  federate:\n")
        after = after.replace("    deps:\n", "    deps:\n      - ordinary_models.py\n", 1)
        (folder / "dvc.yaml").write_text(before + federate + after)
    return made


def write_input(name: str, repository: Path) -> None:
    """Writes raw data into their own folder, and the settings that use them."""
    (repository / name).mkdir()
    chosen = {**inputs.SHORT, **EVERY[name](repository / name)}
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for setting, value in {**chosen, "data.path": f"{name}/{chosen['data.path']}"}.items():
        *sections, last = setting.split(".")
        section = params
        for part in sections:
            section = section[part]
        section[last] = value
    (repository / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def hashes(folder: Path) -> dict[str, str]:
    """{output: DVC's hash}."""
    return data_versions.locked(folder / "dvc.lock")


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_dvc_and_a_flow_give_the_same_bits(name: str, repositories: list[Path], command: Command) -> None:
    by_dvc, by_flow = repositories
    for repository in repositories:
        write_input(name, repository)
    command(by_dvc, "dvc", "repro")
    said = command(by_flow, "flows.pipeline")
    # Some outputs can come from the cache, left by an earlier input, but never the training.
    assert "Task run 'federate' - Finished in state Completed" in said
    (by_flow_folder,) = {path for path in (by_flow / ".runs").glob("[!.]*") if path.name in said}
    assert hashes(by_dvc) == hashes(by_flow_folder)
    assert {*hashes(by_dvc)} == {out for step in OUTPUTS for out in OUTPUTS[step]} - {"reports/mlflow.json"}
    again = command(by_dvc, "flows.pipeline")
    assert again.count("Finished in state Cached") == len(STEPS) + 1
