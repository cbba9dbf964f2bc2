"""Which clients are faulty, shifted or failed, on plain numbers."""

import numpy as np
import pytest

from tasks.diagnose.evidence.findings import mean_label_distance
from tasks.diagnose.evidence.memory import Memory
from tests.plain_findings import WRONG_LABELS, a_client, findings

NAN = float("nan")
SCALED = {"norm": 8.0, "norm_per_step": 8.0, "grown": 8.0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (WRONG_LABELS, True),  # contradicts the model, and the features look like the others': wrong labels
        (WRONG_LABELS | {"feature_distance": 3.0, "learnable": (0.3, 0.3)}, True),  # noise
        (WRONG_LABELS | {"feature_distance": 3.0, "learnable": (0.8, 0.3)}, False),  # another scanner
        ({"loss": 5.0, "usual_loss": 4.5, "expected_loss": 4.0, "accuracy": 0.1, "expected_accuracy": 0.15}, False),
        (
            {"loss": 5.0, "expected_loss": 4.0, "accuracy": 0.1, "expected_accuracy": 0.15},
            True,
        ),  # the data did not contradict the model before
        ({"loss": 0.5, "accuracy": 0.85}, False),
        (SCALED, True),
        (SCALED | {"grown": NAN}, True),  # no past to compare with
        (SCALED | {"grown": 1.0}, False),  # its updates were always so long
        ({"norm": 8.0, "norm_per_step": 1.1, "grown": 1.1}, False),  # more data, more steps
        (SCALED | {"epochs": 5.0}, False),  # unequal local work is another cause
        (SCALED | {"width": 0.5}, False),
        ({"norm": 2.0, "norm_per_step": 2.0, "grown": 4.0}, True),  # far longer than before; the others' are not
        ({"norm": 2.0, "norm_per_step": 2.0, "grown": 1.5}, False),
        ({"norm": 0.2, "norm_per_step": 0.2, "grown": 4.0}, False),  # too short to outgrow the others
        ({"slope": 0.4}, True),  # raises the loss on its own data
        ({"slope": 0.4, "norm": 0.1}, False),  # too short to have a direction
        ({"slope": 0.1}, False),
        ({"slope": 0.4, "epochs": NAN}, False),
        ({"norm": 3.5, "norm_per_step": 4.4, "grown": 2.3}, False),  # steps that overshoot on its data
        ({"cosine": -0.5, "cosine_during": -0.4}, True),
        ({"cosine": -0.5, "cosine_during": 0.4}, False),  # reversed from one model only
        (WRONG_LABELS | {"expected_accuracy": 0.25}, True),  # the model is always wrong about these labels
        (WRONG_LABELS | {"expected_accuracy": 0.25, "usual_loss": NAN}, False),
        (WRONG_LABELS | {"usual_loss": 5.0}, False),  # it always contradicted the model
        (WRONG_LABELS | {"usual_loss": NAN}, True),  # no past to compare with
        ({"loss": 0.7, "usual_loss": 0.05, "accuracy": 0.85}, False),  # far worse than before, but still mostly right
        (SCALED | {"epochs": NAN}, False),  # took no part in the rise
        (WRONG_LABELS | {"epochs": NAN}, True),  # changed data count without taking part
        ({"cosine": -0.5, "cosine_before": -0.4}, False),  # always reversed: an honest client with unusual data
        ({"loss": NAN, "accuracy": 0.1}, True),
    ],
)
def test_who_counts_as_faulty(changes: dict[str, object], expected: bool) -> None:
    assert findings(a_client("02", **changes)).faulty() == (("02",) if expected else ())


def test_changed_data_that_are_a_shift_are_no_fault() -> None:
    shift = WRONG_LABELS | {"feature_distance": 3.0, "learnable": (0.8, 0.3)}
    seen = findings(a_client("01", **WRONG_LABELS), a_client("02", **shift))
    assert (seen.faulty(), seen.shifted()) == (("01",), ("02",))


def test_shifted_client_whose_labels_were_mixed_up_is_faulty() -> None:
    mixed_up = Memory(round=3, logged=0.5, now=5.0, relabelling=(1, 0))
    seen = findings(a_client("02", memory=mixed_up, feature_distance=3.0, learnable=(0.8, 0.3)))
    assert (seen.faulty(), seen.shifted()) == (("02",), ())


def test_features_that_have_always_been_unusual_are_no_shift() -> None:
    assert findings(a_client("03", loss=5.0, usual_loss=4.5, accuracy=0.1, feature_distance=3.0)).shifted() == ()


@pytest.mark.parametrize(
    ("changes", "run", "expected"),
    [
        ({}, {}, True),
        ({}, {"cleared": ("02",)}, False),
        ({}, {"cleared": ("01",)}, True),
        ({}, {"steepness": 3.0}, True),
        ({}, {"steepness": 3.01}, False),  # local training diverges
        ({"epochs": NAN}, {}, False),  # took no part in the rise
        ({"epochs": NAN, "failed": 20}, {}, True),
        ({"epochs": 1.5}, {}, True),
        ({"epochs": 1.51}, {}, False),
        ({"epochs": 1 / 1.5}, {}, True),
        ({"epochs": 0.66}, {}, False),
        ({"width": 0.99}, {}, False),
        ({"feature_distance": 3.0}, {}, True),
        ({"feature_distance": 3.0, "grown": NAN}, {}, False),  # unusual features, no past to compare with
        (WRONG_LABELS, {}, False),  # wrong data, not a wrong update
    ],
)
def test_odd_updates_are_excused_by_what_explains_them(changes: dict, run: dict, expected: bool) -> None:
    client = a_client("02", **{"slope": 0.4} | changes)
    assert findings(client, **run).wrong_update(client) is expected


@pytest.mark.parametrize(("ratio", "slope", "expected"), [(1.0, 0.4, False), (2.0, -0.9, True), (NAN, 0.4, True)])
def test_what_training_gives_decides_where_it_is_known(ratio: float, slope: float, expected: bool) -> None:
    client = a_client("02", sent_over_trained=ratio, slope=slope)
    assert findings(client).wrong_update(client) is expected


@pytest.mark.parametrize(
    ("grown", "norm", "others", "expected"),
    [
        (3.01, 1.0, 0.5, True),  # above 3 times its own, and above 3.5 times the others'
        (3.0, 1.0, 0.5, False),
        (3.51, 1.0, 1.0, True),
        (3.5, 1.0, 1.0, False),  # just 3.5 times the others'
        (3.51, 0.99, 1.0, False),  # shorter than the median update
        (3.01, 1.0, NAN, False),  # the others' growth is not known
    ],
)
def test_update_outgrows_the_others(grown: float, norm: float, others: float, expected: bool) -> None:
    client = a_client("02", grown=grown, norm=norm)
    seen = findings(client, *[a_client(f"{k:02}", grown=others) for k in (0, 1, 3, 4)])
    assert seen.outgrown(client) is expected


def test_usual_growth_leaves_out_clients_whose_data_contradict_the_model() -> None:
    seen = findings(*[a_client(f"{k:02}", grown=9.0, **WRONG_LABELS) for k in range(3)], a_client("03", grown=2.0))
    assert seen.usual_growth == pytest.approx(1.5)  # the median of 2 and 1
    assert np.isnan(findings(*[a_client(f"{k:02}", grown=NAN) for k in range(5)]).usual_growth)


def test_updates_that_all_became_longer_make_nobody_faulty() -> None:
    assert findings(*[a_client(f"{k:02}", grown=4.0) for k in range(5)]).faulty() == ()


def test_usual_epochs_are_the_median_of_the_clients_that_took_part() -> None:
    seen = findings(a_client("00", epochs=NAN), a_client("01", epochs=2.0), a_client("02", epochs=4.0))
    assert seen.usual_epochs == pytest.approx(1.5)  # the median of 1, 1, 2 and 4
    assert findings(*[a_client(f"{k:02}", epochs=NAN) for k in range(5)]).usual_epochs == 1.0
    assert not seen.works_unequally(a_client("00", epochs=NAN))


def test_clients_fail_in_the_order_of_their_first_failure() -> None:
    seen = findings(a_client("04", failed=7), a_client("01", failed=9), a_client("03", failed=7))
    assert seen.failed() == ("03", "04", "01")


def test_failure_after_a_wrong_update_is_its_consequence() -> None:
    assert findings(a_client("02", failed=9, slope=0.4)).failed() == ()
    assert findings(a_client("02", failed=9, slope=0.4, norm=NAN)).failed() == ("02",)  # no finite update
    assert findings(a_client("02", failed=9, **WRONG_LABELS)).failed() == ("02",)


@pytest.mark.parametrize(("loss", "blamed"), [(30.1, True), (30.0, False), (NAN, True)])
def test_failure_is_blamed_on_data_beyond_all_bounds_where_training_diverges(loss: float, blamed: bool) -> None:
    client = a_client("02", failed=9, loss=loss, usual_loss=loss)
    assert findings(client, steepness=3.01).failed() == (("02",) if blamed else ())  # 100 times 0.3
    assert findings(client, steepness=3.0).failed() == ("02",)


def test_label_distance_by_hand() -> None:
    # Two clients without a common label: the distance of each to the whole is |1 - 1/2| + |0 - 1/2| = 1.
    assert mean_label_distance({"a": np.array([5, 0]), "b": np.array([0, 5])}) == pytest.approx(1.0)
    assert mean_label_distance({"a": np.array([5, 5]), "b": np.array([1, 1])}) == 0.0
    # The mean is weighted by examples. The whole is 3/4, 1/4; the distances are 1/2 with weight 3/4, 3/2 with 1/4.
    assert mean_label_distance({"a": np.array([6, 0]), "b": np.array([0, 2])}) == pytest.approx(0.75)


def test_label_distance_of_clients_with_one_example_and_with_none() -> None:
    # One example each, of two labels: |1 - 1/2| + |0 - 1/2| = 1, as with five each. A client without examples has
    # no weight.
    one_each = {"a": np.array([1, 0]), "b": np.array([0, 1])}
    assert mean_label_distance(one_each) == pytest.approx(1.0)
    assert mean_label_distance(one_each | {"c": np.array([0, 0])}) == pytest.approx(1.0)
