"""The evidence for a proven cause, in sentences."""

import re

import numpy as np
import pytest

from tasks.diagnose.causes import evidence_for, fault_of
from tasks.diagnose.evidence.findings import Findings
from tasks.settings import parse
from tests.plain_findings import MIXED_UP, SHIFT, WRONG_LABELS, a_client, findings

NAN = float("nan")


def said(cause: str, *clients: str, seen: Findings, **federate: object) -> list[tuple[str, str]]:
    settings = parse({"federate": federate})
    return [(one.signal, one.says) for one in evidence_for(cause, clients, seen, settings)]


def test_evidence_of_wrong_labels_that_the_log_remembers() -> None:
    seen = findings(a_client("02", **WRONG_LABELS, memory=MIXED_UP, left_out=0.1))
    assert said("faulty_clients", "02", seen=seen) == [
        (
            "loss_on_its_data",
            "On the data of client 02, the model before the rise has a loss of 5 and an accuracy of 10 %. On hold-out "
            "data with the same labels, its loss is 0.3 and its accuracy 90 %.",
        ),
        (
            "loss_of_first_batch",
            "In round 3, client 02 logged a loss of 0.5 on its first batch. Today the same model has a loss of 5 on "
            "the same batch, so the client's data have changed. If the labels are changed back (y to 1 - y), the loss "
            "equals the logged loss. If the client corrects these labels, it can stay in the run.",
        ),
        ("left_out", "Without client 02, the hold-out loss after a round is 9.5 % lower."),  # 1 - exp(-0.1)
    ]


def test_evidence_of_noise() -> None:
    noise = a_client("02", **WRONG_LABELS | {"feature_distance": 3.0, "learnable": (0.31, 0.3), "left_out": NAN})
    assert said("faulty_clients", "02", seen=findings(noise))[1:] == [
        (
            "learnable",
            "A model that is trained on one half of the data of client 02 gets 31 % of the other half right. The most "
            "frequent label alone gives 30 %.",
        ),
    ]


@pytest.mark.parametrize("changes", [{"learnable": (0.31, 0.3)}, {"feature_distance": 3.0}])
def test_labels_are_said_to_be_noise_only_of_shifted_features_that_were_learnt(changes: dict[str, object]) -> None:
    wrong = a_client("02", **WRONG_LABELS | {"left_out": NAN} | changes)
    assert [signal for signal, _ in said("faulty_clients", "02", seen=findings(wrong))] == ["loss_on_its_data"]


def test_evidence_of_wrong_updates() -> None:
    scaled = {"norm": 8.0, "norm_per_step": 8.0, "grown": 7.0, "sent_over_trained": 10.0}
    odd = a_client("02", **scaled, cosine=-0.5, cosine_during=-0.4, slope=0.4, left_out=-0.1)
    assert said("faulty_clients", "02", seen=findings(odd)) == [
        (
            "update_norm",
            "The updates of client 02 are 8 times as long as the median client's. Per local step, they are 7 times as "
            "long as its own updates before the rise.",
        ),
        (
            "sent_over_trained",
            "During the rise, client 02 sent an update that is 10 times as long as the update that training on its "
            "data gives.",
        ),
        (
            "update_cosine_robust",
            "The updates of client 02 point away from the other clients' updates: the cosine is -0.50. Before the rise "
            "it was 0.5.",
        ),
        (
            "slope",
            "The update of client 02 raises the loss on its own data: its cosine to the gradient of this loss is 0.4. "
            "Training gives a negative cosine.",
        ),
        ("left_out", "Without client 02, the hold-out loss after a round is 10.5 % higher."),  # exp(0.1) - 1
    ]


def test_influence_that_rounds_to_nothing_is_the_same() -> None:
    (*_, (signal, says)) = said("faulty_clients", "02", seen=findings(a_client("02", left_out=0.0001)))
    assert (signal, says) == ("left_out", "Without client 02, the hold-out loss after a round is the same.")


def test_evidence_of_failures() -> None:
    far = a_client("02", failed=20, first_broken=0, loss=301.0)  # more than 1,000 times 0.3
    near = a_client("03", failed=21, loss=300.0)
    assert said("non_finite", "02", "03", seen=findings(far, near)) == [
        (
            "finite",
            "The update of client 02 was first not finite in round 20. Its loss is not finite from local step 1 on.",
        ),
        (
            "loss_on_its_data",
            "The model before the rise has a loss of 301 on the data of this client, and of 0.3 on hold-out data with "
            "the same labels.",
        ),
        ("finite", "The update of client 03 was first not finite in round 21."),
    ]


def test_evidence_of_the_other_causes() -> None:
    seen = findings(
        a_client("01", width=0.5, labels=np.array([30, 30])),
        a_client("02", epochs=9.0),
        a_client("03", **SHIFT),
        label_skew=0.5,
        dissimilarity=NAN,
        size_skew=0.4,
        objective_gap=0.3,
        steepness=2.5,
        train_trend=-0.1,
        val_trend=0.1,
    )
    assert said("architecture_variation", "01", seen=seen) == [
        ("width", "Client 01 trains only 50 % of the hidden units. The other units are trained without its data."),
    ]
    assert said("unequal_local_work", "02", seen=seen) == [
        ("epochs", "The number of local epochs a round is 9 at client 02, and 1 at the median client."),
        (
            "objective_gap",
            "The unequal numbers of local steps move 30 % of the aggregation weight to other clients than intended "
            "(FedNova).",
        ),
    ]
    assert said("feature_shift", "03", seen=seen) == [
        (
            "feature_distance",
            "The features of client 03 are 3 standard deviations away from hold-out data that the model takes for the "
            "same classes. The labels of this client make sense.",
        ),
    ]
    assert said("server_learning_rate", seen=seen, server_optimizer={"learning_rate": 2.5}) == [
        (
            "server_learning_rate",
            "The server applies the mean update with sgd at a learning rate of 2.5. Plain averaging is sgd at 1.",
        ),
    ]
    assert said("quantity_skew", seen=seen) == [
        (
            "size_skew",
            "The clients have different numbers of examples (Gini coefficient 0.40; 0 is equal). Client 01 alone has "
            "43 % of the examples.",
        ),
    ]  # 60 of 140
    assert said("label_skew", seen=seen) == [
        (
            "label_skew",
            "The mean distance of the clients' label mixes to the mix of all data is 0.50: 0 is the same mix, 2 is no "
            "label in common.",
        ),
        ("dissimilarity", "The clients' gradients disagree: the dissimilarity B is not known; 1 means that all agree."),
    ]
    assert said("client_learning_rate", seen=seen, client={"learning_rate": 0.25}) == [
        (
            "steepness",
            "The client learning rate 0.25 times the curvature of the clients' loss is 2.5. Above 2, each step of "
            "gradient descent goes too far, and the loss rises.",
        ),
    ]
    assert said("overfitting", seen=seen) == [
        (
            "train_trend",
            "From the first to the second half of these rounds, the loss on the hold-out data changed by +11 % and the "
            "loss on the training data by -10 %: the model overfits the training data.",
        ),
    ]


def test_evidence_speaks_of_five_clients_at_most_one_by_one() -> None:
    clients = [a_client(f"{k:02}", failed=20) for k in range(7)]
    named = said("non_finite", *[client.client for client in clients], seen=findings(*clients, num_clients=7))
    assert [re.findall(r"client (\d+)", says) for _, says in named] == [["00"], ["01"], ["02"], ["03"], ["04"]]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ([{"memory": MIXED_UP}, {"memory": MIXED_UP}], "labels"),
        ([{"memory": MIXED_UP}, WRONG_LABELS], "data"),
        ([{"slope": 0.4}, {"slope": 0.4}], "updates"),
        ([{"slope": 0.4}, WRONG_LABELS], ""),
    ],
)
def test_fault_is_named_that_all_faulty_clients_have(changes: list[dict[str, object]], fault: str) -> None:
    seen = findings(*[a_client(f"{k:02}", **change) for k, change in enumerate(changes)])
    assert fault_of("faulty_clients", ("00", "01"), seen) == fault
    assert fault_of("faulty_clients", (), seen) == fault_of("non_finite", ("00",), seen) == ""


def test_percentages_are_hundredths() -> None:
    # Each share is at least 0.6, so a change by 1 % gives another whole number.
    data = {"loss": 5.0, "accuracy": 0.6, "expected_accuracy": 0.95, "feature_distance": 3.0}
    wrong = a_client("02", **data, learnable=(0.62, 0.61), left_out=NAN)
    narrow = a_client("01", width=0.75, labels=np.array([60, 60]))  # 120 of 200 examples
    trends = {"train_trend": np.log(0.4), "val_trend": np.log(1.8)}
    seen = findings(narrow, wrong, objective_gap=0.6, **trends)
    shown = {
        "faulty_clients": [["60 %", "95 %"], ["62 %", "61 %"]],
        "architecture_variation": [["75 %"]],
        "unequal_local_work": [[], ["60 %"]],
        "quantity_skew": [["60 %"]],
        "overfitting": [["+80 %", "-60 %"]],
    }
    for cause, percentages in shown.items():
        clients = ("01",) if cause == "architecture_variation" else ("02",)
        says = [text for _, text in said(cause, *clients, seen=seen)]
        assert [re.findall(r"[+-]?\d+ %", text) for text in says] == percentages, cause


def test_evidence_of_a_part_of_the_model_has_the_width_as_its_value() -> None:
    seen = findings(a_client("01", width=0.75))
    (width,) = evidence_for("architecture_variation", ("01",), seen, parse({}))
    assert (width.signal, width.value, width.expected) == ("width", 0.75, 1.0)
