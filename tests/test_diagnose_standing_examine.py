"""What a client's data show beside the hold-out data: the digits at eight clients, one of them with a fault."""

from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from plain_findings import HONEST
from sklearn.datasets import load_digits

from tasks.diagnose.causes.base import Indication
from tasks.diagnose.evidence.examined import examined
from tasks.diagnose.evidence.findings import no_findings
from tasks.diagnose.standing.against import against
from tasks.diagnose.standing.examine import StoredSites, examine
from tasks.diagnose.standing.said import same_data
from tasks.diagnose.standing.suspicion import of_clients
from tasks.errors import DataError
from tasks.local.description import Description
from tasks.runtime.failed import Failed

SIGNIFICANCE = 0.01


@cache
def digits():
    """(x, y) of the digits, pixels 0 to 1, in a random order."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return (data.images[order] / 16).astype(np.float32)[..., None], data.target[order].astype(np.int32)


def dealt(skewed=False, num_clients=8):
    """The clients' data and the hold-out data (357 examples): dealt evenly, or by Dirichlet(0.5) for each label."""
    x, y = digits()
    test, x, y = (x[:357], y[:357]), x[357:], y[357:]
    if not skewed:
        return {f"h{k}": (x[k::num_clients], y[k::num_clients]) for k in range(num_clients)}, test
    rng = np.random.default_rng(1)
    parts = [[] for _ in range(num_clients)]
    for label in range(10):
        mine = rng.permutation(np.flatnonzero(y == label))
        cuts = (np.cumsum(rng.dirichlet(np.full(num_clients, 0.5)))[:-1] * len(mine)).astype(int)
        for part, some in zip(parts, np.split(mine, cuts), strict=True):
            part.extend(some.tolist())
    return {f"h{k}": (x[part], y[part]) for k, part in enumerate(parts)}, test


@dataclass
class Sites:
    """Clients in memory."""

    data: dict
    test: tuple
    num_classes: int = 10

    def at_clients(self, compute, clients=None):
        found = {}
        for client in self.data if clients is None else clients:
            try:
                found[client] = compute(self.data[client])
            except DataError as exc:
                found[client] = Failed(str(exc))
        return found


def looked_at(data, test, num_classes=10, look=lambda: None, accuracy=None):
    return examine(Sites(data, test, num_classes), SIGNIFICANCE, accuracy, look)


def with_fault(change, skewed=False, clients=("h3",)):
    data, test = dealt(skewed)
    return looked_at({**data, **{client: change(*data[client]) for client in clients}}, test)


RNG = np.random.default_rng(3)
LABELS = {
    "reversed": lambda x, y: (x, 9 - y),
    "shifted": lambda x, y: (x, (y + 1) % 10),
    "one class": lambda x, y: (x, np.full_like(y, 2)),
    "renumbered": lambda x, y: (x, np.random.default_rng(5).permutation(10).astype(np.int32)[y]),
    "random": lambda x, y: (x, RNG.integers(0, 10, len(y)).astype(np.int32)),
}


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("fault", LABELS)
def test_a_client_with_wrong_labels_is_the_only_suspect(fault, skewed, settings_of):
    found = with_fault(LABELS[fault], skewed)
    assert found.suspects == ("h3",)
    (suspicion,) = of_clients(found, settings_of({}), {}, 0, 8)
    assert (suspicion.cause, suspicion.clients, suspicion.fault) == ("faulty_clients", ("h3",), "labels")
    assert [option.remedy.settings for option in suspicion.options] == [{"federate.exclude": ["h3"]}]


@pytest.mark.parametrize("skewed", [False, True])
def test_honest_clients_are_not_suspected(skewed, settings_of):
    found = with_fault(lambda x, y: (x, y), skewed)
    assert found.suspects == ()
    assert found.disagreeing == ()
    assert of_clients(found, settings_of({}), {}, 0, 8) == []


def test_one_example_alone_is_no_reason_for_suspicion():
    """Any one example can be one that the judge gets wrong."""
    data, test = dealt()
    (x, y), wrong = data["h3"], None
    judge = looked_at(data, test).judges[0]
    wrong = int(np.flatnonzero(judge.predicted(x) != y)[0])
    found = looked_at({**data, "h3": (x[wrong : wrong + 1], y[wrong : wrong + 1])}, test)
    assert found.clients["h3"].judgements["features"].accuracy == 0.0
    assert found.suspects == ()


def test_honest_clients_with_one_class_each_are_not_suspected():
    x, y = digits()
    data = {f"h{k}": (x[357:][y[357:] == k], y[357:][y[357:] == k]) for k in range(10)}
    assert looked_at(data, (x[:357], y[:357])).suspects == ()


@pytest.mark.parametrize("change", [lambda x, y: (1 - x, y), lambda x, y: (255 * x, y), lambda x, y: (x + 1, y)])
def test_other_features_whose_labels_make_sense_are_a_shift_and_no_fault(change, settings_of):
    found = with_fault(change)
    assert found.suspects == ("h3",)
    (suspicion,) = of_clients(found, settings_of({}), {}, 0, 8)
    assert (suspicion.cause, suspicion.clients, suspicion.fault) == ("feature_shift", ("h3",), "")
    named = [option.remedy.settings for option in suspicion.options]
    assert named == [{"preprocess.normalize": "client"}, {"federate.exclude": ["h3"]}]
    # Where each client standardises its features already, only leaving it out is left.
    (suspicion,) = of_clients(found, settings_of({"preprocess.normalize": "client"}), {}, 0, 8)
    assert [option.remedy.settings for option in suspicion.options] == [{"federate.exclude": ["h3"]}]


def test_noise_in_place_of_the_features_is_a_fault_of_the_data(settings_of):
    def noise(x, y):
        return (x.mean() + x.std() * RNG.standard_normal(x.shape)).astype(np.float32), y

    found = with_fault(noise)
    assert found.suspects == ("h3",)
    assert not found.clients["h3"].makes_sense
    (suspicion,) = of_clients(found, settings_of({}), {}, 0, 8)
    assert (suspicion.cause, suspicion.fault) == ("faulty_clients", "data")


def test_two_kinds_of_clients_are_two_suspicions(settings_of):
    data, test = dealt()
    data |= {"h3": LABELS["shifted"](*data["h3"]), "h5": (1 - data["h5"][0], data["h5"][1])}
    faulty, shifted = of_clients(looked_at(data, test), settings_of({"federate.exclude": ["z"]}), {}, 0, 8)
    assert (faulty.cause, faulty.clients, shifted.cause, shifted.clients) == (
        "faulty_clients", ("h3",), "feature_shift", ("h5",),
    )  # fmt: skip
    # The clients that the run excludes already stay excluded.
    assert faulty.options[0].remedy.settings == {"federate.exclude": ["h3", "z"]}


def test_sentences_say_what_is_wrong_with_the_labels():
    (said,) = [each.says for each in against(with_fault(LABELS["shifted"]).clients["h3"])]
    assert said.endswith(" So its labels are shifted: y + 1 modulo 10 in place of y.")
    assert "client h3" in said


def test_labels_of_foreign_features_are_not_called_wrong_in_a_simple_way():
    said = " ".join(each.says for each in against(with_fault(lambda x, y: (1 - x, y)).clients["h3"]))
    assert "standard deviations away from hold-out data of the same classes" in said
    assert "its labels" not in said
    assert "numbers the labels" not in said


def test_two_far_clients_are_not_each_called_the_farthest():
    found = with_fault(lambda x, y: (1 - x, y), clients=("h3", "h5"))
    said = " ".join(each.says for client in ("h3", "h5") for each in against(found.clients[client]))
    assert "o other client is as far" not in said


def test_half_of_the_clients_are_a_matter_of_opinion(settings_of):
    half = tuple(f"h{k}" for k in range(4))
    found = with_fault(LABELS["shifted"], clients=half)
    assert found.disagreeing == half
    assert of_clients(found, settings_of({}), {}, 0, 8) == []


def test_a_minority_that_sent_something_else_is_suspected_of_its_updates(settings_of):
    honest = with_fault(lambda x, y: (x, y))
    sent = {f"h{k}": Indication("sent_over_trained", -1.0, 1.0, f"h{k}.") for k in range(4)}
    three = {client: sent[client] for client in ("h0", "h1", "h2")}
    (found,) = of_clients(honest, settings_of({}), three, 16, 8)
    assert (found.cause, found.clients, found.fault, found.since) == (
        "faulty_clients", ("h0", "h1", "h2"), "updates", 16,
    )  # fmt: skip
    assert [each.says for each in found.evidence] == ["h0.", "h1.", "h2."]
    assert of_clients(honest, settings_of({}), sent, 16, 8) == []


def test_wrong_labels_and_wrong_updates_together_are_no_single_fault_and_were_there_from_the_start(settings_of):
    sent = {"h5": Indication("sent_over_trained", -1.0, 1.0, "h5.")}
    (found,) = of_clients(with_fault(LABELS["shifted"]), settings_of({}), sent, 16, 8)
    assert (found.clients, found.fault, found.since) == (("h3", "h5"), "", 1)


def test_clients_that_contradict_inverted_hold_out_data_are_all_alike():
    data, (x, y) = dealt()
    found = looked_at(data, (1 - x, y))
    assert found.suspects == ()
    assert len(found.disagreeing) == 8


def test_three_clients_are_compared_with_the_hold_out_data_and_not_with_each_other():
    data, test = dealt(num_clients=3)
    found = looked_at({**data, "h1": LABELS["shifted"](*data["h1"])}, test)
    assert not found.compares
    assert found.suspects == ()
    assert found.disagreeing == ("h1",)


def test_hold_out_data_of_one_class_judge_nobody():
    data, (x, y) = dealt()
    found = looked_at(data, (x[y == 3], y[y == 3]))
    assert (found.judges, dict(found.clients), found.suspects) == ((), {}, ())


def test_a_client_that_cannot_be_read_is_named_and_the_others_are_examined():
    class Broken(Sites):
        def at_clients(self, compute, clients=None):
            found = super().at_clients(compute, clients)
            return {**found, "h2": Failed("no such file")} if clients is None else found

    data, test = dealt()
    found = examine(Broken({**data, "h3": LABELS["shifted"](*data["h3"])}, test), SIGNIFICANCE, None, lambda: None)
    assert dict(found.failed) == {"h2": "no such file"}
    assert found.suspects == ("h3",)
    assert len(found.clients) == 7


def test_a_judge_that_sees_the_model_is_asked_only_where_the_features_say_little():
    data, test = dealt()
    asked = []
    looked_at(data, test, look=lambda: asked.append(1), accuracy=0.99)
    assert asked == []  # the features get more than SHARP = 75 % right
    rng = np.random.default_rng(0)
    noise = {client: (rng.standard_normal(x.shape).astype(np.float32), y) for client, (x, y) in data.items()}
    blurred = rng.standard_normal(test[0].shape).astype(np.float32), test[1]
    looked_at(noise, blurred, look=lambda: asked.append(1), accuracy=0.05)
    assert asked == []  # the model gets fewer right
    looked_at(noise, blurred, look=lambda: asked.append(1), accuracy=0.9)
    assert asked == [1]


def test_the_order_of_the_clients_does_not_matter():
    data, test = dealt(skewed=True)
    data["h3"] = LABELS["reversed"](*data["h3"])
    one, other = looked_at(data, test), looked_at(dict(reversed(data.items())), test)
    assert set(one.suspects) == set(other.suspects) == {"h3"}
    assert one.clients["h5"].far == pytest.approx(other.clients["h5"].far)


@pytest.mark.parametrize(("last", "wrong"), [(3, False), (4, True)])
def test_a_simulated_fault_is_in_the_data_if_it_began_before_the_run_ended(
    make_clients, settings_of, tmp_path, last, wrong
):
    """The fault begins in round 4 of 10; a run that ended in round 3 never saw it."""
    made = make_clients(num_classes=3)
    faults = {"federate.faults.kind": "flipped_labels", "federate.faults.clients": ["02"]}
    settings = settings_of({**faults, "federate.faults.from_round": 4, "federate.rounds": 10})
    sites = StoredSites(settings, made.write(tmp_path), last)
    found = sites.at_clients(lambda examples: examples[1].tolist())
    y = made.data["02"][1]
    assert found["02"] == (2 - y if wrong else y).tolist()
    assert found["01"] == made.data["01"][1].tolist()


NO_MODEL = SimpleNamespace(logits=lambda params, x: pytest.fail("the features are enough"))


def before_a_rise(data, test, settings):
    """Findings of clients with nothing unusual, and a stand-in for the replays that holds these clients' data."""
    replays = SimpleNamespace(
        cohort=SimpleNamespace(test_x=test[0], test_y=test[1], num_classes=10),
        at_clients=lambda compute, clients=None: {c: compute(c, data[c]) for c in clients or data},
        settings=settings,
        params=None,
    )
    clients = tuple(replace(HONEST, client=client) for client in data)
    return replace(no_findings(), clients=clients), replays


@pytest.mark.parametrize(("wrong", "found"), [(("h3",), ("h3",)), (("h0", "h1", "h2", "h3"), ())])
def test_findings_before_a_rise_have_the_clients_that_contradict_the_hold_out_if_they_are_a_minority(
    settings_of, wrong, found
):
    data, test = dealt()
    data |= {client: LABELS["shifted"](*data[client]) for client in wrong}
    before, replays = before_a_rise(data, test, settings_of({}))
    after = examined(before, replays, NO_MODEL)
    assert tuple(each.client for each in after.clients if each.examined) == found
    assert after.faulty() == found
    assert after.shifted() == ()


def test_a_client_of_another_device_before_a_rise_is_shifted_and_not_faulty(settings_of):
    data, test = dealt()
    data["h3"] = (1 - data["h3"][0], data["h3"][1])
    before, replays = before_a_rise(data, test, settings_of({}))
    after = examined(before, replays, NO_MODEL)
    assert (after.faulty(), after.shifted()) == ((), ("h3",))


def test_clients_that_hold_the_same_data_are_named():
    def described(digest):
        return Description((3, 4), digest)

    clients = {"A": described("1"), "b": described("2"), "c": described("1"), "d": described("3")}
    assert same_data(clients) == ("Clients A and c hold the same data. So these data count 2 times.",)
    assert same_data({"a": described("1"), "b": described("2")}) == ()
