"""A server that steps too far along the clients' average."""

from collections.abc import Iterator, Sequence

from tasks.diagnose.causes.base import Candidate, CauseKind, Indication, Remedy, Situation, Words
from tasks.diagnose.causes.shared import server_rate
from tasks.diagnose.evidence.findings import ClientFinding
from tasks.diagnose.replay.change import Change
from tasks.settings import Settings


def plain_averaging(settings: Settings) -> Remedy:
    """Returns the remedy of plain averaging on the server: sgd at a rate of 1."""
    plain = type(settings.federate.server_optimizer)(kind="sgd", learning_rate=1.0)
    values = plain.model_dump(mode="json").items()
    named = {f"federate.server_optimizer.{name}": value for name, value in values}
    return Remedy("use plain averaging on the server", named)


def _candidates(at: Situation) -> list[Candidate]:
    optimizer = at.settings.federate.server_optimizer
    if optimizer.kind == "sgd" and optimizer.learning_rate <= 1:
        return []
    change = Change("with plain averaging on the server", plain_averaging(at.settings).settings)
    return [Candidate("server_learning_rate", change)]


def _evidence(clients: Sequence[ClientFinding], at: Situation) -> Iterator[Indication]:
    del clients
    optimizer = at.settings.federate.server_optimizer
    yield Indication(
        "server_learning_rate",
        optimizer.learning_rate,
        1.0,
        f"The server applies the mean update with {optimizer.kind} at a learning rate of {optimizer.learning_rate:g}. "
        "Plain averaging is sgd at 1.",
    )


def _remedies(clients: tuple[str, ...], at: Situation) -> list[Remedy]:
    del clients
    return [
        plain_averaging(at.settings),
        server_rate(at.settings.federate.server_optimizer.learning_rate / 10),
    ]


SERVER_LEARNING_RATE = CauseKind(
    words=Words(
        "too high a server learning rate",
        "the server's learning rate is too high",
        "the server's learning rate is too high",
        "The server takes too large a step along the clients' average, so the loss rises or stays high.",
        {
            "too_low": Words(
                "too low a server learning rate",
                "the server's learning rate is too low",
                "the server's learning rate is too low",
                "The server takes such small steps along the clients' average that the model has learned too little "
                "when the run ends.",
            )
        },
    ),
    candidates=_candidates,
    evidence=_evidence,
    remedies=_remedies,
    evident=True,
    beside_another=True,
    harms_the_model=True,
)
