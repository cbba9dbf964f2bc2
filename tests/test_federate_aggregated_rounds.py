"""Whole runs of the step `federate` under every aggregator, against slow, obvious rounds in NumPy."""

import itertools
import math
from contextlib import nullcontext

import numpy as np
import oracle
import pytest
import tensorflow as tf
from scipy.optimize import minimize

from tasks.errors import SettingsError
from tasks.federate import federate
from tasks.federate.privacy import epsilon
from tasks.federate.schedule import client_rng, visits
from tasks.files import read_rows
from tasks.models import build
from tasks.parameters import flatten
from tasks.prune import prune
from tasks.settings import AggregatorSettings, ClientSettings, ServerOptimizerSettings
from tasks.settings.aggregator import PROTECTING

BASE = {
    "federate.model": "logistic",
    "federate.rounds": 5,
    "federate.client.batch_size": 4,
    "federate.client.learning_rate": 0.2,
    "seed": 3,
}


@pytest.fixture(scope="module")
def clients(make_clients):
    """Six clients; one sends updates many times as long as the others."""
    made = make_clients(sizes=(7, 4, 11, 5, 8, 6))
    x, y = made.data["03"]
    made.data["03"] = 20 * x, y
    return made


def load_params(folder):
    return flatten(tf.keras.models.load_model(folder / "models" / "global.h5", compile=False))


def aggregator_settings(kind, **chosen):
    return {f"federate.aggregator.{name}": value for name, value in {"kind": kind, **chosen}.items()}


def clip(updates, norm):
    return [u * min(1.0, norm / max(np.linalg.norm(u), norm)) for u in updates]


def slow_trimmed(updates, cut):
    return np.sort(np.stack(updates), axis=0)[cut : len(updates) - cut].mean(axis=0)


def slow_geometric_median(updates, weights):
    points = np.stack(updates)

    def objective(z):
        away = points - z
        length = np.linalg.norm(away, axis=1)
        return weights @ length, -(weights / np.maximum(length, 1e-12)) @ away

    start = weights @ points / weights.sum()
    return minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x


def slow_krum(updates, num_faulty, num_selected):
    num_closest = len(updates) - num_faulty - 2
    scores = [sum(sorted(np.sum((u - v) ** 2) for v in updates)[1 : num_closest + 1]) for u in updates]
    return np.mean([updates[k] for k in np.argsort(scores)[:num_selected]], axis=0)


def slow_compressed(updates, weights, bits):
    total = 0.0
    for u, w in zip(updates, weights, strict=True):
        low, level = (w * u).min(), w * (u.max() - u.min()) / (2**bits - 1)
        total = total + np.round((w * u - low) / level) * level + low
    return total / weights.sum()


class SlowAdaptive:
    """Clipping whose norm follows the median of the norms, from 0.3."""

    def __init__(self):
        self.norm = 0.3

    def __call__(self, updates, weights):
        result = weights @ np.stack(clip(updates, self.norm)) / weights.sum()
        below = np.mean([np.linalg.norm(u) <= self.norm for u in updates])
        self.norm *= math.exp(-0.2 * (below - 0.5))
        return result


class SlowZeroing:
    """Zeroing above 2x + 1. x begins at 10 and follows the 98 % quantile of the largest entries."""

    def __init__(self):
        self.x = 10.0

    def __call__(self, updates, weights):
        largest = np.array([np.abs(u).max() for u in updates])
        kept = [u if top <= 2 * self.x + 1 else 0 * u for u, top in zip(updates, largest, strict=True)]
        self.x *= 10 ** -(np.mean(largest <= self.x) - 0.98)
        return weights @ np.stack(clip(kept, 0.3)) / weights.sum()


# kind, its settings, (updates, weights) -> the combined update, and how close it must be. The difference is float32's
# rounding, with three exceptions: Weiszfeld's iteration ends at 1e-5 of the spread, the noise has an sd of 0.3e-6 / 6,
# and rounding to levels can tie.
CASES = {
    "median": ("median", {}, lambda: lambda u, w: np.median(u, axis=0), 1e-5),
    "trimmed mean": ("trimmed_mean", {"trim": 0.2}, lambda: lambda u, w: slow_trimmed(u, 1), 1e-5),
    "geometric median": ("geometric_median", {}, lambda: slow_geometric_median, 1e-3),
    "geometric median, one vote each": (
        "geometric_median",
        {"weighting": "uniform"},
        lambda: lambda u, w: slow_geometric_median(u, np.ones(6)),
        1e-3,
    ),
    "krum": ("krum", {"num_faulty": 1}, lambda: lambda u, w: slow_krum(u, 1, 1), 1e-5),
    "multi-krum": ("multi_krum", {"num_faulty": 1}, lambda: lambda u, w: slow_krum(u, 1, 5), 1e-5),
    "multi-krum of two": (
        "multi_krum",
        {"num_faulty": 1, "num_selected": 2},
        lambda: lambda u, w: slow_krum(u, 1, 2),
        1e-5,
    ),
    "clipped mean": (
        "clipped_mean",
        {"clip_norm": 0.3},
        lambda: lambda u, w: w @ np.stack(clip(u, 0.3)) / w.sum(),
        1e-5,
    ),
    "adaptively clipped mean": ("clipped_mean", {"clip_norm": 0.3, "clipping": "adaptive"}, SlowAdaptive, 1e-5),
    "private mean": (
        "dp_mean",
        {"clip_norm": 0.3, "noise_multiplier": 1e-6},
        lambda: lambda u, w: np.mean(clip(u, 0.3), axis=0),
        1e-5,
    ),
    "compressed mean": (
        "compressed_mean",
        {"quantization_bits": 5},
        lambda: lambda u, w: slow_compressed(u, w, 5),
        1e-5,
    ),
}


def reference_run(settings, clients, combine, logistic_reference):
    """The parameters after the rounds, with local SGD and the given rule in float64."""
    params = flatten(build("logistic", (3, 3, 1), 3, settings.seed)).astype(np.float64)
    weights = np.array([len(clients.data[client][1]) for client in clients.ids], np.float64)
    for t in range(1, settings.federate.rounds + 1):
        updates = []
        for client in clients.ids:
            x, y = clients.data[client]
            order = visits(len(y), 1, client_rng(settings.seed, t, client))
            local = settings.federate.client
            chosen = {"num_classes": 3, "batch_size": local.batch_size, "learning_rate": local.learning_rate}
            updates.append(logistic_reference(params, x, y, order, **chosen).params - params)
        params = params + combine(updates, weights)
    return params


@pytest.mark.parametrize("case", CASES)
def test_five_rounds_are_those_of_the_slow_reference(case, clients, settings_of, logistic_reference, tmp_path):
    kind, chosen, rule, atol = CASES[case]
    settings = settings_of({**BASE, **aggregator_settings(kind, **chosen)})
    expected = reference_run(settings, clients, rule(), logistic_reference)
    federate(settings, clients.write(tmp_path))
    np.testing.assert_allclose(load_params(tmp_path), expected, atol=atol)
    mean = reference_run(settings, clients, lambda u, w: w @ np.stack(u) / w.sum(), logistic_reference)
    assert np.abs(expected - mean).max() > 10 * atol


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_five_rounds_of_the_geometric_median_are_exact_where_steps_are_short(
    weighting, clients, settings_of, logistic_reference, tmp_path
):
    # Weiszfeld's iteration ends at 1e-5 of the updates' spread, and this spread is small for short updates.
    chosen = aggregator_settings("geometric_median", weighting=weighting)
    settings = settings_of({**BASE, **chosen, "federate.client.learning_rate": 0.01})

    def combine(updates, weights):
        # Scaled so that BFGS can resolve the minimum.
        weights = weights if weighting == "examples" else np.ones(6)
        return slow_geometric_median([100 * u for u in updates], weights) / 100

    expected = reference_run(settings, clients, combine, logistic_reference)
    federate(settings, clients.write(tmp_path))
    np.testing.assert_allclose(load_params(tmp_path), expected, atol=1e-5)
    mean = reference_run(settings, clients, lambda u, w: w @ np.stack(u) / w.sum(), logistic_reference)
    assert np.abs(expected - mean).max() > 1e-2


def test_five_rounds_of_zeroing_are_those_of_the_slow_reference(
    make_clients, settings_of, logistic_reference, tmp_path
):
    clients = make_clients(sizes=(7, 4, 11, 5, 8, 6))
    x, y = clients.data["03"]
    clients.data["03"] = 400 * x, y
    settings = settings_of({**BASE, **aggregator_settings("clipped_mean", clip_norm=0.3, zeroing=True)})
    zeroing = SlowZeroing()
    expected = reference_run(settings, clients, zeroing, logistic_reference)
    federate(settings, clients.write(tmp_path))
    np.testing.assert_allclose(load_params(tmp_path), expected, atol=1e-5)
    clipped = reference_run(settings, clients, lambda u, w: w @ np.stack(clip(u, 0.3)) / w.sum(), logistic_reference)
    assert np.abs(expected - clipped).max() > 1e-2
    assert zeroing.x > 10  # in every round one of six is above x: more than 2 %, so x grows


def test_clients_csv_says_whom_krum_chose(clients, settings_of, tmp_path):
    settings = settings_of({**BASE, **aggregator_settings("multi_krum", num_faulty=1, num_selected=2)})
    federate(settings, clients.write(tmp_path))
    rows = read_rows(tmp_path / "reports" / "clients.csv")
    for t in range(1, 6):
        influence = {row["client"]: row["influence"] for row in rows if row["round"] == str(t)}
        assert sorted(influence.values()) == ["0.0"] * 4 + ["0.5"] * 2
        assert influence["03"] == "0.0"
    assert {row["weight"] for row in rows} == {f"{1 / 6:.7g}"}


def test_a_client_that_fails_is_left_out_of_the_rule_and_has_no_influence(clients, settings_of, tmp_path):
    folder = clients.write(tmp_path)
    shard = folder / "data" / "clients" / "clients_002.npz"
    settings = settings_of({**BASE, "federate.rounds": 2, **aggregator_settings("geometric_median")})
    federate(settings, folder, lambda row, *_: shard.unlink(missing_ok=True))
    last = {row["client"]: row for row in read_rows(folder / "reports" / "clients.csv") if row["round"] == "2"}
    assert (last["02"]["influence"], last["02"]["finite"]) == ("", "False")
    assert sum(float(row["influence"]) for row in last.values() if row["influence"]) == pytest.approx(1, abs=1e-5)
    assert len(last) == 6


@pytest.mark.slow
def test_rounds_csv_says_what_epsilon_was_spent_in_training_and_pruning(clients, settings_of, tmp_path):
    private = aggregator_settings("dp_mean", noise_multiplier=3.0)
    short = {"federate.rounds": 2, "prune.rounds": 2, "prune.end_round": 2}
    settings = settings_of({**BASE, **short, **private})
    federate(settings, clients.write(tmp_path))
    prune(settings, tmp_path)
    spent = epsilon(settings, 6)
    rows = read_rows(tmp_path / "reports" / "rounds.csv")
    assert [row["phase"] for row in rows] == ["federate", "federate", "prune", "prune"]
    assert [float(row["epsilon"]) for row in rows] == pytest.approx([spent(t) for t in (1, 2, 3, 4)], rel=1e-6)


def test_without_privacy_there_is_no_epsilon(clients, settings_of, tmp_path):
    federate(settings_of({**BASE, "federate.rounds": 1}), clients.write(tmp_path))
    (row,) = read_rows(tmp_path / "reports" / "rounds.csv")
    assert row["epsilon"] == ""
    assert {row["influence"] for row in read_rows(tmp_path / "reports" / "clients.csv")} == {""}


@pytest.mark.parametrize(
    "chosen",
    [
        aggregator_settings("krum", num_faulty=2),
        aggregator_settings("trimmed_mean", trim=0.1),
        aggregator_settings("dp_mean", target_epsilon=1.0),
    ],
    ids=lambda chosen: chosen["federate.aggregator.kind"],
)
def test_what_cannot_work_with_these_clients_is_refused_before_anything_is_written(
    chosen, clients, settings_of, tmp_path
):
    folder = clients.write(tmp_path)
    with pytest.raises(SettingsError, match=r"^federate\.aggregator\.(num_faulty|trim|target_epsilon) [^\n]*$"):
        federate(settings_of({**BASE, **chosen}), folder)
    assert [path.name for path in folder.iterdir()] == ["data"]


def kinds(section):
    return section.model_fields["kind"].annotation.__args__


PAIRS = list(itertools.product(kinds(ClientSettings), kinds(AggregatorSettings)))


def client_settings(kind):
    # MimeLite needs a momentum.
    return {"federate.client.kind": kind, "federate.client.momentum": 0.5 if kind == "mimelite" else 0.0}


def is_refused(client, aggregator):
    return client not in ("sgd", "fedprox") and aggregator in PROTECTING


@pytest.mark.parametrize(("client", "aggregator"), [pair for pair in PAIRS if is_refused(*pair)])
def test_a_client_update_that_would_bypass_the_aggregator_is_refused(client, aggregator, settings_of):
    with pytest.raises(SettingsError) as caught:
        settings_of({**client_settings(client), "federate.aggregator.kind": aggregator})
    text = str(caught.value)
    assert text.startswith(f"federate.client.kind must be sgd or fedprox with aggregator.kind {aggregator}, because ")
    assert ("its number of steps" if client == "fednova" else "its vector") in text
    assert text.endswith(f"got {client}")
    assert "\n" not in text


@pytest.mark.slow
@pytest.mark.parametrize(("client", "aggregator"), [pair for pair in PAIRS if not is_refused(*pair)])
@pytest.mark.parametrize("server", kinds(ServerOptimizerSettings))
def test_every_other_pair_trains_with_every_server_optimizer(
    client, aggregator, server, make_clients, settings_of, tmp_path
):
    chosen = {**client_settings(client), "federate.aggregator.kind": aggregator}
    rate = {"adagrad": 0.1, "adam": 0.05, "yogi": 0.05}.get(server, 1.0)
    optimizer = {"federate.server_optimizer.kind": server, "federate.server_optimizer.learning_rate": rate}
    settings = settings_of({**BASE, "federate.rounds": 2, **chosen, **optimizer})
    federate(settings, make_clients(sizes=(7, 4, 11, 5, 8)).write(tmp_path))
    start = flatten(build("logistic", (3, 3, 1), 3, settings.seed))
    moved = load_params(tmp_path) - start
    assert np.isfinite(moved).all()
    assert np.abs(moved).max() > 1e-3
    assert {row["num_failed"] for row in read_rows(tmp_path / "reports" / "rounds.csv")} == {"0"}


ORACLE = {
    "median": {},
    "multi_krum": {},
    "clipped_mean": {"clipping": "adaptive", "zeroing": True},
    "dp_mean": {"noise_multiplier": 1e-7},
    "compressed_mean": {"quantization_bits": 16},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ORACLE)
def test_numbers_are_those_of_tffs_own_runtime(kind, clients, settings_of, tmp_path):
    found = []
    for name, runs in (("ours", nullcontext()), ("oracle", oracle.asked())):
        folder = clients.write(tmp_path / name)
        with runs:
            federate(settings_of({**BASE, "federate.rounds": 3, **aggregator_settings(kind, **ORACLE[kind])}), folder)
        found.append(load_params(folder))
    np.testing.assert_allclose(found[1], found[0], atol=1e-4 if kind == "compressed_mean" else 1e-5)
