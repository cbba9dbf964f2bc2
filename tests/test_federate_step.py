import csv
import importlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import oracle
import pytest
import tensorflow as tf
import yaml

from tasks.clients import TEST
from tasks.errors import SettingsError
from tasks.federate import federate
from tasks.federate.checkpoint import Checkpoints
from tasks.federate.loop import ignore
from tasks.federate.run_log import RunLog
from tasks.federate.schedule import client_rng, epochs, learning_rate_factor, sample, visits
from tasks.files import read_json, read_rows
from tasks.models import build
from tasks.parameters import flatten
from tasks.round_log.columns import CLIENT_COLUMNS, ROUND_COLUMNS

ROOT = Path(__file__).parents[1]
OUTPUTS = ("models/global.h5", "reports/federate/rounds.csv", "reports/federate/clients.csv")

# All that can differ between two runs: draws, moments of the server, augmentation, rounds without validation.
BASE = {
    "federate.model": "logistic",
    "federate.rounds": 9,
    "federate.checkpoint_every": 4,
    "federate.evaluate_every": 2,
    "federate.client.batch_size": 4,
    "federate.client.momentum": 0.5,
    "federate.client.schedule.kind": "cosine",
    "federate.sampling.kind": "uniform",
    "federate.sampling.clients_per_round": 3,
    "federate.local_work.kind": "range",
    "federate.local_work.high": 3,
    "federate.server_optimizer.kind": "momentum",
    "preprocess.augment.brightness": 0.2,
}


def outputs(folder):
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def load_params(folder):
    return flatten(tf.keras.models.load_model(folder / "models" / "global.h5", compile=False))


def number(cell):
    return float(cell) if cell else None


@pytest.fixture(scope="module")
def clients(make_clients):
    return make_clients()


@pytest.fixture(scope="module")
def plain_run(clients, settings_of, tmp_path_factory):
    """A run that nothing interrupted."""
    folder = clients.write(tmp_path_factory.mktemp("plain"))
    federate(settings_of(BASE), folder)
    return folder


# Whole runs against a slow reference.


def reference_run(settings, clients, params, logistic_reference):
    """FedAvg(M) of logistic regression in NumPy: the parameters at the end, and per round its clients' rows."""
    chosen, local, server = settings.federate, settings.federate.client, settings.federate.server_optimizer
    sizes = {client: len(clients.data[client][1]) for client in clients.ids}
    params, velocity, log = params.astype(np.float64), 0.0, []
    for t in range(1, chosen.rounds + 1):
        rows = {}
        for client in sample(chosen.sampling, sizes, settings.seed, t):
            x, y = clients.data[client]
            rng = client_rng(settings.seed, t, client)
            num_epochs = epochs(chosen.local_work, client, rng)
            result = logistic_reference(
                params,
                x,
                y,
                visits(len(y), num_epochs, rng),
                num_classes=clients.num_classes,
                batch_size=local.batch_size,
                learning_rate=local.learning_rate * learning_rate_factor(local.schedule, t, chosen.rounds),
                momentum=local.momentum,
                weight_decay=local.weight_decay,
            )
            weight = {"examples": len(y), "uniform": 1, "inverse_variance": 1 / np.var(x.astype(np.float64))}
            rows[client] = (weight[chosen.aggregator.weighting], result, result.params - params)
        total = sum(weight for weight, _, _ in rows.values())
        update = sum(weight * delta for weight, _, delta in rows.values()) / total
        velocity = (server.momentum * velocity if server.kind == "momentum" else 0.0) + update
        before, params = params, params + server.learning_rate * velocity
        log.append((total, rows, update, np.linalg.norm(params - before)))
    return params, log


CASES = {
    "FedAvg": {},
    "batches larger than the data": {"federate.client.batch_size": 50, "federate.local_work.epochs": 2},
    "momentum, weight decay, several epochs, schedule": {
        "federate.local_work.epochs": 3,
        "federate.client.momentum": 0.9,
        "federate.client.weight_decay": 0.05,
        "federate.client.schedule.kind": "step",
        "federate.client.schedule.every": 2,
        "federate.client.schedule.decay": 0.3,
    },
    "some clients, uneven work, equal weights": {
        "federate.local_work.kind": "per_client",
        "federate.local_work.by_client": {"02": 4, "00": 2},
        "federate.sampling.kind": "uniform",
        "federate.sampling.clients_per_round": 2,
        "federate.aggregator.weighting": "uniform",
    },
    "FedAvgM, random work, by examples, inverse variance": {
        "federate.local_work.kind": "range",
        "federate.local_work.high": 3,
        "federate.server_optimizer.kind": "momentum",
        "federate.server_optimizer.learning_rate": 0.8,
        "federate.sampling.kind": "by_examples",
        "federate.sampling.clients_per_round": 3,
        "federate.aggregator.weighting": "inverse_variance",
    },
}


@pytest.mark.parametrize("case", CASES)
def test_rounds_are_those_of_the_slow_reference(case, clients, settings_of, logistic_reference, tmp_path):
    dotted = {"federate.model": "logistic", "federate.rounds": 4, "federate.client.batch_size": 4, "seed": 7}
    settings = settings_of({**dotted, "federate.client.learning_rate": 0.3, **CASES[case]})
    start = flatten(build("logistic", (3, 3, 1), 3, seed=7))
    expected, log = reference_run(settings, clients, start, logistic_reference)
    federate(settings, clients.write(tmp_path))

    np.testing.assert_allclose(load_params(tmp_path), expected, atol=1e-5)
    assert np.abs(expected - start).max() > 0.01
    rounds = read_rows(tmp_path / "reports" / "federate" / "rounds.csv")
    rows = iter(read_rows(tmp_path / "reports" / "federate" / "clients.csv"))
    for t, (line, (total, clients_of_round, update, moved)) in enumerate(zip(rounds, log, strict=True), start=1):
        drift, train_loss, local_loss = 0.0, 0.0, 0.0
        for client, (weight, result, delta) in clients_of_round.items():
            row = next(rows)
            assert (row["round"], row["client"], row["finite"], row["failure"]) == (str(t), client, "True", "")
            assert int(row["num_examples"]) == len(clients.data[client][1])
            assert int(row["num_steps"]) == result.num_steps
            assert number(row["weight"]) == pytest.approx(weight / total, rel=1e-5)
            for name in ("loss_before", "loss_after", "loss_mean"):
                assert number(row[name]) == pytest.approx(getattr(result, name), abs=1e-5)
            norm = np.linalg.norm(delta)
            assert number(row["update_norm"]) == pytest.approx(norm, abs=1e-5)
            cosine = delta @ update / norm / np.linalg.norm(update)
            assert number(row["update_cosine"]) == pytest.approx(cosine, abs=1e-4)
            assert number(row["distance"]) == pytest.approx(np.linalg.norm(delta - update), abs=1e-5)
            drift += weight / total * np.linalg.norm(delta - update) ** 2
            train_loss += weight / total * result.loss_before
            local_loss += weight / total * result.loss_mean
        assert (line["round"], line["phase"]) == (str(t), "federate")
        assert (int(line["num_clients"]), int(line["num_failed"])) == (len(clients_of_round), 0)
        assert number(line["drift"]) == pytest.approx(np.sqrt(drift), abs=1e-5)
        assert number(line["train_loss"]) == pytest.approx(train_loss, abs=1e-5)
        assert number(line["local_loss"]) == pytest.approx(local_loss, abs=1e-5)
        assert number(line["server_update_norm"]) == pytest.approx(moved, abs=1e-5)
        assert number(line["sparsity"]) == 0
    assert next(rows, None) is None


# What the step leaves behind.


def test_outputs_have_the_columns_of_the_contract(plain_run):
    for name, columns in (("rounds.csv", ROUND_COLUMNS), ("clients.csv", CLIENT_COLUMNS)):
        path = plain_run / "reports" / "federate" / name
        with path.open(newline="") as opened:
            assert tuple(next(csv.reader(opened))) == columns
        assert path.read_bytes() == (plain_run / "reports" / name).read_bytes()
    assert not list(plain_run.glob("*/.*"))  # no temporary folder is left


def test_validation_stands_in_the_rounds_that_were_evaluated(plain_run, clients):
    rows = read_rows(plain_run / "reports" / "federate" / "rounds.csv")
    # Every second round, and the last, the ninth.
    evaluated = [int(row["round"]) for row in rows if row["val_loss"]]
    assert evaluated == [int(row["round"]) for row in rows if row["val_accuracy"]] == [2, 4, 6, 8, 9]
    x, y = clients.data[TEST]
    logits = tf.keras.models.load_model(plain_run / "models" / "global.h5", compile=False)(x).numpy().astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert number(rows[-1]["val_loss"]) == pytest.approx(-log_p[np.arange(len(y)), y].mean(), rel=1e-5)
    assert number(rows[-1]["val_accuracy"]) == pytest.approx(np.mean(logits.argmax(axis=1) == y), rel=1e-6)


def test_clients_stand_in_the_order_of_their_ids(plain_run):
    rows = read_rows(plain_run / "reports" / "federate" / "clients.csv")
    keys = [(int(row["round"]), row["client"]) for row in rows]
    assert keys == sorted(set(keys))
    assert len(rows) == 9 * 3


def test_saved_model_gives_logits_in_plain_keras(plain_run):
    model = tf.keras.models.load_model(plain_run / "models" / "global.h5", compile=False)
    assert model.output_shape == (None, 3)
    assert model.layers[-1].activation is tf.keras.activations.linear


def test_watch_gets_every_row_of_rounds_csv_at_once(clients, settings_of, tmp_path):
    seen = []
    federate(settings_of({**BASE, "federate.rounds": 2}), clients.write(tmp_path), lambda row, *_: seen.append(row))
    assert [row["round"] for row in seen] == [1, 2]
    written = read_rows(tmp_path / "reports" / "rounds.csv")
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in seen] == written


def test_unknown_client_in_local_work_is_refused_before_anything_is_written(clients, settings_of, tmp_path):
    dotted = {"federate.local_work.kind": "per_client", "federate.local_work.by_client": {"99": 2}}
    with pytest.raises(SettingsError, match="by_client names 99"):
        federate(settings_of(dotted), clients.write(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


# The same seed, the same bytes.


def test_two_runs_of_one_seed_give_the_same_bytes(plain_run, clients, settings_of, tmp_path):
    # Another folder with other files in it, another number of threads, and a process that has made models before.
    (tmp_path / "unrelated").mkdir()
    federate(settings_of({**BASE, "federate.runtime.threads": 1}), clients.write(tmp_path / "other"))
    assert outputs(tmp_path / "other") == outputs(plain_run)


def test_another_seed_gives_another_run(plain_run, clients, settings_of, tmp_path):
    federate(settings_of({**BASE, "seed": 1}), clients.write(tmp_path))
    assert all(outputs(tmp_path)[name] != outputs(plain_run)[name] for name in OUTPUTS)


def test_work_of_one_client_changes_no_draw_of_another(clients, settings_of, tmp_path):
    rows = {}
    for name, by_client in (("one", {}), ("other", {"01": 5})):
        dotted = {
            "federate.model": "logistic",
            "federate.rounds": 1,
            "federate.local_work.kind": "per_client",
            "federate.local_work.by_client": by_client,
            "preprocess.augment.flip": True,
        }
        federate(settings_of(dotted), clients.write(tmp_path / name))
        rows[name] = read_rows(tmp_path / name / "reports" / "clients.csv")
    for one, other in zip(rows["one"], rows["other"], strict=True):
        same = [one[name] == other[name] for name in ("loss_before", "loss_after", "loss_mean", "update_norm")]
        assert all(same) == (one["client"] != "01")


def test_augmentation_changes_what_a_client_trains_on(plain_run, clients, settings_of, tmp_path):
    federate(settings_of({**BASE, "preprocess.augment.brightness": 0.0}), clients.write(tmp_path))
    rows = [read_rows(folder / "reports" / "clients.csv") for folder in (plain_run, tmp_path)]
    assert all(one["loss_before"] != other["loss_before"] for one, other in zip(*rows, strict=True))


ALGORITHMS = {
    "sgd": {},
    **{f"client {kind}": {"federate.client.kind": kind} for kind in ("fedprox", "scaffold", "fednova", "feddyn")},
    "client mimelite": {"federate.client.kind": "mimelite", "federate.client.momentum": 0.5},
    **{f"aggregator {kind}": {"federate.aggregator.kind": kind} for kind in ("median", "compressed_mean")},
    "aggregator clipped_mean": {
        "federate.aggregator.kind": "clipped_mean",
        "federate.aggregator.clipping": "adaptive",
        "federate.aggregator.clip_norm": 0.1,
    },
    "width": {"federate.model": "mlp", "federate.width": {"01": 0.5}},
    "power of choice": {
        "federate.sampling.kind": "power_of_choice",
        "federate.sampling.clients_per_round": 2,
        "federate.sampling.candidates": 3,
    },
}


# The others differ from one of these in what the clients compute, which the slow references test.
QUICK = {"sgd", "client scaffold", "aggregator clipped_mean", "width"}


@pytest.mark.parametrize(
    "algorithm", [pytest.param(each, marks=[pytest.mark.slow] * (each not in QUICK)) for each in ALGORITHMS]
)
def test_numbers_are_those_of_tffs_own_runtime(algorithm, clients, settings_of, tmp_path):
    found, settings = {}, settings_of({**BASE, "federate.rounds": 3, **ALGORITHMS[algorithm]})
    for name, runs in (("ours", nullcontext()), ("oracle", oracle.asked())):
        folder = clients.write(tmp_path / name)
        with runs:
            federate(settings, folder)
        found[name] = load_params(folder), read_rows(folder / "reports" / "rounds.csv")
    np.testing.assert_allclose(found["oracle"][0], found["ours"][0], atol=1e-6)
    for one, other in zip(found["oracle"][1], found["ours"][1], strict=True):
        assert number(one["train_loss"]) == pytest.approx(number(other["train_loss"]), rel=1e-5)
        assert number(one["drift"]) == pytest.approx(number(other["drift"]), rel=1e-4)


# A killed run goes on.


class Cut(BaseException):
    """Ends a run from inside."""


def cut_after(round_num):
    def watch(row, *_):
        if row["round"] == round_num:
            raise Cut

    return watch


def cut_append(monkeypatch):
    """Ends the run when half of the line of round 6 is on disk."""
    append = RunLog.append

    def cut(self, line):
        if line["round"] == 6:
            self._file.write(b'{"round": 6, "row": {"tra')
            self._file.flush()
            raise Cut
        append(self, line)

    monkeypatch.setattr(RunLog, "append", cut)


def cut_save(monkeypatch):
    """Ends the run after the line of round 8 and before its checkpoint."""
    save = Checkpoints.save

    def cut(self, round_num, state):
        if round_num == 8:
            raise Cut
        save(self, round_num, state)

    monkeypatch.setattr(Checkpoints, "save", cut)


CUTS = {"in a line": cut_append, "before a checkpoint": cut_save}


@pytest.mark.parametrize(
    ("place", "after"),
    [
        ("round 3", None),
        ("round 4", 4),
        pytest.param("round 9", 9, marks=pytest.mark.slow),
        ("in a line", 4),
        ("before a checkpoint", 4),
    ],
)
def test_interrupted_run_ends_with_the_same_bytes(
    place, after, plain_run, clients, settings_of, tmp_path, monkeypatch, caplog
):
    clients.write(tmp_path)
    watch = cut_after(int(place.removeprefix("round "))) if place.startswith("round") else ignore
    with monkeypatch.context() as patched:
        CUTS.get(place, lambda _: None)(patched)
        with pytest.raises(Cut):
            federate(settings_of(BASE), tmp_path, watch)
    assert not (tmp_path / "models" / "global.h5").exists()
    # The rounds before the cut can be diagnosed.
    done = read_rows(tmp_path / "reports" / "federate" / "rounds.csv")
    assert done == read_rows(plain_run / "reports" / "federate" / "rounds.csv")[: len(done)]
    with caplog.at_level(logging.INFO, "tasks.federate"):
        federate(settings_of(BASE), tmp_path)
    assert outputs(tmp_path) == outputs(plain_run)
    assert ([f"goes on after round {after}," in message for message in caplog.messages].count(True) == 1) == bool(after)


@pytest.mark.slow
def test_run_that_is_interrupted_again_and_again_ends_with_the_same_bytes(plain_run, clients, settings_of, tmp_path):
    clients.write(tmp_path)
    for round_num in (2, 5, 8):
        with pytest.raises(Cut):
            federate(settings_of(BASE), tmp_path, cut_after(round_num))
    federate(settings_of(BASE), tmp_path)
    assert outputs(tmp_path) == outputs(plain_run)


def test_changed_settings_start_afresh(clients, settings_of, tmp_path, caplog):
    changed = settings_of({**BASE, "federate.client.learning_rate": 0.01})
    with pytest.raises(Cut):
        federate(settings_of(BASE), clients.write(tmp_path / "cut"), cut_after(6))
    with caplog.at_level(logging.INFO, "tasks.federate"):
        federate(changed, tmp_path / "cut")
    assert not any("goes on" in message for message in caplog.messages)
    federate(changed, clients.write(tmp_path / "whole"))
    assert outputs(tmp_path / "cut") == outputs(tmp_path / "whole")


def test_changed_data_starts_afresh(clients, make_clients, settings_of, tmp_path, caplog):
    with pytest.raises(Cut):
        federate(settings_of(BASE), clients.write(tmp_path), cut_after(6))
    make_clients(seed=5).write(tmp_path)
    with caplog.at_level(logging.INFO, "tasks.federate"):
        federate(settings_of(BASE), tmp_path)
    assert not any("goes on" in message for message in caplog.messages)


def test_changed_code_starts_afresh(clients, settings_of, tmp_path, monkeypatch, caplog):
    """One digest covers the versions of the packages and our files, so another version is enough for this test."""
    with pytest.raises(Cut):
        federate(settings_of(BASE), clients.write(tmp_path), cut_after(6))
    monkeypatch.setattr(tf, "__version__", "2.99")
    with caplog.at_level(logging.INFO, "tasks.federate"):
        federate(settings_of(BASE), tmp_path)
    assert not any("goes on" in message for message in caplog.messages)
    assert sum("federate begins again: its checkpoints belong to other" in message for message in caplog.messages) == 1


def test_changed_architecture_of_the_same_shapes_starts_afresh(clients, settings_of, tmp_path, monkeypatch, caplog):
    module = """
from tensorflow.keras import Sequential, layers

def model(input_shape, num_classes):
    return Sequential([layers.Flatten(), layers.Dense(4, activation="ACTIVATION"), layers.Dense(num_classes)])
"""
    monkeypatch.syspath_prepend(tmp_path)
    clients.write(tmp_path)
    settings = settings_of({**BASE, "federate.model": "changing_model:model"})
    for activation, watch, ends in (("relu", cut_after(5), pytest.raises(Cut)), ("tanh", ignore, nullcontext())):
        (tmp_path / "changing_model.py").write_text(module.replace("ACTIVATION", activation))
        monkeypatch.delitem(sys.modules, "changing_model", raising=False)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        with caplog.at_level(logging.INFO, "tasks.federate"), ends:
            federate(settings, tmp_path, watch)
    assert not any("goes on" in message for message in caplog.messages)


def test_finished_run_starts_afresh(plain_run, settings_of, tmp_path, caplog):
    shutil.copytree(plain_run, tmp_path, dirs_exist_ok=True)
    seen = []
    with caplog.at_level(logging.INFO, "tasks.federate"):
        federate(settings_of(BASE), tmp_path, lambda row, *_: seen.append(row["round"]))
    assert seen == list(range(1, 10))
    assert not any("goes on" in message for message in caplog.messages)
    assert outputs(tmp_path) == outputs(plain_run)


@pytest.mark.slow
def test_run_killed_with_sigkill_ends_with_the_same_bytes(clients, settings_of, tmp_path, caplog):
    settings = settings_of({**BASE, "federate.rounds": 300, "federate.checkpoint_every": 7})
    killed = clients.write(tmp_path / "killed")
    raw = settings.model_dump(mode="json", exclude={"data", "partition", "evaluate", "diagnose", "track"})
    (killed / "params.yaml").write_text(yaml.safe_dump(raw))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks", "federate"],
        cwd=killed,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoints = killed / "models" / "checkpoints" / "federate"
    try:
        until = time.monotonic() + 90
        while not (checkpoints / "round_00035.npz").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert read_json(checkpoints / "run.json")["finished"] is False
    assert not (killed / "models" / "global.h5").exists()

    with caplog.at_level(logging.INFO, "tasks.federate"):
        federate(settings, killed)
    assert any("goes on after round" in message for message in caplog.messages)
    federate(settings, clients.write(tmp_path / "whole"))
    assert outputs(killed) == outputs(tmp_path / "whole")


_ON_CORES = """
import hashlib, os, sys
os.sched_setaffinity(0, range(int(sys.argv[1])))
from pathlib import Path
from tasks.federate import federate
from tasks.settings import parse
folder = Path(sys.argv[2])
federate(parse({"federate": {"model": "cnn", "rounds": 2}}), folder)
print(hashlib.sha256((folder / "models" / "global.h5").read_bytes()).hexdigest())
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_convolutions_have_the_same_bits_on_one_core_and_on_two(make_clients, tmp_path):
    clients = make_clients(sizes=(40,) * 9, shape=(28, 28, 1))  # two blocks of clients
    runs = {cores: [sys.executable, "-c", _ON_CORES, cores, str(clients.write(tmp_path / cores))] for cores in "12"}
    with ThreadPoolExecutor() as both:
        done = both.map(partial(subprocess.run, capture_output=True, text=True, check=True), runs.values())
    assert len({each.stdout.split()[-1] for each in done}) == 1
