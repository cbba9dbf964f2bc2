"""`federate.client`: local training."""

from typing import Literal

from pydantic import model_validator

from tasks.settings.base import Section, setting

UPDATE_ONLY = ("sgd", "fedprox")
"""The kinds that send their update and nothing else; what others send beside it is averaged over the clients."""


class ScheduleSettings(Section):
    """The client learning rate over the rounds, as a factor of `learning_rate`; round t = 1 … T."""

    kind: Literal["constant", "exponential", "step", "cosine"] = setting(
        "constant",
        title="Kind",
        description="round t: 1, decay^(t-1), decay^floor((t-1)/every), or half a cosine from 1 to final, (t-1)/T of "
        "the way",
    )
    decay: float = setting(
        0.99,
        gt=0,
        le=1,
        title="Decay",
        description="factor a round, or a step",
        used_by=("exponential", "step"),
    )
    every: int = setting(10, ge=1, title="Every", description="rounds between two steps", used_by=("step",))
    final: float = setting(
        0.0,
        ge=0,
        le=1,
        title="Final factor",
        description="factor to which the cosine falls, reached after the last round",
        used_by=("cosine",),
    )


ClientKind = Literal["sgd", "fedprox", "scaffold", "fednova", "feddyn", "mimelite"]


class ClientSettings(Section):
    """What a client does with the global model in one round."""

    kind: ClientKind = setting("sgd", title="Kind", description="the local algorithm; sgd is FedAvg's")
    learning_rate: float = setting(0.05, gt=0, title="Learning rate", description="step size of the local SGD")
    batch_size: int = setting(20, ge=1, title="Batch size", description="examples a step; the last part-batch is used")
    momentum: float = setting(
        0.0,
        ge=0,
        lt=1,
        title="Momentum",
        description="heavy-ball momentum, started at 0 each round; mimelite: the server's, which its clients share",
    )
    weight_decay: float = setting(
        0.0, ge=0, title="Weight decay", description="L2: this times the parameters joins the gradient"
    )
    clip_norm: float = setting(
        0.0, ge=0, title="Clip norm", description="largest norm of the gradient of a step; 0: not clipped"
    )
    schedule: ScheduleSettings = setting(
        ScheduleSettings(), title="Schedule", description="learning rate over the rounds"
    )
    mu: float = setting(
        0.01,
        ge=0,
        title="FedProx mu",
        description="pull to the global model: mu/2 · squared distance joins the loss; 0: FedAvg",
        used_by=("fedprox",),
    )
    option: Literal["I", "II"] = setting(
        "II",
        title="SCAFFOLD option",
        description="next control variate: I, the gradient at the global model (a pass more); II, the mean on the way",
        used_by=("scaffold",),
    )
    fednova_mu: float = setting(
        0.0,
        ge=0,
        title="FedNova mu",
        description="FedProx's pull, with FedNova's weights for it; 0: none",
        used_by=("fednova",),
    )
    alpha: float = setting(
        0.1,
        gt=0,
        title="FedDyn alpha",
        description="weight of the dynamic regulariser",
        used_by=("feddyn",),
    )

    @model_validator(mode="after")
    def _pull_is_stable(self) -> "ClientSettings":
        """Gradient descent on the pull alone, a parabola of curvature c, diverges from η c = 2(1 + momentum) on."""
        name = {"fedprox": "mu", "fednova": "fednova_mu", "feddyn": "alpha"}.get(self.kind)
        limit = 2 * (1 + self.momentum) / self.learning_rate
        if name and getattr(self, name) >= limit:
            raise ValueError(
                f"{name} must be < 2 (1 + momentum) / learning_rate = {limit:g}, or its own pull makes the local steps "
                f"diverge, got {getattr(self, name)}"
            )
        return self

    @model_validator(mode="after")
    def _mime_has_momentum(self) -> "ClientSettings":
        if self.kind == "mimelite" and self.momentum == 0:
            raise ValueError("momentum must be > 0 with kind mimelite, whose clients share it, got 0.0")
        return self
