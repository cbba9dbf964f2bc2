"""Steps of local training that overshoot."""

from collections.abc import Iterator, Sequence

from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation, Words
from tasks.diagnose.causes.shared import CLIPPED, lower_rate, slower
from tasks.diagnose.evidence.findings import ClientFinding
from tasks.diagnose.phrases import measured
from tasks.diagnose.replay.change import Change
from tasks.diagnose.thresholds import OVERSHOT, STEEP


def _candidates(at: Situation) -> list[Candidate]:
    # A lower rate slows every rise, whatever its cause: without a sign of its own, it is no cause.
    if not at.findings.overshoots:
        return []
    lower = lower_rate(at)
    change = Change(f"at a client learning rate of {lower:g}", {"federate.client.learning_rate": lower})
    return [Candidate("client_learning_rate", change)]


def _evidence(clients: Sequence[ClientFinding], at: Situation) -> Iterator[Indication]:
    del clients
    rate, steepness = at.settings.federate.client.learning_rate, at.findings.steepness
    yield Indication(
        "steepness",
        steepness,
        STEEP,
        f"The client learning rate {rate:g} times the curvature of the clients' loss is {measured(steepness)}. Above "
        f"{STEEP:g}, each step of gradient descent goes too far, and the loss rises.",
    )
    if at.findings.overshooting > OVERSHOT:
        yield Indication(
            "overshooting",
            at.findings.overshooting,
            0.0,
            f"Local training raises the loss on a client's own data, or fails, at "
            f"{100 * at.findings.overshooting:.0f} % of the clients with sound data. Training is meant to lower it.",
        )


def _remedies(clients: tuple[str, ...], at: Situation) -> list[Remedy]:
    del clients
    return [*slower(at), CLIPPED]


CLIENT_LEARNING_RATE = CauseKind(
    words=Words(
        "too high a client learning rate",
        "the learning rate of {} is too high",
        "the clients' learning rate is too high",
        "Each step of local training goes too far, so the loss rises or stays high.",
        {
            "too_low": Words(
                "too low a client learning rate",
                "the learning rate of {} is too low",
                "the clients' learning rate is too low",
                "Each step of local training is so small that the model has learned too little when the run ends.",
            )
        },
    ),
    candidates=_candidates,
    evidence=_evidence,
    remedies=_remedies,
    beside_another=True,
)
