"""What speaks for a proven cause, in sentences."""

import math
from collections.abc import Iterator

from tasks.diagnose.evidence.findings import ClientFinding, Findings
from tasks.diagnose.evidence.memory import as_trained, told
from tasks.diagnose.thresholds import SHIFTED
from tasks.settings import Settings

_SHOWN = 5
"""Most clients of whom the evidence speaks one by one."""

Evidence = Iterator[tuple[str, float, float | None, str]]


def evidence_for(cause: str, clients: tuple[str, ...], found: Findings, settings: Settings) -> Evidence:
    """Yields what speaks for a cause: signal, value, what is usual, and a sentence."""
    by_id = {one.client: one for one in found.clients}
    named = [by_id[client] for client in clients if client in by_id]
    federate = settings.federate
    match cause:
        case "faulty_clients":
            for one in named[:_SHOWN]:
                yield from _of_faulty(one)
        case "non_finite":
            for one in named[:_SHOWN]:
                yield from _of_failed(one)
        case "feature_shift":
            for one in named[:_SHOWN]:
                yield (
                    "feature_distance",
                    one.feature_distance,
                    SHIFTED,
                    f"The features of client {one.client} are {one.feature_distance:.2g} standard deviations from "
                    "those of hold-out data that look like the same classes; its labels make sense.",
                )
                yield from _remembered(one)
        case "label_skew":
            yield (
                "label_skew",
                found.label_skew,
                0.0,
                f"The clients' label mixes are {found.label_skew:.2f} from that of all data on average, where 0 is "
                "the same mix and 2 no label in common.",
            )
            yield (
                "dissimilarity",
                found.dissimilarity,
                1.0,
                f"The clients' gradients disagree: B is {_short(found.dissimilarity)}, and 1 if all agree.",
            )
        case "quantity_skew":
            largest = max(found.clients, key=lambda one: int(one.labels.sum()))
            share = float(largest.labels.sum() / sum(one.labels.sum() for one in found.clients))
            yield (
                "size_skew",
                found.size_skew,
                0.0,
                f"The clients' sizes are unequal (Gini {found.size_skew:.2f}, 0 if equal): client {largest.client} "
                f"alone has {100 * share:.0f} % of the examples.",
            )
        case "unequal_local_work":
            for one in named[:_SHOWN]:
                yield (
                    "epochs",
                    one.epochs,
                    found.usual_epochs,
                    f"Client {one.client} passes {one.epochs:.3g} times over its data in a round, the median client "
                    f"{found.usual_epochs:.3g} times.",
                )
            yield (
                "objective_gap",
                found.objective_gap,
                0.0,
                f"Through their steps, {100 * found.objective_gap:.0f} % of the weight lies with other clients than "
                "was meant (FedNova).",
            )
        case "client_learning_rate":
            rate = federate.client.learning_rate
            yield (
                "steepness",
                found.steepness,
                2.0,
                f"The learning rate {rate:g} times the curvature of the clients' loss is {_short(found.steepness)}; "
                "above 2, steps of gradient descent overshoot farther than they came.",
            )
        case "server_learning_rate":
            optimizer = federate.server_optimizer
            yield (
                "server_learning_rate",
                optimizer.learning_rate,
                1.0,
                f"The server applies the mean update with {optimizer.kind} at a rate of {optimizer.learning_rate:g}; "
                "plain averaging is sgd at 1.",
            )
        case "architecture_variation":
            for one in named[:_SHOWN]:
                yield (
                    "width",
                    one.width,
                    1.0,
                    f"Client {one.client} trains {100 * one.width:.0f} % of the hidden units; the others' parts "
                    "were fitted without it.",
                )
        case "overfitting":
            yield (
                "train_trend",
                found.train_trend,
                0.0,
                f"From the first to the second half of these rounds the hold-out loss changed by "
                f"{100 * math.expm1(found.val_trend):+.0f} % and the training loss by "
                f"{100 * math.expm1(found.train_trend):+.0f} %: the model learns its clients' examples by heart.",
            )


def fault_of(cause: str, clients: tuple[str, ...], found: Findings) -> dict[str, str]:
    """Returns what is faulty, where it is the same of all the clients: `labels`, `data` or `updates`."""
    named = [one for one in found.clients if one.client in clients]
    if cause != "faulty_clients" or not named:
        return {}
    if all(one.relabelled for one in named):
        return {"fault": "labels"}
    if all(one.changed for one in named):
        return {"fault": "data"}
    return {} if any(one.changed for one in named) else {"fault": "updates"}


def _of_faulty(one: ClientFinding) -> Evidence:
    who = f"client {one.client}"
    if one.changed:
        yield (
            "loss_on_its_data",
            one.loss,
            one.expected_loss,
            f"The model before the rise has loss {_short(one.loss)} on the data of {who} and gets "
            f"{100 * one.accuracy:.0f} % right; on hold-out data with the same labels, {_short(one.expected_loss)} and "
            f"{100 * one.expected_accuracy:.0f} %.",
        )
        if one.shifted and one.learnable is not None:
            yield (
                "learnable",
                one.learnable[0],
                one.learnable[1],
                f"Trained on one half of the data of {who}, the model gets {100 * one.learnable[0]:.0f} % of the other "
                f"half right; always answering its most frequent label, {100 * one.learnable[1]:.0f} %.",
            )
        yield from _remembered(one)
    else:
        yield (
            "update_norm",
            one.norm,
            1.0,
            f"The updates of {who} are {_short(one.norm)} times as long as the median client's, for as much work, and "
            f"{_short(one.grown)} times as long as its own before the rise, step for step.",
        )
    if math.isfinite(one.sent_over_trained) and not as_trained(one.sent_over_trained):
        yield (
            "sent_over_trained",
            one.sent_over_trained,
            1.0,
            f"In the rise {who} sent an update {_short(one.sent_over_trained)} times as long as training on its "
            f"data gives from the same model.",
        )
    if one.turned:
        yield (
            "update_cosine_robust",
            one.cosine,
            one.cosine_before,
            f"The updates of {who} point away from the others': cosine {one.cosine:.2f}, before the rise "
            f"{_short(one.cosine_before)}.",
        )
    if one.uphill:
        yield (
            "slope",
            one.slope,
            -1.0,
            f"What {who} sends goes uphill on its own data: its cosine to the gradient of its loss is "
            f"{_short(one.slope)}. Training goes downhill.",
        )
    if math.isfinite(one.left_out):
        yield (
            "left_out",
            one.left_out,
            0.0,
            f"Without {who}, the hold-out loss after a round is {_lower(-math.expm1(-one.left_out))}.",
        )


def _lower(share: float) -> str:
    size = f"{100 * abs(share):.1f} %"
    return "the same" if size == "0.0 %" else f"{size} {'lower' if share > 0 else 'higher'}"


def _remembered(one: ClientFinding) -> Evidence:
    """What the log says of the data that the client had."""
    memory = one.memory
    if memory is None or not memory.changed:
        return
    says = (
        f"In round {memory.round}, client {one.client} logged a loss of {memory.logged:.7g} on its first batch; with "
        f"its data of today, the same model has {memory.now:.7g} on the same examples: they have changed since."
    )
    if memory.relabelling:
        says += f" With the labels changed back ({told(memory.relabelling)}), they give the logged loss again."
        says += " Put right where they are, the client can stay."
    yield "loss_of_first_batch", memory.now, memory.logged, says


def _of_failed(one: ClientFinding) -> Evidence:
    step = "" if one.first_broken is None else f"; its loss is not finite from local step {one.first_broken + 1} on"
    yield (
        "finite",
        0.0 if one.failed is None else float(one.failed),
        None,
        f"The update of client {one.client} was not finite from round {one.failed} on{step}.",
    )
    if not one.loss <= 1e3 * one.expected_loss:
        yield (
            "loss_on_its_data",
            one.loss,
            one.expected_loss,
            f"The model before the rise has loss {_short(one.loss)} on its data; on hold-out data with the same "
            f"labels, {_short(one.expected_loss)}.",
        )


def _short(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not known"
