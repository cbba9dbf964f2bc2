"""What speaks for a proven cause, in sentences, on plain findings."""

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
            "The model before the rise has loss 5 on the data of client 02 and gets 10 % right; on hold-out data with "
            "the same labels, 0.3 and 90 %.",
        ),
        (
            "loss_of_first_batch",
            "In round 3, client 02 logged a loss of 0.5 on its first batch; with its data of today, the same model has "
            "5 on the same examples: they have changed since. With the labels changed back (y to 1 - y), they give the "
            "logged loss again. Put right where they are, the client can stay.",
        ),
        ("left_out", "Without client 02, the hold-out loss after a round is 9.5 % lower."),  # 1 - exp(-0.1)
    ]


def test_evidence_of_noise() -> None:
    noise = a_client("02", **WRONG_LABELS | {"feature_distance": 3.0, "learnable": (0.31, 0.3), "left_out": NAN})
    assert said("faulty_clients", "02", seen=findings(noise))[1:] == [
        (
            "learnable",
            "Trained on one half of the data of client 02, the model gets 31 % of the other half right; always "
            "answering its most frequent label, 30 %.",
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
            "The updates of client 02 are 8 times as long as the median client's, for as much work, and 7 times as "
            "long as its own before the rise, step for step.",
        ),
        (
            "sent_over_trained",
            "In the rise client 02 sent an update 10 times as long as training on its data gives from the same model.",
        ),
        (
            "update_cosine_robust",
            "The updates of client 02 point away from the others': cosine -0.50, before the rise 0.5.",
        ),
        (
            "slope",
            "What client 02 sends goes uphill on its own data: its cosine to the gradient of its loss is 0.4. Training "
            "goes downhill.",
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
            "The update of client 02 was not finite from round 20 on; its loss is not finite from local step 1 on.",
        ),
        (
            "loss_on_its_data",
            "The model before the rise has loss 301 on its data; on hold-out data with the same labels, 0.3.",
        ),
        ("finite", "The update of client 03 was not finite from round 21 on."),
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
        ("width", "Client 01 trains 50 % of the hidden units; the others' parts were fitted without it."),
    ]
    assert said("unequal_local_work", "02", seen=seen) == [
        ("epochs", "Client 02 passes 9 times over its data in a round, the median client 1 times."),
        ("objective_gap", "Through their steps, 30 % of the weight lies with other clients than was meant (FedNova)."),
    ]
    assert said("feature_shift", "03", seen=seen) == [
        (
            "feature_distance",
            "The features of client 03 are 3 standard deviations from those of hold-out data that look like the same "
            "classes; its labels make sense.",
        ),
    ]
    assert said("server_learning_rate", seen=seen, server_optimizer={"learning_rate": 2.5}) == [
        (
            "server_learning_rate",
            "The server applies the mean update with sgd at a rate of 2.5; plain averaging is sgd at 1.",
        ),
    ]
    assert said("quantity_skew", seen=seen) == [
        (
            "size_skew",
            "The clients' sizes are unequal (Gini 0.40, 0 if equal): client 01 alone has 43 % of the examples.",
        ),
    ]  # 60 of 140
    assert said("label_skew", seen=seen) == [
        (
            "label_skew",
            "The clients' label mixes are 0.50 from that of all data on average, where 0 is the same mix and 2 no "
            "label in common.",
        ),
        ("dissimilarity", "The clients' gradients disagree: B is not known, and 1 if all agree."),
    ]
    assert said("client_learning_rate", seen=seen, client={"learning_rate": 0.25}) == [
        (
            "steepness",
            "The learning rate 0.25 times the curvature of the clients' loss is 2.5; above 2, steps of gradient "
            "descent overshoot farther than they came.",
        ),
    ]
    assert said("overfitting", seen=seen) == [
        (
            "train_trend",
            "From the first to the second half of these rounds the hold-out loss changed by +11 % and the training "
            "loss by -10 %: the model learns its clients' examples by heart.",
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
    # Each share is at least 0.6, so that 1 % more of it is another whole number.
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
