"""`federate`: the federated training. The sections client and aggregator have their own modules."""

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from tasks.settings.aggregator import PROTECTING, AggregatorSettings
from tasks.settings.base import MOST_CLIENTS, ClientIds, Integer, Section, setting
from tasks.settings.client import UPDATE_ONLY, ClientSettings


class ServerOptimizerSettings(Section):
    """How the server applies the combined update."""

    kind: Literal["sgd", "momentum", "adagrad", "adam", "yogi"] = setting(
        "sgd", title="Kind", description="how the server applies the combined update; sgd with rate 1: FedAvg"
    )
    learning_rate: float = setting(1.0, gt=0, title="Learning rate", description="step size of the server; FedAvg: 1")
    momentum: float = setting(
        0.9, ge=0, lt=1, title="Momentum", description="momentum of FedAvgM; 0: none", used_by=("momentum",)
    )
    beta_1: float = setting(
        0.9, ge=0, lt=1, title="Beta 1", description="decay rate of the first moment", used_by=("adam", "yogi")
    )
    beta_2: float = setting(
        0.99, ge=0, lt=1, title="Beta 2", description="decay rate of the second moment", used_by=("adam", "yogi")
    )
    epsilon: float = setting(
        0.001,
        gt=0,
        title="Epsilon",
        description="added to the square root of the second moment (tau of Reddi 2021); smaller: more adaptive",
        used_by=("adagrad", "adam", "yogi"),
    )


class SamplingSettings(Section):
    """Which clients take part in a round."""

    kind: Literal["all", "uniform", "by_examples", "stratified", "power_of_choice"] = setting(
        "all",
        title="Kind",
        description="all: every client; all other kinds draw clients without replacement: uniform, with equal chances; "
        "by_examples, in proportion to their examples; stratified, so that all labels are covered; power_of_choice, "
        "the highest losses among the candidates, which are drawn by examples. The kinds by_examples and "
        "power_of_choice go with weighting uniform, or a client's size counts twice",
    )
    clients_per_round: int = setting(
        5,
        ge=1,
        le=MOST_CLIENTS,
        title="Clients per round",
        description="clients that are drawn for each round; with fewer clients, all take part",
        used_by=("uniform", "by_examples", "stratified", "power_of_choice"),
    )
    candidates: int = setting(
        10,
        ge=1,
        le=MOST_CLIENTS,
        title="Candidates",
        description="clients that measure their loss (d in the paper); the ones with the highest loss take part",
        used_by=("power_of_choice",),
    )

    @model_validator(mode="after")
    def _enough_candidates(self) -> "SamplingSettings":
        if self.kind == "power_of_choice" and self.candidates < self.clients_per_round:
            raise ValueError(
                f"candidates must be >= clients_per_round ({self.clients_per_round}), got {self.candidates}"
            )
        return self


class LocalWorkSettings(Section):
    """How long a client trains in a round."""

    kind: Literal["same", "per_client", "range"] = setting(
        "same",
        title="Kind",
        description="epochs of local training: same, equal for all clients; per_client, as in by_client; range, drawn "
        "from low to high for each client and round",
    )
    epochs: int = setting(
        1,
        ge=1,
        title="Epochs",
        description="passes over a client's data per round; with per_client, for clients that by_client does not name",
        used_by=("same", "per_client"),
    )
    by_client: dict[str, Annotated[Integer, Field(ge=1)]] = setting(
        {}, title="By client", description="client id: epochs per round", used_by=("per_client",)
    )
    low: int = setting(
        1, ge=1, title="Fewest epochs", description="fewest epochs of a client in a round", used_by=("range",)
    )
    high: int = setting(
        5, ge=1, title="Most epochs", description="most epochs of a client in a round", used_by=("range",)
    )

    @model_validator(mode="after")
    def _ordered(self) -> "LocalWorkSettings":
        if self.low > self.high:
            raise ValueError(f"low must be <= high, got {self.low} and {self.high}")
        return self


FaultKind = Literal[
    "none", "flipped_labels", "noisy_features", "scaled_update", "reversed_update", "not_finite", "absent"
]
_FAULTS = [kind for kind in get_args(FaultKind) if kind != "none"]


class FaultSettings(Section):
    """Planted faults: some clients are made faulty on purpose, to see what that does to the model."""

    kind: FaultKind = setting(
        "none",
        title="Kind",
        description="fault of the clients: flipped_labels, label y of C classes becomes C - 1 - y; noisy_features, the "
        "features become Gaussian noise; scaled_update, the update is multiplied by factor; reversed_update, by "
        "-factor; not_finite, the update has a NaN; absent, the clients are drawn, but take no part",
    )
    clients: ClientIds = setting((), title="Clients", description="ids of the faulty clients", used_by=tuple(_FAULTS))
    from_round: int = setting(
        1,
        ge=1,
        title="From round",
        description="first round of the fault, at most federate.rounds",
        used_by=tuple(_FAULTS),
    )
    until_round: int = setting(
        0,
        ge=0,
        title="Until round",
        description="last round of the fault; 0: it lasts to the end of the run, also in prune",
        used_by=tuple(_FAULTS),
    )
    factor: float = setting(
        10.0,
        gt=0,
        title="Factor",
        description="factor of the faulty updates; at 10, one reversed client of ten turns the average around",
        used_by=("scaled_update", "reversed_update"),
    )

    @model_validator(mode="after")
    def _somebody_is_faulty(self) -> "FaultSettings":
        if self.kind != "none" and not self.clients:
            raise ValueError(f"clients must name at least one client with kind {self.kind}, got []")
        if len(set(self.clients)) < len(self.clients):
            raise ValueError(f"clients must name each client once, got {list(self.clients)}")
        return self

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> "FaultSettings":
        if 0 < self.until_round < self.from_round:
            raise ValueError(f"until_round must be 0 or >= from_round ({self.from_round}), got {self.until_round}")
        return self


_SCHEDULER = re.compile(r"(tcp|tls)://[^\s/@]+:[0-9]{1,5}")


class RuntimeSettings(Section):
    """Where the rounds are computed."""

    kind: Literal["in_process", "dask"] = setting(
        "in_process",
        title="Kind",
        description="in_process: in the process of the step; dask: the clients on the workers of a Dask cluster. Both "
        "give the same results",
    )
    threads: int = setting(
        0,
        ge=0,
        title="Threads",
        description="clients that are computed at the same time; 0: one per core",
        used_by=("in_process",),
    )
    address: str = setting(
        "",
        title="Address",
        description="address of the Dask scheduler, like tls://10.0.0.1:8786; Dask's own configuration names the "
        "certificates",
        used_by=("dask",),
    )
    deadline: float = setting(
        120.0,
        gt=0,
        title="Deadline",
        description="most seconds without a worker; then the run ends, and can go on from its checkpoint",
        used_by=("dask",),
    )

    @model_validator(mode="after")
    def _dask_has_an_address(self) -> "RuntimeSettings":
        if self.kind == "dask" and not _SCHEDULER.fullmatch(self.address):
            raise ValueError(
                "address must be the address of a Dask scheduler with kind dask, like tls://10.0.0.1:8786 or "
                f"tcp://127.0.0.1:8786, got {self.address!r}"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _worker_is_gone(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        wrong = []
        if raw.get("kind") == "worker":
            allowed = "kind must be in_process or dask, got 'worker'"
            wrong.append(f"{allowed}: TFF's worker process let the whole network run code")
        if "restarts" in raw:
            wrong.append("restarts belonged to kind worker, which was removed: delete it")
        if wrong:
            raise ValueError("; ".join(wrong))
        return raw


class EarlyStoppingSettings(Section):
    """When training ends before its last round.

    The training loss decides, because the hold-out data must not decide anything.
    """

    patience: int = setting(
        0, ge=0, title="Patience", description="training ends after so many rounds without a lower train_loss; 0: never"
    )
    min_delta: float = setting(
        0.0,
        ge=0,
        title="Least improvement",
        description="train_loss counts as lower if it falls by more than this, in nats",
    )


class FederateSettings(Section):
    """The federated training."""

    model: str = setting(
        "mlp",
        pattern=r"^(logistic|mlp|cnn|resnet8|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        title="Model",
        description="logistic, mlp, cnn or resnet8; or your own Keras 2 builder, as module:function",
    )
    rounds: int = setting(30, ge=1, title="Rounds", description="federated rounds of training")
    evaluate_every: int = setting(
        1, ge=1, title="Evaluate every", description="n: val_loss is measured in every n-th round and in the last"
    )
    checkpoint_every: int = setting(
        5, ge=1, title="Checkpoint every", description="n: a checkpoint is written after every n-th round and the last"
    )
    guard: Literal["stop", "rollback", "continue"] = setting(
        "continue",
        title="Guard",
        description="if a client fails, the loss or the model is not finite, or val_loss rises in training: stop ends "
        "the run; rollback returns to the best checkpoint and leaves out the failed clients; continue goes on",
    )
    client: ClientSettings = setting(ClientSettings(), title="Client", description="local training")
    aggregator: AggregatorSettings = setting(
        AggregatorSettings(), title="Aggregator", description="how the updates are combined"
    )
    server_optimizer: ServerOptimizerSettings = setting(
        ServerOptimizerSettings(), title="Server optimiser", description="how the update is applied"
    )
    sampling: SamplingSettings = setting(SamplingSettings(), title="Sampling", description="which clients take part")
    local_work: LocalWorkSettings = setting(
        LocalWorkSettings(), title="Local work", description="epochs per client and round"
    )
    exclude: ClientIds = setting((), title="Exclude", description="ids of clients that take no part in the rounds")
    shared_fraction: float = setting(
        0.0,
        ge=0,
        lt=1,
        title="Shared fraction",
        description="size of a public set that every client adds to its own data, as a fraction of all training "
        "examples; it is drawn from the clients' examples, which are read into one place, evenly over the labels; all "
        "clients see it, and the owners of its examples visit them twice an epoch; 0: none",
    )
    width: dict[str, Annotated[float, Field(gt=0, le=1)]] = setting(
        {},
        title="Width",
        description="client id: fraction of the hidden units that the client trains (HeteroFL); clients not named: 1",
    )
    early_stopping: EarlyStoppingSettings = setting(
        EarlyStoppingSettings(), title="Early stopping", description="when training ends before its last round"
    )
    runtime: RuntimeSettings = setting(RuntimeSettings(), title="Runtime", description="where the rounds are computed")
    faults: FaultSettings = setting(
        FaultSettings(), title="Faults", description="faults planted in clients, to test what they do"
    )

    @model_validator(mode="after")
    def _fault_happens(self) -> "FederateSettings":
        if self.faults.from_round > self.rounds:
            raise ValueError(
                f"faults.from_round must be <= federate.rounds ({self.rounds}), got {self.faults.from_round}"
            )
        return self

    @model_validator(mode="after")
    def _widths_fit(self) -> "FederateSettings":
        if self.width and self.client.kind not in UPDATE_ONLY:
            raise ValueError(
                f"width needs client.kind sgd or fedprox, got {self.client.kind}: the other kinds sum vectors over the "
                "clients, which is not defined for parameters that only some clients have"
            )
        if self.width and self.aggregator.kind != "mean":
            raise ValueError(
                f"width needs aggregator.kind mean, got {self.aggregator.kind}: the other kinds would count the "
                "parameters that a client does not have as votes for no change"
            )
        return self

    @model_validator(mode="after")
    def _one_vector_where_the_aggregator_protects(self) -> "FederateSettings":
        if self.client.kind not in UPDATE_ONLY and self.aggregator.kind in PROTECTING:
            what = "its number of steps" if self.client.kind == "fednova" else "its vector"
            raise ValueError(
                f"client.kind must be sgd or fedprox with aggregator.kind {self.aggregator.kind}, because a client of "
                f"{self.client.kind} also sends {what}, which is only averaged: one client could change the model "
                f"without bound, or be found in the model, got {self.client.kind}"
            )
        return self

    @model_validator(mode="after")
    def _nothing_beside_what_is_private(self) -> "FederateSettings":
        if self.aggregator.kind != "dp_mean":
            return self
        breaks = {
            "sampling.kind must be all or uniform": (
                self.sampling.kind not in ("all", "uniform"),
                f"because no epsilon is known if the data decide who takes part, got {self.sampling.kind}",
            ),
            "guard must be stop or continue": (
                self.guard == "rollback",
                "because going back to the lowest training loss reveals it without noise, got rollback",
            ),
            "early_stopping.patience must be 0": (
                self.early_stopping.patience > 0,
                f"because stopping by the training loss reveals it without noise, got {self.early_stopping.patience}",
            ),
            "shared_fraction must be 0": (
                self.shared_fraction > 0,
                f"because all clients see the public examples, got {self.shared_fraction}",
            ),
        }
        for allowed, (broken, reason) in breaks.items():
            if broken:
                raise ValueError(f"{allowed} with aggregator.kind dp_mean, {reason}")
        return self
