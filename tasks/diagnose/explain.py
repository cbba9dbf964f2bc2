"""Puts what was observed and what the replays showed into diagnosis.json, in sentences that need no paper."""

import math
from collections.abc import Iterator
from typing import Any

from tasks.diagnose.causes import SHIFTED, ClientFinding, Findings
from tasks.diagnose.evidence.memory import as_trained, told
from tasks.diagnose.investigation import Investigation, Proof, Tried
from tasks.settings import Settings

_SHOWN = 5
"""Most clients of whom the evidence speaks one by one."""


def with_causes(diagnosis: dict[str, Any], seen: Investigation, settings: Settings) -> dict[str, Any]:
    """Returns the diagnosis with `verdict`, `causes`, and our own `ruled_out`, `remedies`, `replays` and `signals`."""
    return diagnosis | {
        "verdict": seen.causes[0].candidate.cause if seen.causes else "none",
        "causes": [_cause(proof, seen, settings) for proof in seen.causes],
        "ruled_out": [
            {
                "cause": proof.candidate.cause,
                "says": f"the same rounds {proof.candidate.change.says}",
                "removes": _share(proof.effect.mean) if proof.effect.by_seed else None,
            }
            for proof in seen.ruled_out
        ],
        "remedies": [_remedy(one) for one in seen.tried],
        "replays": {
            "from_round": seen.from_round,
            "rounds": seen.spent,
            "allowed": seen.allowed,
            "seeds": max((len(proof.effect.by_seed) for proof in seen.causes), default=1),
            "compared": list(seen.window),
            "reproduced": seen.reproduced,
        },
        "signals": _signals(seen.findings),
    }


def _cause(proof: Proof, seen: Investigation, settings: Settings) -> dict[str, Any]:
    candidate, effect = proof.candidate, proof.effect
    best = seen.proposed.get(candidate.cause)
    return {
        "cause": candidate.cause,
        "score": max(0.0, _share(effect.low if math.isfinite(effect.low) else effect.mean / 2)),
        "clients": list(candidate.clients),
        **_fault(candidate.cause, candidate.clients, seen.findings),
        "rounds": list(seen.window),
        "evidence": [
            {"signal": signal, "value": _number(value), "expected": _number(expected), "says": says}
            for signal, value, expected, says in _evidence(candidate.cause, candidate.clients, seen.findings, settings)
        ],
        "replay": {
            "change": candidate.change.described(),
            "says": f"the same rounds {candidate.change.says}",
            "from_round": seen.from_round,
            "rounds": min(len(proof.without), len(proof.with_change)),
            "loss": proof.loss,
            "loss_without": [_number(loss) for loss in proof.without],
            "loss_with": [_number(loss) for loss in proof.with_change],
            "seeds": len(effect.by_seed),
            "removes": {
                "mean": _share(effect.mean),
                "low": _share(effect.low) if math.isfinite(effect.low) else None,
                "high": _share(2 * effect.mean - effect.low) if math.isfinite(effect.low) else None,
            },
        },
        "remedy": None if best is None else {"settings": best.remedy.settings, "recovers": _share(best.recovers)},
    }


def _remedy(one: Tried) -> dict[str, Any]:
    return {
        "settings": one.remedy.settings,
        "says": one.remedy.says,
        "recovers": _share(one.recovers),
        "loss_after": _number(one.loss),
        "against": list(one.against),
    }


Evidence = Iterator[tuple[str, float, float | None, str]]


def _evidence(cause: str, clients: tuple[str, ...], found: Findings, settings: Settings) -> Evidence:
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


def _fault(cause: str, clients: tuple[str, ...], found: Findings) -> dict[str, str]:
    """What is faulty, where it is the same of all the clients: `labels`, `data` or `updates`."""
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


def _signals(found: Findings) -> dict[str, Any]:
    """The dear signals, of all clients: what the evidence was picked from."""
    clients: dict[str, dict[str, Any]] = {}
    for one in found.clients:
        values: dict[str, Any] = {
            name: _number(getattr(one, name))
            for name in (
                "loss",
                "usual_loss",
                "expected_loss",
                "accuracy",
                "expected_accuracy",
                "feature_distance",
                "norm",
                "norm_per_step",
                "grown",
                "slope",
                "cosine",
                "cosine_before",
                "cosine_during",
                "epochs",
                "left_out",
                "sent_over_trained",
            )
        }
        if one.memory is not None:
            kept = {name: _number(value) for name, value in (("logged", one.memory.logged), ("now", one.memory.now))}
            values["memory"] = {"round": one.memory.round, **kept}
        local = found.local_models.get(one.client)
        if local is not None:
            numbers = {name: value for name, value in vars(local).items() if name != "recalls"}
            values |= {name: _number(value) for name, value in numbers.items()}
            values["recalls"] = {str(label): _number(recall) for label, recall in sorted(local.recalls.items())}
        clients[one.client] = values
    return {
        "clients": clients,
        "label_skew": _number(found.label_skew),
        "size_skew": _number(found.size_skew),
        "steepness": _number(found.steepness),
        "dissimilarity": _number(found.dissimilarity),
        "objective_gap": _number(found.objective_gap),
        "train_trend": _number(found.train_trend),
        "val_trend": _number(found.val_trend),
        "local_drift": [_number(value) for value in found.local_drift],
    }


def _share(value: float) -> float:
    """A share of the rise: below the level before it, there is nothing left to take away."""
    return float(f"{min(1.0, max(-1.0, value)):.4g}")


def _number(value: float | None) -> float | None:
    """Six significant digits; None for what is not finite, which JSON cannot hold."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _short(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not known"
