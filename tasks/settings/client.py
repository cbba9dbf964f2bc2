"""`federate.client`: local training."""

from typing import Literal

from pydantic import model_validator

from tasks.settings.base import Section, setting

UPDATE_ONLY = ("sgd", "fedprox")
"""The kinds that send only their update.

The other kinds also send a vector or the number of local steps, which the server averages over the clients.
"""


class ScheduleSettings(Section):
    """The factor of the client learning rate in round t = 1 … T; `federate` and `prune` each count from 1."""

    kind: Literal["constant", "exponential", "step", "cosine"] = setting(
        "constant",
        title="Kind",
        description="factor of the learning rate in round t of T: constant, 1; exponential, decay^(t-1); step, "
        "decay^floor((t-1)/every); cosine, final + (1 - final) (1 + cos(pi (t-1)/T)) / 2",
    )
    decay: float = setting(
        0.99,
        gt=0,
        le=1,
        title="Decay",
        description="factor per round (exponential), or once in as many rounds as every says (step); 1: constant rate",
        used_by=("exponential", "step"),
    )
    every: int = setting(10, ge=1, title="Every", description="rounds until the next decay", used_by=("step",))
    final: float = setting(
        0.0,
        ge=0,
        le=1,
        title="Final factor",
        description="factor to which the cosine falls; round T + 1, after the last one, would reach it",
        used_by=("cosine",),
    )


ClientKind = Literal["sgd", "fedprox", "scaffold", "fednova", "feddyn", "mimelite"]


class ClientSettings(Section):
    """How a client trains the global model in one round."""

    kind: ClientKind = setting("sgd", title="Kind", description="algorithm of local training; sgd: FedAvg")
    learning_rate: float = setting(0.05, gt=0, title="Learning rate", description="step size of local SGD")
    batch_size: int = setting(
        20, ge=1, title="Batch size", description="examples per local step; the last batch of an epoch can be smaller"
    )
    momentum: float = setting(
        0.0,
        ge=0,
        lt=1,
        title="Momentum",
        description="heavy-ball momentum of local SGD, which starts at 0 in each round; 0: none; with mimelite, the "
        "server's momentum, which all clients apply",
    )
    weight_decay: float = setting(
        0.0, ge=0, title="Weight decay", description="L2: weight_decay · parameters is added to each gradient; 0: none"
    )
    clip_norm: float = setting(
        0.0, ge=0, title="Clip norm", description="largest L2 norm of the gradient of a local step; 0: no clipping"
    )
    schedule: ScheduleSettings = setting(
        ScheduleSettings(), title="Schedule", description="how the learning rate changes over the rounds"
    )
    mu: float = setting(
        0.01,
        ge=0,
        title="FedProx mu",
        description="mu/2 · squared distance to the global model is added to the loss; 0: FedAvg",
        used_by=("fedprox",),
    )
    option: Literal["I", "II"] = setting(
        "II",
        title="SCAFFOLD option",
        description="a client's next control variate: I, the gradient at the global model, for one more pass over its "
        "data; II, the mean gradient of its local steps",
        used_by=("scaffold",),
    )
    fednova_mu: float = setting(
        0.0,
        ge=0,
        title="FedNova mu",
        description="FedProx's mu; FedNova's normalisation allows for it; 0: none",
        used_by=("fednova",),
    )
    alpha: float = setting(
        0.1,
        gt=0,
        title="FedDyn alpha",
        description="weight of FedDyn's dynamic regulariser",
        used_by=("feddyn",),
    )

    @model_validator(mode="after")
    def _pull_is_stable(self) -> "ClientSettings":
        """Refuses a pull that diverges by itself: a descent with curvature c diverges if η c ≥ 2(1 + momentum)."""
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
            raise ValueError(
                "momentum must be > 0 with kind mimelite, because its clients apply the server's momentum, got 0.0"
            )
        return self
