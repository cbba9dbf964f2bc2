"""`evaluate.baselines`: the pooled model, and each client's own model."""

import logging

import numpy as np
import pytest

from tasks.clients import CLIENTS, TEST
from tasks.evaluate.metrics import mean_cross_entropy
from tests.shards import damage, write_client

BASE = {
    "federate.model": "logistic",
    "federate.rounds": 6,
    "federate.client.batch_size": 5,
    "federate.client.learning_rate": 0.2,
}
FEATURES, CLASSES = 9, 3


@pytest.fixture(scope="module")
def clients(make_clients):
    """Three clients. Their labels, and those of the hold-out data, are 0, 1, 2 in turn, so all weights are equal."""
    made = make_clients(sizes=(12, 6, 18), num_test=30)
    rng = np.random.default_rng(0)
    for site, (x, _) in list(made.data.items()):
        y = (np.arange(len(x)) % CLASSES).astype(np.int32)
        x = x + rng.normal(size=x.shape).astype(np.float32) * 0.3
        x[np.arange(len(y)), y, 0, 0] += 1
        made.data[site] = x, y
    return made


@pytest.fixture
def measured(clients, settings_of, tmp_path):
    """({setting: value}, the workspace) -> the baselines, with a global model of equal logits."""
    from tasks.evaluate.baselines.measure import measure

    def run(changes=None, folder=None, rounds=6):
        settings = settings_of({**BASE, **(changes or {})})
        folder = folder or clients.write(tmp_path / str(len(list(tmp_path.iterdir()))))
        return measure(settings, folder, rounds, np.zeros((30, CLASSES), np.float32))

    return run


def first_params():
    from tasks.models import build
    from tasks.parameters import flatten

    return flatten(build("logistic", (3, 3, 1), CLASSES, 0))


def loss_of(params, x, y):
    logits = x.reshape(len(x), -1).astype(float) @ params[: FEATURES * CLASSES].reshape(FEATURES, CLASSES)
    return mean_cross_entropy(y, logits + params[FEATURES * CLASSES :])


def trained_by_hand(reference, client, x, y, rounds, epochs=1, rate=lambda round_num: 0.2, **chosen):
    from tasks.federate import schedule

    params = first_params()
    for round_num in range(1, rounds + 1):
        order = schedule.visits(len(y), epochs, schedule.client_rng(0, round_num, client))
        kwargs = {"num_classes": CLASSES, "batch_size": 5, "learning_rate": rate(round_num), **chosen}
        params = reference(params, x, y, order, **kwargs).params
    return params


def test_own_and_pooled_models_are_those_of_plain_sgd(clients, measured, logistic_reference):
    changes = {
        "federate.client.momentum": 0.5,
        "federate.client.weight_decay": 0.1,
        "federate.client.schedule.kind": "exponential",
        "federate.client.schedule.decay": 0.8,
        "federate.local_work.epochs": 2,
    }
    found = measured(changes)
    by_hand = {"epochs": 2, "rate": lambda t: 0.2 * 0.8 ** (t - 1), "momentum": 0.5, "weight_decay": 0.1}
    for client in clients.ids:
        params = trained_by_hand(logistic_reference, client, *clients.data[client], 6, **by_hand)
        assert found.clients[client].own.loss == pytest.approx(loss_of(params, *clients.data[TEST]), rel=1e-5)
        assert found.clients[client].federated.loss == pytest.approx(np.log(CLASSES))
    x, y = (np.concatenate(arrays) for arrays in zip(*(clients.data[c] for c in clients.ids), strict=True))
    params = trained_by_hand(logistic_reference, "00", x, y, 6, **by_hand)
    assert found.pooled.loss == pytest.approx(loss_of(params, *clients.data[TEST]), rel=1e-5)
    assert found.rounds == 6
    assert found.left_out == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"federate.client.kind": "scaffold"},
        {"federate.client.kind": "fedprox", "federate.client.mu": 1.0},
        {"federate.aggregator.kind": "trimmed_mean", "federate.server_optimizer.kind": "adam"},
        {"federate.shared_fraction": 0.2, "federate.guard": "stop"},
        {"federate.faults.kind": "absent", "federate.faults.clients": ["00", "01", "02"]},
        {"federate.faults.kind": "reversed_update", "federate.faults.clients": ["00"]},
    ],
    ids=lambda changes: next(iter(changes.values())),
)
def test_what_only_a_federation_has_changes_nothing(changes, measured):
    assert measured(changes) == measured()


def test_own_model_is_the_federation_of_one_client(clients, measured, settings_of, tmp_path):
    from tasks.federate import federate
    from tasks.files import read_rows

    folder = clients.write(tmp_path / "alone")
    federate(settings_of({**BASE, "federate.exclude": ["00", "02"]}), folder)
    last = read_rows(folder / "reports/rounds.csv")[-1]
    own = measured().clients["01"].own
    assert own.loss == pytest.approx(float(last["val_loss"]), rel=1e-6)
    assert own.accuracy == pytest.approx(float(last["val_accuracy"]), rel=1e-6)


def test_pooled_model_of_one_client_is_its_own(measured):
    found = measured({"federate.exclude": ["00", "02"]})
    assert vars(found.pooled) == pytest.approx(vars(found.clients["01"].own), rel=1e-12)
    assert list(found.clients) == ["01"]
    assert found.left_out == dict.fromkeys(["00", "02"], "federate.exclude names it")


@pytest.mark.parametrize(
    ("changes", "ran", "rounds", "epochs"),
    [
        # With 1 of 3 clients a round, a client takes part in every third round on average.
        ({"federate.sampling.kind": "uniform", "federate.sampling.clients_per_round": 1}, 6, 2, 1),
        ({"federate.sampling.kind": "uniform", "federate.sampling.clients_per_round": 1}, 1, 1, 1),
        # 12, 6 and 18 examples: (12 · 1 + 6 · 1 + 18 · 5) / 36 = 3 passes over an example of the pooled data.
        ({"federate.local_work.kind": "per_client", "federate.local_work.by_client": {"02": 5}}, 4, 4, 3),
        ({"federate.local_work.kind": "range", "federate.local_work.low": 1, "federate.local_work.high": 3}, 4, 4, 2),
    ],
)
def test_budget_is_the_passes_of_the_federation(changes, ran, rounds, epochs, clients, measured, logistic_reference):
    found = measured(changes, rounds=ran)
    assert found.rounds == rounds
    x, y = (np.concatenate(arrays) for arrays in zip(*(clients.data[c] for c in clients.ids), strict=True))
    params = trained_by_hand(logistic_reference, "00", x, y, rounds, epochs)
    assert found.pooled.loss == pytest.approx(loss_of(params, *clients.data[TEST]), rel=1e-5)


@pytest.mark.parametrize(("until", "flipped"), [(0, True), (6, True), (5, False)])
def test_fault_of_the_data_is_in_both_baselines_if_the_run_ends_with_it(until, flipped, clients, measured, tmp_path):
    fault = {"kind": "flipped_labels", "clients": ["01"], "from_round": 3, "until_round": until}
    found = measured({f"federate.faults.{name}": value for name, value in fault.items()})
    by_hand = clients.write(tmp_path / "by hand")
    x, y = clients.data["01"]
    write_client(by_hand / CLIENTS, "01", x, 2 - y if flipped else y)
    expected = measured(folder=by_hand)
    assert found.clients == expected.clients
    assert found.pooled == expected.pooled
    assert (expected.pooled != measured().pooled) == flipped


def test_clients_that_cannot_be_measured_are_named(clients, measured, tmp_path, caplog):
    folder = clients.write(tmp_path / "broken")
    damage(folder / CLIENTS, "01", "y", lambda content: content[:-4])
    with caplog.at_level(logging.WARNING, "tasks.evaluate"):
        found = measured(folder=folder)
    assert list(found.clients) == ["00", "02"]
    assert list(found.left_out) == ["01"]
    assert found.pooled is not None
    assert any(message.startswith("baselines: client 01 not measured: ") for message in caplog.messages)
    assert found.says[-1] == "Not measured: 01."


def test_training_that_is_not_finite_is_named(measured):
    found = measured({"federate.client.learning_rate": 1e38, "federate.client.momentum": 0.9})
    assert found.pooled is None
    assert (found.clients, found.flat) == ({}, {})
    assert [*found.left_out] == ["pooled model", "00", "01", "02"]
    assert found.left_out["00"].startswith("its training is not finite in round ")


def test_client_whose_classes_the_hold_out_data_lack_is_named(clients, measured, tmp_path):
    folder = clients.write(tmp_path / "lacking")
    x, y = clients.data["01"]
    write_client(folder / CLIENTS, "01", x, np.full_like(y, 2))
    x, y = clients.data[TEST]
    write_client(folder / CLIENTS, TEST, x, np.where(y == 2, 0, y))
    found = measured(folder=folder)
    assert found.left_out == {"01": "the hold-out data have fewer than two examples of its classes"}


def test_pooled_data_that_do_not_fit_into_memory_are_named(measured, monkeypatch):
    from tasks.evaluate.baselines import pooled

    # 36 examples of 9 values of 4 bytes, three times.
    monkeypatch.setattr(pooled, "available", lambda: 3 * 36 * 9 * 4 - 1)
    found = measured()
    assert found.pooled is None
    assert found.left_out == {
        "pooled model": "all data in one place need 3,888 bytes, and there are 3,887 bytes of memory"
    }
    assert len(found.clients) == 3
    assert "pooled_loss" not in found.flat


# The step.


@pytest.fixture(scope="module")
def run(clients, settings_of, tmp_path_factory):
    """A finished run up to `prune`, and its settings."""
    from tasks.federate import federate
    from tasks.files import write_json
    from tasks.prune import prune

    folder = clients.write(tmp_path_factory.mktemp("run"))
    named = {"classes": ["zero", "one", "two"], "clients": {client: {} for client in clients.ids}}
    write_json(folder / "data/partition/partition.json", named)
    dotted = {**BASE, "prune.rounds": 2, "prune.begin_round": 1, "prune.end_round": 2}
    federate(settings_of(dotted), folder)
    prune(settings_of(dotted), folder)
    return dotted, folder


def test_step_writes_the_baselines_only_if_they_are_wanted(run, settings_of, caplog):
    from tasks.evaluate import evaluate
    from tasks.files import read_json

    dotted, folder = run
    written = {}
    for wanted in (False, True):
        with caplog.at_level(logging.INFO, "tasks.evaluate"):
            evaluate(settings_of({**dotted, "evaluate.baselines": wanted}), folder)
        written[wanted] = [read_json(folder / "reports" / f"{name}.json") for name in ("metrics", "evaluation")]
    assert written[True][0].items() > written[False][0].items()
    added = {*written[True][0]} - {*written[False][0]}
    assert added == {
        *("pooled_loss", "pooled_accuracy", "local_loss_mean", "local_accuracy_mean"),
        *("federated_loss_mean", "federated_accuracy_mean", "clients_better_alone", "clients_better_federated"),
    }
    assert written[True][0]["rounds"] == written[True][1]["baselines"]["rounds"] == 6
    baselines = written[True][1].pop("baselines")
    assert written[True][1] == written[False][1]
    # Classes are equally frequent at the clients and in the hold-out data, so each client sees the model's own score.
    for each in baselines["clients"].values():
        assert each["federated"]["loss"] == pytest.approx(written[True][0]["loss"])
        assert each["difference"] == pytest.approx(each["own"]["loss"] - each["federated"]["loss"])
    assert baselines["federated"]["accuracy"] == pytest.approx(written[True][0]["accuracy"])
    assert " ".join(baselines["says"]) in caplog.messages
