import functools
import logging
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import replace
from typing import get_args

import numpy as np
import oracle
import pytest
import tensorflow as tf

from tasks.clients import CLIENTS
from tasks.errors import GuardStop, SettingsError
from tasks.federate import federate
from tasks.federate.client_updates import CLIENT_UPDATES
from tasks.files import read_rows
from tasks.local import faults
from tasks.local.architecture import Architecture
from tasks.local.descent import LocalTraining
from tasks.local.update import build_local_update, build_measure, client_type
from tasks.models import build
from tasks.parameters import flatten
from tasks.settings import AggregatorSettings, ClientKind, ClientSettings, FaultKind, FaultSettings
from tests.shards import write_client

OUTPUTS = ("models/global.h5", "reports/federate/rounds.csv", "reports/federate/clients.csv")
KINDS = [kind for kind in get_args(FaultKind) if kind not in ("none", "absent")]
"""The faults of clients that train; test_federate_absent.py has the others."""
BASE = {
    "federate.model": "logistic",
    "federate.rounds": 4,
    "federate.client.batch_size": 4,
    "federate.client.momentum": 0.5,
    "federate.local_work.kind": "range",
    "federate.local_work.high": 3,
    "federate.server_optimizer.kind": "momentum",
}


def faulty(kind, *clients, from_round=1):
    return {
        "federate.faults.kind": kind,
        "federate.faults.clients": list(clients),
        "federate.faults.from_round": from_round,
    }


def outputs(folder):
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def reports(folder):
    return [read_rows(folder / "reports" / f"{name}.csv") for name in ("rounds", "clients")]


def load_params(folder):
    return flatten(tf.keras.models.load_model(folder / "models" / "global.h5", compile=False))


def row_of(rows, round_num, client):
    (row,) = (row for row in rows if (row["round"], row["client"]) == (str(round_num), client))
    return row


@pytest.fixture(scope="module")
def clients(make_clients):
    # Five clients, because Krum needs 2f + 3.
    return make_clients(sizes=(7, 4, 11, 5, 6))


@pytest.fixture(scope="module")
def honest_run(clients, settings_of, tmp_path_factory):
    folder = clients.write(tmp_path_factory.mktemp("honest"))
    federate(settings_of(BASE), folder)
    return folder


# The inputs of a client.


def test_nothing_is_told_where_nothing_is_simulated():
    training = LocalTraining((2,), 3, 9, 4, CLIENT_UPDATES["sgd"](ClientSettings()))
    assert faults.inputs(FaultSettings(), 0, 1, "00") == {}
    assert "faulty" not in dir(client_type(training))
    drill = replace(training, faults=FaultSettings(kind="not_finite", clients=("00",)))
    assert "faulty" in dir(client_type(drill))


def test_only_the_named_are_faulty_and_from_their_round_on_for_ever():
    settings = FaultSettings(kind="scaled_update", clients=("b",), from_round=3)
    told = {client: [faults.inputs(settings, 0, t, client)["faulty"] for t in (1, 2, 3, 4, 40)] for client in "ab"}
    assert told == {"a": [False] * 5, "b": [False, False, True, True, True]}


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_is_faulty_after_the_last_round_of_the_fault(kind):
    settings = FaultSettings(kind=kind, clients=("b",), from_round=3, until_round=4)
    told = [bool(faults.inputs(settings, 0, t, "b")["faulty"]) for t in (1, 2, 3, 4, 5, 40)]
    assert told == [False, False, True, True, False, False]
    assert [faults.acts(settings, t) for t in (1, 2, 3, 4, 5, 40)] == told


def test_graph_does_not_depend_on_who_is_faulty_and_when():
    some = FaultSettings(kind="scaled_update", clients=("b",), factor=3.0)
    others = some.model_copy(update={"clients": ("a", "b"), "from_round": 3, "until_round": 4})
    assert faults.of_graph(some) == faults.of_graph(others) != faults.of_graph(FaultSettings())
    assert faults.of_graph(FaultSettings(kind="absent", clients=("b",))) == faults.of_graph(FaultSettings())


@pytest.mark.parametrize("kind", ["flipped_labels", "noisy_features"])
def test_data_are_those_of_the_round(kind):
    settings = FaultSettings(kind=kind, clients=("b",), from_round=3, until_round=4)

    def seen(client, round_num):
        return faults.with_fault(settings, 0, round_num, client, (X, Y), CLASSES)

    for key in (("b", 2), ("b", 5), ("a", 3)):
        for found, own in zip(seen(*key), (X, Y), strict=True):
            np.testing.assert_array_equal(found, own)
    changed = [not np.array_equal(found, own) for found, own in zip(seen("b", 4), (X, Y), strict=True)]
    assert changed == [kind == "noisy_features", kind == "flipped_labels"]
    for found, other in zip(seen("b", 3), seen("b", 4), strict=True):
        np.testing.assert_array_equal(found, other)


def test_noise_has_one_seed_for_a_client_in_all_rounds_of_a_run():
    settings = FaultSettings(kind="noisy_features", clients=("a", "b"))
    seeds = [
        tuple(faults.inputs(settings, *key)["noise_seed"])
        for key in ((0, 1, "a"), (0, 2, "a"), (0, 1, "b"), (1, 1, "a"))
    ]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3


# One client with a fault: multinomial logistic regression, DIM features.

DIM, CLASSES = 6, 3
SIZE = DIM * CLASSES + CLASSES
PARAMS = np.random.default_rng(1).normal(size=SIZE).astype(np.float32)
X = np.random.default_rng(2).normal(size=(7, DIM)).astype(np.float32)
Y = np.array([0, 1, 2, 2, 0, 1, 0], np.int32)


def linear(params, x, seed):
    return x @ params[0] + params[1], 0.0


@functools.cache
def local_training(kind, drill=None):
    algorithm = CLIENT_UPDATES[kind](ClientSettings(kind=kind, momentum=0.5 if kind == "mimelite" else 0.0))
    return LocalTraining((DIM,), CLASSES, SIZE, 7, algorithm, faults=drill or FaultSettings())


@pytest.fixture
def train(client_input, one_thread):
    """Runs one round of a client with X, Y. `faulty` None: no fault is simulated."""

    def run(training, x=X, y=Y, order=tuple(range(7)), mask=None, params=PARAMS, faulty=None, **changes):
        told = {} if faulty is None else {"faulty": np.bool_(faulty)}
        num_public = 0 if training.public is None else len(training.public[1])
        kept = {"kept": np.linspace(-1, 1, SIZE, dtype=np.float32)} if training.algorithm.kept else {}
        client = client_input(x, y, order, **told, **changes, **kept)
        client["num_examples"] = np.int32(len(y) + num_public)
        broadcast = OrderedDict(params=params)
        if mask is not None:
            broadcast["mask"] = mask
        if training.algorithm.shared:
            broadcast["shared"] = np.linspace(1, -1, SIZE, dtype=np.float32)
        architecture = Architecture(linear, ((DIM, CLASSES), (CLASSES,)))
        with one_thread():
            return build_local_update([architecture], training, mask is not None)(client, broadcast)

    return run


@pytest.mark.parametrize(("kind", "factor"), [("scaled_update", 2.5), ("reversed_update", -2.5)])
def test_sent_update_is_the_honest_one_times_the_factor(kind, factor, train, logistic_reference):
    training = local_training("sgd", FaultSettings(kind=kind, clients=("a",), factor=2.5))
    found, honest = train(training, faulty=True), train(training, faulty=False)
    # One step of all examples: −η ∇F, times the factor.
    kwargs = {"num_classes": CLASSES, "batch_size": 7, "learning_rate": 0.1}
    step = logistic_reference(PARAMS, X, Y, list(range(7)), **kwargs).params - PARAMS
    np.testing.assert_allclose(found["update"], factor * step, atol=1e-6)
    np.testing.assert_array_equal(found["update"], np.float32(factor) * honest["update"])
    for name in ("loss_before", "loss_after", "loss_mean", "weight", "num_steps", "finite"):
        assert found[name] == honest[name]


def test_honest_client_of_a_rehearsal_computes_what_it_does_without_one(train):
    plain = train(local_training("sgd"))
    for kind in KINDS:
        told = {"noise_seed": np.array([1, 2], np.int32)} if kind == "noisy_features" else {}
        result = train(local_training("sgd", FaultSettings(kind=kind, clients=("a",))), faulty=False, **told)
        np.testing.assert_array_equal(result["update"], plain["update"], err_msg=kind)


@pytest.mark.parametrize("client_kind", get_args(ClientKind))
def test_every_client_update_sends_its_reversed_update_and_its_vector_as_it_is(client_kind, train):
    order = (*range(7), *range(7))
    plain = train(local_training(client_kind), order=order)
    drill = FaultSettings(kind="reversed_update", clients=("a",), factor=8.0)
    found = train(local_training(client_kind, drill), order=order, faulty=True)
    # The factor is a power of two, so FedNova's division by its two steps rounds the same with and without it.
    np.testing.assert_array_equal(found["update"], -8 * plain["update"])
    assert np.any(plain["update"] != 0)
    if "kept" in plain:
        np.testing.assert_array_equal(found["kept"], plain["kept"])
    for name in plain["summands"]:
        np.testing.assert_array_equal(found["summands"][name], plain["summands"][name])


@pytest.mark.parametrize("client_kind", ["scaffold", "feddyn", "mimelite"])
def test_vectors_are_those_of_the_faulty_data(client_kind, train):
    training = local_training(client_kind, FaultSettings(kind="flipped_labels", clients=("a",)))
    found, by_hand = train(training, faulty=True), train(local_training(client_kind), y=CLASSES - 1 - Y)
    for name in ("update", "loss_mean"):
        np.testing.assert_array_equal(found[name], by_hand[name])
    np.testing.assert_array_equal(found["summands"]["message"], by_hand["summands"]["message"])
    assert np.any(found["summands"]["message"] != train(training, faulty=False)["summands"]["message"])


def test_scaled_update_leaves_pruned_parameters_at_zero(train):
    mask = (np.arange(SIZE) % 2).astype(np.float32)
    training = local_training("sgd", FaultSettings(kind="scaled_update", clients=("a",)))
    update = train(training, mask=mask, params=PARAMS * mask, faulty=True)["update"]
    assert np.all(update[mask == 0] == 0)
    assert np.all(update[mask == 1] != 0)


def test_one_nan_makes_the_update_count_nothing(train):
    result = train(local_training("sgd", FaultSettings(kind="not_finite", clients=("a",))), faulty=True)
    assert not result["finite"]
    assert result["weight"] == 0
    assert np.all(result["update"] == 0)
    assert np.isfinite(result["loss_mean"])


def test_public_examples_keep_their_labels(train):
    public_x, public_y = X[:2] + 1, np.array([0, 2], np.int32)
    drill = FaultSettings(kind="flipped_labels", clients=("a",))
    training = replace(local_training("sgd", drill), public=(public_x, public_y))
    found = train(training, faulty=True, order=range(9))
    # flipped_labels swaps 0 and 2, but not in the public examples.
    x, y = np.concatenate([X, public_x]), np.append(2 - Y, public_y).astype(np.int32)
    by_hand = train(local_training("sgd"), x=x, y=y, order=range(9))
    np.testing.assert_array_equal(found["update"], by_hand["update"])


def test_noise_has_mean_and_sd_of_the_features_and_nothing_else_of_them():
    x = np.random.default_rng(0).gamma(2.0, 3.0, (500, 40)).astype(np.float32)
    client = {"faulty": tf.constant(True), "noise_seed": tf.constant([3, 4])}
    settings = FaultSettings(kind="noisy_features", clients=("a",))
    y = tf.zeros(500, tf.int32)
    noise, labels = faults.faulty_examples(settings, client, tf.constant(x), y, 2)
    noise = noise.numpy().astype(np.float64).ravel()
    # n = 20,000. Five standard errors: of the mean sd/√n, of the sd sd/√(2n), of a correlation 1/√n.
    assert noise.mean() == pytest.approx(x.mean(), abs=5 * x.std() / 20000**0.5)
    assert noise.std() == pytest.approx(x.std(), abs=5 * x.std() / 40000**0.5)
    assert abs(np.corrcoef(noise, x.ravel())[0, 1]) < 5 / 20000**0.5
    skewness = np.mean(((noise - noise.mean()) / noise.std()) ** 3)  # Gaussian: 0 ± √(6/n); this Gamma's: √2
    assert abs(skewness) < 5 * (6 / 20000) ** 0.5
    np.testing.assert_array_equal(labels, y)


def test_loss_that_a_client_measures_is_that_of_its_faulty_data(client_input, one_thread):
    # `power_of_choice` uses this measurement.
    architecture = Architecture(linear, ((DIM, CLASSES), (CLASSES,)))
    drill = local_training("sgd", FaultSettings(kind="flipped_labels", clients=("a",)))
    with one_thread():
        told = client_input(X, Y, range(7), faulty=np.bool_(True))
        loss = build_measure(architecture, drill)(told, PARAMS)
        by_hand = build_measure(architecture, local_training("sgd"))(client_input(X, 2 - Y, range(7)), PARAMS)
    assert loss == by_hand


# A run with faults.


@pytest.mark.parametrize("kind", KINDS)
def test_rounds_before_the_fault_are_those_of_an_honest_run(kind, clients, honest_run, settings_of, tmp_path):
    federate(settings_of({**BASE, **faulty(kind, "01", "03", from_round=3)}), clients.write(tmp_path))
    for found, honest in zip(reports(tmp_path), reports(honest_run), strict=True):
        before = [row for row in honest if int(row["round"]) < 3]
        assert found[: len(before)] == before
    rows, honest = reports(tmp_path)[1], reports(honest_run)[1]
    # Round 3 begins with the same model, so honest clients have the same rows and faulty clients do not.
    columns = ("loss_before", "loss_mean", "update_norm")
    changed = {
        client: [row_of(rows, 3, client)[name] != row_of(honest, 3, client)[name] for name in columns]
        for client in clients.ids
    }
    # A fault of the update changes only its norm (NaN for not_finite); a fault of the data changes the losses too.
    by_data = kind in ("flipped_labels", "noisy_features")
    assert changed == {c: [by_data, by_data, True] if c in ("01", "03") else [False] * 3 for c in clients.ids}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"federate.client.kind": "scaffold", "federate.client.option": "I"},
        pytest.param(
            {
                "federate.sampling.kind": "power_of_choice",
                "federate.sampling.clients_per_round": 2,
                "federate.sampling.candidates": 4,
            },
            marks=pytest.mark.slow,
        ),
        pytest.param({"federate.model": "mlp", "federate.width": {"01": 0.5}}, marks=pytest.mark.slow),
    ],
    ids=["sgd", "scaffold", "power of choice", "width"],
)
def test_flipped_labels_are_those_of_hand_flipped_files(changes, clients, settings_of, tmp_path):
    drill = {**BASE, **changes, **faulty("flipped_labels", "01")}
    federate(settings_of(drill), clients.write(tmp_path / "drill"))
    by_hand = clients.write(tmp_path / "by hand")
    x, y = clients.data["01"]
    write_client(by_hand / CLIENTS, "01", x, 2 - y)
    federate(settings_of({**BASE, **changes}), by_hand)
    assert outputs(tmp_path / "drill") == outputs(by_hand)


def test_noise_is_the_same_in_every_round(clients, settings_of, tmp_path):
    drill = settings_of({**BASE, **faulty("noisy_features", "01")})
    federate(drill, clients.write(tmp_path / "drill"))
    by_hand = clients.write(tmp_path / "by hand")
    x, y = clients.data["01"]
    seed = faults.inputs(drill.federate.faults, drill.seed, 1, "01")["noise_seed"]
    noise = x.mean() + x.std() * tf.random.stateless_normal(x.shape, seed).numpy()
    write_client(by_hand / CLIENTS, "01", noise.astype(np.float32), y)
    federate(settings_of(BASE), by_hand)
    np.testing.assert_allclose(load_params(tmp_path / "drill"), load_params(by_hand), atol=1e-6)


def test_client_whose_update_is_not_finite_is_named(clients, settings_of, tmp_path, caplog):
    drill = {**BASE, **faulty("not_finite", "02", from_round=2)}
    with caplog.at_level(logging.WARNING, "tasks.federate"):
        federate(settings_of(drill), clients.write(tmp_path))
    rounds, rows = reports(tmp_path)
    assert [row["num_failed"] for row in rounds] == ["0", "1", "1", "1"]
    assert {row["client"] for row in rows if row["failure"]} == {"02"}
    row = row_of(rows, 2, "02")
    assert (row["finite"], row["weight"], row["failure"]) == ("False", "0.0", "its update is not finite")
    assert float(row["loss_mean"]) > 0
    assert "round 2: client 02 left out: its update is not finite" in caplog.messages


@pytest.mark.parametrize("kind", ["flipped_labels", "reversed_update"])
def test_fault_of_one_round_is_one_round_of_a_lasting_fault_and_then_none(kind, clients, settings_of, tmp_path):
    losses = {}
    for until in (0, 2):
        drill = {**BASE, **faulty(kind, "01", from_round=2), "federate.faults.until_round": until}
        folder = clients.write(tmp_path / str(until))
        federate(settings_of(drill), folder)
        losses[until] = [
            [row_of(reports(folder)[1], t, "01")[name] for name in ("loss_mean", "update_norm")] for t in (1, 2, 3)
        ]
    assert losses[2][:2] == losses[0][:2]
    # Round 3 begins with the same model. Without the fault, the client reports other numbers: see KINDS above.
    same = [a == b for a, b in zip(losses[2][2], losses[0][2], strict=True)]
    assert same == [kind == "reversed_update", False]


def test_fault_that_ends_fails_nobody_after_it(clients, settings_of, tmp_path):
    drill = {**BASE, **faulty("not_finite", "02", from_round=2), "federate.faults.until_round": 3}
    federate(settings_of(drill), clients.write(tmp_path))
    assert [row["num_failed"] for row in reports(tmp_path)[0]] == ["0", "1", "1", "0"]


def test_guard_meets_a_simulated_fault_as_a_real_one(clients, settings_of, tmp_path):
    drill = {**BASE, **faulty("not_finite", "02", from_round=2)}
    with pytest.raises(GuardStop, match=r"round 2: clients failed: 02 \(its update is not finite\)"):
        federate(settings_of({**drill, "federate.guard": "stop"}), clients.write(tmp_path / "stop"))
    federate(settings_of({**drill, "federate.guard": "rollback"}), clients.write(tmp_path / "rollback"))
    rows = reports(tmp_path / "rollback")[1]
    assert {row["round"] for row in rows if row["client"] == "02"} == {"1", "2"}


@pytest.mark.slow
@pytest.mark.parametrize("aggregator", get_args(AggregatorSettings.model_fields["kind"].annotation))
def test_every_aggregator_gets_the_reversed_update(aggregator, clients, honest_run, settings_of, tmp_path):
    settings = {**BASE, "federate.rounds": 1, "federate.aggregator.kind": aggregator}
    federate(settings_of({**settings, **faulty("reversed_update", "01")}), clients.write(tmp_path))
    for client in clients.ids:
        norms = [float(row_of(reports(folder)[1], 1, client)["update_norm"]) for folder in (tmp_path, honest_run)]
        assert norms[0] == pytest.approx((10 if client == "01" else 1) * norms[1], rel=1e-5)


def test_reversed_update_throws_the_mean_and_not_the_median(make_clients, settings_of, tmp_path):
    iid = make_clients(sizes=(30,) * 8)
    iid.data |= dict.fromkeys(iid.ids, iid.data["00"])
    # One step on all examples: train_loss is the exact loss of the model at the start of the round.
    settings = {
        "federate.model": "logistic",
        "federate.rounds": 10,
        "federate.client.batch_size": 30,
        **faulty("reversed_update", "03", from_round=6),
    }
    losses = {}
    for aggregator in ("mean", "median"):
        federate(settings_of({**settings, "federate.aggregator.kind": aggregator}), iid.write(tmp_path / aggregator))
        losses[aggregator] = [float(row["train_loss"]) for row in reports(tmp_path / aggregator)[0]]
    # Equal clients: the mean is (7 − 10)/8 of the honest step, so from round 6 on a convex loss rises.
    assert np.all(np.diff(losses["mean"][:6]) < 0)
    assert np.all(np.diff(losses["mean"][5:]) > 0)
    assert np.all(np.diff(losses["median"]) < 0)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(faulty("noisy_features", "01", from_round=2), marks=pytest.mark.slow),
        {**faulty("reversed_update", "01"), "federate.client.kind": "scaffold"},
        pytest.param(
            {**faulty("not_finite", "01", "02", from_round=2), "federate.aggregator.kind": "median"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["noise", "reversed with scaffold", "not finite with median"],
)
def test_numbers_are_those_of_tffs_own_runtime(changes, clients, settings_of, tmp_path):
    found = {}
    for name, runs in (("ours", nullcontext()), ("oracle", oracle.asked())):
        folder = clients.write(tmp_path / name)
        with runs:
            federate(settings_of({**BASE, **changes}), folder)
        found[name] = load_params(folder), [(row["client"], row["failure"]) for row in reports(folder)[1]]
    np.testing.assert_allclose(found["oracle"][0], found["ours"][0], atol=1e-6)
    assert found["oracle"][1] == found["ours"][1]
    start = flatten(build("logistic", (3, 3, 1), 3, 0))
    assert np.abs(found["oracle"][0] - start).max() > 0.01


def test_unknown_client_is_refused_before_anything_is_written(clients, settings_of, tmp_path):
    with pytest.raises(SettingsError, match=r"federate.faults.clients names 99, which the data does not have: 00, 01"):
        federate(settings_of(faulty("not_finite", "01", "99")), clients.write(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
