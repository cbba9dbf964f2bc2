"""Fixtures that several test files use. The first fixture or test that needs TensorFlow imports it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import settings

from tasks.clients import TEST
from tasks.files import write_json
from tasks.settings import parse
from tests import servers
from tests.shards import write_sites

# An example takes several times as long on a busy machine as on an idle one, so its time says nothing.
settings.register_profile("undrift", deadline=None)
settings.load_profile("undrift")

# TensorFlow reads these once, when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("WRAPT_DISABLE_EXTENSIONS", "1")


def _nested(dotted):
    raw = {}
    for name, value in dotted.items():
        *sections, last = name.split(".")
        section = raw
        for part in sections:
            section = section.setdefault(part, {})
        section[last] = value
    return raw


@pytest.fixture(autouse=True)
def diagnoses_do_not_contradict_themselves(caplog):
    """Fails each test in which a written diagnosis contradicts itself."""
    yield
    said = [each.getMessage() for each in caplog.records if "contradicts itself" in each.getMessage()]
    assert not said, said


@pytest.fixture(scope="session")
def settings_of():
    """{"federate.rounds": 3, ...} -> Settings with these values and the defaults of all others."""
    return lambda dotted: parse(_nested(dotted))


@dataclass
class Clients:
    """The data of a small workspace: client id, or `test`, -> (x, y)."""

    data: dict = field(default_factory=dict)
    num_classes: int = 3
    sd: dict = field(default_factory=dict)

    @property
    def ids(self):
        return sorted(set(self.data) - {TEST})

    def write(self, folder: Path):
        """Writes data/clients into the workspace `folder`, and returns `folder`."""
        shape = self.data[TEST][0].shape[1:]
        write_sites(folder / "data" / "clients", self.data)
        sd = {site: list(self.sd.get(site, [1.0] * shape[-1])) for site in self.data}
        described = {
            "input_shape": list(shape),
            "num_classes": self.num_classes,
            "clients": {client: len(self.data[client][1]) for client in self.ids},
            "classes": [f"class {c}" for c in range(self.num_classes)],
            "images": len(shape) == 3,
            "normalize": "none",
            "statistics": {"by_client": {site: {"mean": [0.0] * shape[-1], "sd": sd[site]} for site in self.data}},
        }
        write_json(folder / "data" / "clients" / "preprocess.json", described)
        return folder


@pytest.fixture(scope="session")
def make_clients():
    """(sizes, shape of an example, classes, seed) -> Clients with labels that a linear model can partly learn."""

    def make(sizes=(7, 4, 11, 5), shape=(3, 3, 1), num_classes=3, seed=0, num_test=12):
        rng = np.random.default_rng(seed)
        directions = rng.normal(size=(int(np.prod(shape)), num_classes))
        ids = [f"{k:02}" for k in range(len(sizes))] + [TEST]
        data = {}
        for site, size in zip(ids, [*sizes, num_test], strict=True):
            x = rng.random((size, *shape), dtype=np.float32)
            scores = (x.reshape(size, -1) - 0.5) @ directions + rng.gumbel(size=(size, num_classes))
            data[site] = x, scores.argmax(1).astype(np.int32)
        return Clients(data, num_classes)

    return make


@pytest.fixture(scope="session")
def computations():
    """The computations of rounds, for all replays of the test run, because tracing one takes seconds."""
    from tasks.diagnose.replay.computations import ComputationCache

    return ComputationCache()


@pytest.fixture(scope="session")
def client_input():
    """(x, y, order of visits, changes) -> the input of one client's round."""

    def given(x, y, order, **changes):
        told = OrderedDict(
            x=np.asarray(x, np.float32),
            y=np.asarray(y, np.int32),
            num_examples=np.int32(len(y)),
            order=np.asarray(order, np.int32),
            weight=np.float32(1),
            share=np.float32(1),
            learning_rate=np.float32(0.1),
            seed=np.zeros(2, np.int32),
            brightness=np.zeros(0, np.float32),
            architecture=np.int32(0),
        )
        return OrderedDict(told, **changes)

    return given


@dataclass(frozen=True)
class LocalResult:
    """The result of one client's round, in float64."""

    params: np.ndarray
    loss_before: float
    loss_after: float
    loss_mean: float
    num_steps: int


def _log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@pytest.fixture(scope="session")
def logistic_reference():
    """Local SGD of multinomial logistic regression as the slow, obvious reference: batch after batch in NumPy.

    (params: the kernel (D, C), then the bias (C,); x (N, ...), y (N,), order (E·N,), ...) -> LocalResult.
    """

    def train(params, x, y, order, *, num_classes, batch_size, learning_rate, momentum=0.0, weight_decay=0.0, mask=1.0):
        x = np.asarray(x, np.float64).reshape(len(y), -1)
        dim, num_epochs = x.shape[1], len(order) // len(y)
        params = np.array(params, np.float64)
        velocity = np.zeros_like(params)
        batches = []
        for epoch in range(num_epochs):
            visits = order[epoch * len(y) : (epoch + 1) * len(y)]
            batches += [visits[i : i + batch_size] for i in range(0, len(y), batch_size)]
        visit_losses, batch_of_visit = [], []
        for number, batch in enumerate(batches):
            kernel, bias = params[: dim * num_classes].reshape(dim, num_classes), params[dim * num_classes :]
            log_p = _log_softmax(x[batch] @ kernel + bias)
            losses = -log_p[np.arange(len(batch)), y[batch]]
            visit_losses += losses.tolist()
            batch_of_visit += [number] * len(batch)
            error = (np.exp(log_p) - np.eye(num_classes)[y[batch]]) / len(batch)
            gradient = np.concatenate([(x[batch].T @ error).ravel(), error.sum(axis=0)])
            gradient = (gradient + weight_decay * params) * mask
            velocity = momentum * velocity + gradient
            params = params - learning_rate * velocity
        # All visits count of each batch that has one of the last `batch_size` visits.
        late = set(batch_of_visit[-batch_size:])
        late_losses = [loss for loss, number in zip(visit_losses, batch_of_visit, strict=True) if number in late]
        first = [loss for loss, number in zip(visit_losses, batch_of_visit, strict=True) if number == 0]
        return LocalResult(
            params, float(np.mean(first)), float(np.mean(late_losses)), float(np.mean(visit_losses)), len(batches)
        )

    return train


@pytest.fixture(scope="session")
def one_thread():
    """(threads=1) -> a new `with` block in which TFF's computations run in this process."""
    from tasks.runtime.kinds import runtime
    from tasks.settings import RuntimeSettings

    return lambda threads=1: runtime(RuntimeSettings(threads=threads))


ROOT = Path(__file__).parents[1]
SMALL = {"federate.rounds": 3, "prune.rounds": 2, "prune.begin_round": 1, "prune.end_round": 2}


@pytest.fixture(scope="session")
def copy_repository():
    """(folder, {"seed": 1, ...}) -> folder as a git and DVC repository with this code and few rounds."""

    def copy(folder, settings=None):
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
        (folder / ".dvc").mkdir()
        for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml", "pyproject.toml"):
            shutil.copy(ROOT / name, folder / name)
        for name in ("tasks", "flows"):
            shutil.copytree(ROOT / name, folder / name)  # with the bytecode, so that no copy compiles it again
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        for name, value in {**SMALL, **(settings or {})}.items():
            *sections, last = name.split(".")
            section = params
            for part in sections:
                section = section[part]
            section[last] = value
        (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(folder)]
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
        return folder

    return copy


@pytest.fixture(scope="session")
def shell(tmp_path_factory):
    """The environment of a user's shell: this Python first, its own Prefect home, and no server."""
    return servers.user_environment(tmp_path_factory.mktemp("prefect"))


@pytest.fixture(scope="session")
def prefect_server(shell, tmp_path_factory):
    """The API address of a Prefect server that runs during all tests."""
    with servers.prefect_server(shell, tmp_path_factory.mktemp("server") / "log") as url:
        yield f"{url}/api"


@dataclass
class Deployed:
    """A repository and the worker that runs its deployments."""

    repository: Path
    api: str
    worker: subprocess.Popen
    said: Path

    def check(self):
        """Fails with the end of the worker's log if the worker has ended."""
        assert self.worker.poll() is None, self.said.read_text()[-3000:]


@pytest.fixture(scope="session")
def deploy(shell, prefect_server, tmp_path_factory):
    """(repository, VARIABLE="value", ...) -> a `with` block in which `python -m flows.deployments` runs there."""

    @contextmanager
    def serve(repository, **environment):
        said = tmp_path_factory.mktemp("worker") / "log"
        command = [sys.executable, "-m", "flows.deployments", "--pool", f"test-{os.getpid()}-{said.parent.name}"]
        environment = {**shell, "PREFECT_API_URL": prefect_server, **environment}
        for before in servers.ask(prefect_server, "POST", "deployments/filter"):  # of other tests, with their schedules
            servers.ask(prefect_server, "DELETE", f"deployments/{before['id']}")
        with said.open("w") as log:
            worker = subprocess.Popen(command, cwd=repository, env=environment, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 120
            while "started!" not in said.read_text():
                assert worker.poll() is None, said.read_text()
                assert time.monotonic() < until, said.read_text()
                time.sleep(0.2)
            yield Deployed(repository, prefect_server, worker, said)
        finally:
            worker.send_signal(signal.SIGINT)
            worker.wait(60)

    return serve


@pytest.fixture(scope="module")
def deployed(copy_repository, deploy, tmp_path_factory):
    """A repository with a worker and its own work pool, until the last test of the module."""
    with deploy(copy_repository(tmp_path_factory.mktemp("deployed"))) as served:
        yield served


@pytest.fixture(scope="session")
def linear():
    """A probe of logits = x W, W (2, 2), without bias, whose losses and curvature can be computed by hand."""
    import tensorflow as tf

    from tasks.local.probe import Probe

    return Probe(tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Dense(2, use_bias=False)]))
