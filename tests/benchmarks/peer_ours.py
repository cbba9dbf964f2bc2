"""Runs our side of the comparison with public implementations, and writes the file that the peers read.

    .venv/bin/python tests/benchmarks/peer_ours.py FILE.npz

It runs the unchanged step `federate` on scikit-learn's digits, divided by Dirichlet(0.5) over 10 clients. See
peer_case.py.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("WRAPT_DISABLE_EXTENSIONS", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as `tasks` does, which comes after TensorFlow here
sys.path.insert(0, str(Path(__file__).parents[2]))

import tensorflow as tf
import yaml
from peer_case import Case, flat, write

from tasks.clients import CLIENTS, read_client, read_preprocessed
from tasks.federate import federate, schedule
from tasks.models import build
from tasks.parameters import flatten
from tasks.partition import partition
from tasks.preprocess import preprocess
from tasks.settings import Settings, parse

ROOT = Path(__file__).parents[2]
BASE = {
    "partition.alpha": 0.5,
    "federate.model": "peer_model:smooth",
    "federate.rounds": 3,
    "federate.local_work.epochs": 2,
}
UNIFORM = {"federate.aggregator.weighting": "uniform"}
HALF = {"federate.sampling.kind": "uniform", "federate.sampling.clients_per_round": 5}
UNEQUAL = {
    "federate.local_work.kind": "range",
    "federate.local_work.epochs": 1,
    "federate.local_work.high": 4,
}


def client(kind: str, **options: Any) -> dict[str, Any]:
    """Returns the settings of a client update."""
    return {"federate.client.kind": kind, **{f"federate.client.{name}": value for name, value in options.items()}}


def server(kind: str, **options: Any) -> dict[str, Any]:
    """Returns the settings of a server optimiser."""
    section = "federate.server_optimizer"
    return {f"{section}.kind": kind, **{f"{section}.{name}": value for name, value in options.items()}}


def aggregator(kind: str, **options: Any) -> dict[str, Any]:
    """Returns the settings of an aggregator."""
    section = "federate.aggregator"
    return {f"{section}.kind": kind, **{f"{section}.{name}": value for name, value in options.items()}}


CASES: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedavg, uniform": UNIFORM,
    "fedavg, momentum": client("sgd", momentum=0.9, learning_rate=0.01),
    "fedprox": client("fedprox", mu=1.0),
    "fedprox, uniform": client("fedprox", mu=1.0) | UNIFORM,
    "scaffold I": client("scaffold", option="I") | UNIFORM,
    "scaffold II": client("scaffold", option="II") | UNIFORM,
    "scaffold II, half of the clients": client("scaffold", option="II") | UNIFORM | HALF,
    "fednova": client("fednova") | UNEQUAL,
    "fednova, uniform": client("fednova") | UNEQUAL | UNIFORM,
    "fednova, momentum": client("fednova", momentum=0.9, learning_rate=0.01) | UNEQUAL,
    "fednova, proximal": client("fednova", fednova_mu=1.0) | UNEQUAL,
    "feddyn": client("feddyn", alpha=0.5) | UNIFORM,
    "feddyn, half of the clients": client("feddyn", alpha=0.5) | UNIFORM | HALF,
    "mimelite": client("mimelite", momentum=0.9, learning_rate=0.01),
    "fedavgm": server("momentum", learning_rate=0.5, momentum=0.8),
    "fedadagrad": server("adagrad", learning_rate=0.03, epsilon=0.01),
    "fedadam": server("adam", learning_rate=0.01, epsilon=0.01),
    "fedyogi": server("yogi", learning_rate=0.01, epsilon=0.01),
    "median": aggregator("median"),
    "trimmed mean": aggregator("trimmed_mean", trim=0.2),
    "krum": aggregator("krum", num_faulty=2),
    "multi-krum": aggregator("multi_krum", num_faulty=2, num_selected=4),
    "geometric median": aggregator("geometric_median"),
    "clipped mean": aggregator("clipped_mean", clip_norm=0.3),
    "clipped mean, adaptive": aggregator("clipped_mean", clip_norm=0.3, clipping="adaptive", clip_quantile=0.6),
}


def settings_of(changes: dict[str, Any]) -> Settings:
    """Returns the defaults of params.yaml with dotted `changes`."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, value in (BASE | changes).items():
        *sections, last = name.split(".")
        section = raw
        for part in sections:
            section = section[part]
        section[last] = value
    return parse(raw)


def dotted(raw: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings by dotted name."""
    found = {}
    for name, value in raw.items():
        found |= dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def run(name: str, settings: Settings, folder: Path) -> Case:
    """Runs the step `federate` in the workspace `folder`."""
    federate(settings, folder)
    stored = read_preprocessed(folder / CLIENTS).stored
    clients = {client: read_client(of_client) for client, of_client in stored.items()}
    sizes = {client: len(y) for client, (_, y) in clients.items()}
    x = next(iter(clients.values()))[0]
    model = build(settings.federate.model, x.shape[1:], 10, settings.seed)
    orders = []
    for round_num in range(1, settings.federate.rounds + 1):
        orders.append({})
        for sampled in schedule.sample(settings.federate.sampling, sizes, settings.seed, round_num):
            rng = schedule.client_rng(settings.seed, round_num, sampled)
            epochs = schedule.epochs(settings.federate.local_work, sampled, rng)
            orders[-1][sampled] = schedule.visits(sizes[sampled], epochs, rng)
    return Case(
        name=name,
        settings=dotted(settings.model_dump(mode="json")),
        shapes=[tuple(variable.shape) for variable in model.trainable_weights],
        data={c: (x.reshape(len(y), -1), y) for c, (x, y) in clients.items()},
        orders=orders,
        initial=flatten(model),
        ours=flat(tf.keras.models.load_model(folder / "models" / "global.h5", compile=False).trainable_weights),
    )


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description="Run our side of the comparison with public implementations.")
    parser.add_argument("file", type=Path, help="the .npz file to write")
    parser.add_argument("--only", default="", help="only cases whose names begin with this")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for step in (partition, preprocess):
            step(settings_of({}), folder)
        chosen = {name: changes for name, changes in CASES.items() if name.startswith(given.only)}
        write(given.file, [run(name, settings_of(changes), folder) for name, changes in chosen.items()])


if __name__ == "__main__":
    main()
