"""The settings of a run: frozen models of params.yaml, one section a step.

Every pluggable thing is one section with `kind`. A field that only some kinds use names them in `used_by`; under
another kind it must stand at its default, so that no setting is ever silently without effect. The defaults here are
those of params.yaml, and a test holds the two equal: a form needs them, and so does that check.
"""

import difflib
import re
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, ErrorDetails

from tasks.errors import DataError, RunError, SettingsError, one_line, reading, shown
from tasks.files import check_regular

STEPS = ("partition", "preprocess", "federate", "prune", "evaluate", "diagnose")
"""The steps in the order of the pipeline."""


MOST_CLIENTS = 100_000
"""Clients of a run, a folder each; where they do not fit the data or memory, that is said later."""

_MOST_ERRORS = 10
_LONGEST_NUMBER = 100
"""Characters of a number in params.yaml: longer ones Python does not read, or takes minutes for (1:1:1:…, base 60)."""
_MOST_KEYS = 10_000
"""Keys of a mapping after its merges (`<<`), which a few lines can make more than any memory holds."""

_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")


def _only(*kinds: str) -> dict[str, Any]:
    return {"used_by": list(kinds)}


def _size(value: Any) -> Any:
    if value is None:
        return ()
    if isinstance(value, int) and not isinstance(value, bool):
        return () if value == 0 else (value, value)
    return tuple(value) if isinstance(value, list) else value


def _as_yaml(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _items(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Integer = Annotated[int, Field(lt=2**31)]
"""What TensorFlow's int32 bears; each `int` of a section is one."""

ClientIds = Annotated[tuple[str, ...], BeforeValidator(_items)]

ColumnNames = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_items)]


class Section(BaseModel):
    """A section of params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())

    chooser: ClassVar[str] = "kind"

    def __init_subclass__(cls, **options: Any) -> None:
        """Bounds every integer of the section, so that none can be forgotten; pydantic reads the annotations later."""
        for name, kind in list(vars(cls).get("__annotations__", {}).items()):
            if kind is int:
                cls.__annotations__[name] = Integer
        super().__init_subclass__(**options)

    @model_validator(mode="before")
    @classmethod
    def _read_exponents(cls, raw: Any) -> Any:
        """Makes 1e-05 a number: PyYAML, of YAML 1.1, reads text, while DVC, of YAML 1.2, writes numbers so."""
        if not isinstance(raw, dict):
            return raw
        floats = {name for name, field in cls.model_fields.items() if field.annotation is float}
        return {
            name: float(value) if name in floats and isinstance(value, str) and _EXPONENT.fullmatch(value) else value
            for name, value in raw.items()
        }

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Adds to a form's help of a field with which kinds it has an effect."""
        schema = handler(core)
        for entry in handler.resolve_ref_schema(schema)["properties"].values():
            if "used_by" in entry:
                entry["description"] += cls._when(entry["used_by"])
        return schema

    @classmethod
    def _when(cls, used_by: list[str]) -> str:
        others = [kind for kind in get_args(cls.model_fields[cls.chooser].annotation) if kind not in used_by]
        if not others:
            return ""
        return f" (not with {others[0]})" if len(others) == 1 < len(used_by) else f" (only with {', '.join(used_by)})"

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> "Section":
        chosen = getattr(self, self.chooser, None)
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            used_by = extra.get("used_by") if isinstance(extra, dict) else None
            if not isinstance(used_by, list) or chosen in used_by:
                continue
            value = getattr(self, name)
            if value != field.get_default(call_default_factory=True, validated_data={}):
                default = field.get_default(call_default_factory=True, validated_data={})
                raise ValueError(
                    f"{name} has no effect with {self.chooser} {chosen} (only with {', '.join(map(str, used_by))}): "
                    f"leave it at {_as_yaml(default)!r}, got {_as_yaml(value)!r}"
                )
        return self


DataKind = Literal["digits", "npz", "clients", "images", "table", "synthetic"]

Missing = Literal["refuse", "mean", "median", "most_frequent"]


class DataSettings(Section):
    """Where the raw data comes from."""

    kind: DataKind = Field("digits", title="Kind", description="where the raw data comes from")
    path: str = Field(
        "tasks/datasets",
        min_length=1,
        title="Path",
        description="file or folder of the raw data, a DVC dependency; the default serves the embedded kinds",
        json_schema_extra=_only("npz", "clients", "images", "table"),
    )
    test_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        title="Test fraction",
        description="share of the examples held out, stratified by label, where the data has no test set of its own",
    )
    label_column: str = Field(
        "label",
        min_length=1,
        title="Label column",
        description="column of the labels",
        json_schema_extra=_only("table"),
    )
    client_column: str = Field(
        "", title="Client column", description="column of the client ids; empty: none", json_schema_extra=_only("table")
    )
    drop_columns: ColumnNames = Field(
        (),
        title="Columns left out",
        description="columns that are no features, such as an id",
        json_schema_extra=_only("table"),
    )
    missing: Missing = Field(
        "refuse",
        title="Missing values",
        description="what fills a missing number, taken from the training rows; missing text is filled with the most "
        "frequent",
        json_schema_extra=_only("table"),
    )
    group_column: str = Field(
        "",
        title="Group column",
        description="column of what must not be parted, such as patients: none is in training and hold-out both, and "
        "the column is no feature; empty: none",
        json_schema_extra=_only("images", "table"),
    )
    hold_out_clients: ClientIds = Field(
        (),
        title="Hold out clients",
        description="clients that are the hold-out set, whole, in place of test_fraction of all examples; empty: none",
        json_schema_extra=_only("clients", "images", "table", "synthetic"),
    )
    skip_unreadable: bool = Field(
        False,
        title="Skip unreadable",
        description="leave out records that cannot be read, counted by client; else the first one ends the run",
        json_schema_extra=_only("npz", "clients", "images", "table"),
    )
    alpha: float = Field(
        1.0,
        ge=0,
        title="Synthetic alpha",
        description="sd of the clients' model means in FedProx's Synthetic(alpha, beta); shifts all logits alike",
        json_schema_extra=_only("synthetic"),
    )
    beta: float = Field(
        1.0,
        ge=0,
        title="Synthetic beta",
        description="how much the clients' features differ, Synthetic(alpha, beta) of FedProx",
        json_schema_extra=_only("synthetic"),
    )
    num_clients: int = Field(
        30,
        ge=1,
        le=MOST_CLIENTS,
        title="Synthetic clients",
        description="clients drawn",
        json_schema_extra=_only("synthetic"),
    )


PartitionKind = Literal[
    "iid", "dirichlet", "label_mix", "shards", "classes", "quantity", "feature_noise", "feature_shift", "natural"
]


class PartitionSettings(Section):
    """How the examples are divided over the clients."""

    kind: PartitionKind = Field("dirichlet", title="Kind", description="the rule that divides the examples")
    seed: int = Field(
        -1,
        ge=-1,
        lt=2**31,
        title="Seed",
        description="of hold-out and division, to train with other seeds on the same clients; -1: the run's seed",
    )
    num_clients: int = Field(
        10,
        ge=1,
        le=MOST_CLIENTS,
        title="Clients",
        description="number of clients",
        json_schema_extra=_only(*(kind for kind in get_args(PartitionKind) if kind != "natural")),
    )
    min_examples: int = Field(
        10,
        ge=0,
        title="Fewest examples",
        description="examples that every client must get; 0: clients without any are dropped and reported",
    )
    alpha: float = Field(
        0.3,
        gt=0,
        title="Dirichlet alpha",
        description="concentration; the smaller, the more skewed; to infinity: equal shares",
        json_schema_extra=_only("dirichlet", "label_mix", "quantity"),
    )
    shards_per_client: int = Field(
        2, ge=1, title="Shards", description="label-sorted shards a client", json_schema_extra=_only("shards")
    )
    classes_per_client: int = Field(
        2, ge=1, title="Classes", description="classes a client holds", json_schema_extra=_only("classes")
    )
    law: Literal["dirichlet", "power"] = Field(
        "dirichlet",
        title="Law of sizes",
        description="how the clients' sizes are drawn",
        json_schema_extra=_only("quantity"),
    )
    exponent: float = Field(
        1.5,
        gt=0,
        title="Exponent",
        description="size of the i-th client ~ i^-exponent, where law is power",
        json_schema_extra=_only("quantity"),
    )
    sigma: float = Field(
        0.1,
        ge=0,
        title="Noise",
        description="variance of the last client's Gaussian noise, in squared units of the features",
        json_schema_extra=_only("feature_noise"),
    )
    brightness: float = Field(
        0.2,
        ge=0,
        le=1,
        title="Brightness",
        description="largest shift of a client's pixels, a fraction of the full range",
        json_schema_extra=_only("feature_shift"),
    )
    contrast: float = Field(
        0.2,
        ge=0,
        lt=1,
        title="Contrast",
        description="largest relative change of a client's contrast",
        json_schema_extra=_only("feature_shift"),
    )
    rotation: float = Field(
        15.0,
        ge=0,
        le=180,
        title="Rotation",
        description="largest turn of a client's images, degrees",
        json_schema_extra=_only("feature_shift"),
    )


class AugmentSettings(Section):
    """Random changes of a batch of images, drawn anew for every step of every round."""

    flip: bool = Field(False, title="Flip", description="mirror each image left to right with probability 1/2")
    brightness: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Brightness",
        description="shift of each image's pixels ~ U(-b, b), a fraction of the full range; 0: none",
    )


class PreprocessSettings(Section):
    """What a client does to its own data before the first round."""

    resize: Annotated[tuple[Annotated[Integer, Field(ge=1)], ...], BeforeValidator(_size)] = Field(
        (),
        max_length=2,
        title="Resize",
        description="height and width of the images, pixels; empty: as they are; one number: square",
    )
    normalize: Literal["none", "global", "client"] = Field(
        "global",
        title="Normalise",
        description="to mean 0 and sd 1: by sums over all clients, by each client's own statistics, or not at all",
    )
    augment: AugmentSettings = Field(AugmentSettings(), title="Augment", description="random changes while training")

    @model_validator(mode="after")
    def _both_sides(self) -> "PreprocessSettings":
        if len(self.resize) == 1:
            raise ValueError(f"resize must be empty, one number or [height, width], got {list(self.resize)}")
        return self


class ScheduleSettings(Section):
    """The client learning rate over the rounds, as a factor of `learning_rate`; round t = 1 … T."""

    kind: Literal["constant", "exponential", "step", "cosine"] = Field(
        "constant",
        title="Kind",
        description="round t: 1, decay^(t-1), decay^floor((t-1)/every), or half a cosine from 1 to final, (t-1)/T of "
        "the way",
    )
    decay: float = Field(
        0.99,
        gt=0,
        le=1,
        title="Decay",
        description="factor a round, or a step",
        json_schema_extra=_only("exponential", "step"),
    )
    every: int = Field(10, ge=1, title="Every", description="rounds between two steps", json_schema_extra=_only("step"))
    final: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Final factor",
        description="factor to which the cosine falls, reached after the last round",
        json_schema_extra=_only("cosine"),
    )


ClientKind = Literal["sgd", "fedprox", "scaffold", "fednova", "feddyn", "mimelite"]


class ClientSettings(Section):
    """What a client does with the global model in one round."""

    kind: ClientKind = Field("sgd", title="Kind", description="the local algorithm; sgd is FedAvg's")
    learning_rate: float = Field(0.05, gt=0, title="Learning rate", description="step size of the local SGD")
    batch_size: int = Field(20, ge=1, title="Batch size", description="examples a step; the last part-batch is used")
    momentum: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="Momentum",
        description="heavy-ball momentum, started at 0 each round; mimelite: the server's, which its clients share",
    )
    weight_decay: float = Field(
        0.0, ge=0, title="Weight decay", description="L2: this times the parameters joins the gradient"
    )
    clip_norm: float = Field(
        0.0, ge=0, title="Clip norm", description="largest norm of the gradient of a step; 0: not clipped"
    )
    schedule: ScheduleSettings = Field(
        ScheduleSettings(), title="Schedule", description="learning rate over the rounds"
    )
    mu: float = Field(
        0.01,
        ge=0,
        title="FedProx mu",
        description="pull to the global model: mu/2 · squared distance joins the loss; 0: FedAvg",
        json_schema_extra=_only("fedprox"),
    )
    option: Literal["I", "II"] = Field(
        "II",
        title="SCAFFOLD option",
        description="next control variate: I, the gradient at the global model (a pass more); II, the mean on the way",
        json_schema_extra=_only("scaffold"),
    )
    fednova_mu: float = Field(
        0.0,
        ge=0,
        title="FedNova mu",
        description="FedProx's pull, with FedNova's weights for it; 0: none",
        json_schema_extra=_only("fednova"),
    )
    alpha: float = Field(
        0.1,
        gt=0,
        title="FedDyn alpha",
        description="weight of the dynamic regulariser",
        json_schema_extra=_only("feddyn"),
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


PROTECTING = ("median", "trimmed_mean", "geometric_median", "krum", "multi_krum", "clipped_mean", "dp_mean")
"""The aggregators that bound what one client can do; what bypasses them would break the promise."""


class AggregatorSettings(Section):
    """How the clients' updates become one."""

    kind: Literal[
        "mean",
        "median",
        "trimmed_mean",
        "geometric_median",
        "krum",
        "multi_krum",
        "clipped_mean",
        "dp_mean",
        "compressed_mean",
    ] = Field("mean", title="Kind", description="the rule that combines the updates")
    weighting: Literal["examples", "uniform", "inverse_variance"] = Field(
        "examples",
        title="Weighting",
        description="weight of a client: its examples, 1, or 1 / variance of its preprocessed features",
        json_schema_extra=_only("mean", "geometric_median", "clipped_mean", "compressed_mean"),
    )
    trim: float = Field(
        0.2,
        ge=0,
        lt=0.5,
        title="Trim",
        description="fraction of the clients left out at each end of every entry, rounded down to whole clients",
        json_schema_extra=_only("trimmed_mean"),
    )
    num_faulty: int = Field(
        1,
        ge=0,
        le=MOST_CLIENTS,
        title="Faulty clients",
        description="f, how many clients may send anything at all; a round needs at least 2f + 3",
        json_schema_extra=_only("krum", "multi_krum"),
    )
    num_selected: int = Field(
        0,
        ge=0,
        le=MOST_CLIENTS,
        title="Selected clients",
        description="m, how many of the best updates are averaged, at most all but num_faulty; 0: those",
        json_schema_extra=_only("multi_krum"),
    )
    clipping: Literal["fixed", "adaptive"] = Field(
        "fixed",
        title="Clipping",
        description="longest update: clip_norm, or from there towards a quantile of the updates' norms",
        json_schema_extra=_only("clipped_mean", "dp_mean"),
    )
    clip_norm: float = Field(
        1.0,
        gt=0,
        title="Clip norm",
        description="L2 norm to which longer updates are scaled; with adaptive clipping, in the first round",
        json_schema_extra=_only("clipped_mean", "dp_mean"),
    )
    clip_quantile: float = Field(
        0.5,
        gt=0,
        lt=1,
        title="Clip quantile",
        description="share of the updates that adaptive clipping leaves as they are",
        json_schema_extra=_only("clipped_mean", "dp_mean"),
    )
    zeroing: bool = Field(
        False,
        title="Zeroing",
        description="make updates zero whose largest entry is far beyond the others'",
        json_schema_extra=_only("clipped_mean"),
    )
    noise_multiplier: float = Field(
        1.0,
        gt=0,
        title="Noise multiplier",
        description="sd of the Gaussian noise on the sum of the updates, in units of the clip norm",
        json_schema_extra=_only("dp_mean"),
    )
    delta: float = Field(
        1e-5,
        gt=0,
        lt=1,
        title="Delta",
        description="of the (epsilon, delta) guarantee; below 1 / number of clients",
        json_schema_extra=_only("dp_mean"),
    )
    target_epsilon: float = Field(
        0.0,
        ge=0,
        title="Target epsilon",
        description="a run that would spend more is refused; 0: no limit",
        json_schema_extra=_only("dp_mean"),
    )
    quantization_bits: int = Field(
        8,
        ge=1,
        le=16,
        title="Bits",
        description="bits an entry of a quantised update",
        json_schema_extra=_only("compressed_mean"),
    )


class ServerOptimizerSettings(Section):
    """What the server does with the combined update."""

    kind: Literal["sgd", "momentum", "adagrad", "adam", "yogi"] = Field(
        "sgd", title="Kind", description="sgd with learning rate 1 is FedAvg"
    )
    learning_rate: float = Field(1.0, gt=0, title="Learning rate", description="step size of the server")
    momentum: float = Field(
        0.9, ge=0, lt=1, title="Momentum", description="FedAvgM's momentum", json_schema_extra=_only("momentum")
    )
    beta_1: float = Field(
        0.9,
        ge=0,
        lt=1,
        title="Beta 1",
        description="decay of the first moment",
        json_schema_extra=_only("adam", "yogi"),
    )
    beta_2: float = Field(
        0.99,
        ge=0,
        lt=1,
        title="Beta 2",
        description="decay of the second moment",
        json_schema_extra=_only("adam", "yogi"),
    )
    epsilon: float = Field(
        0.001,
        gt=0,
        title="Epsilon",
        description="adaptivity: added to the root of the second moment (tau of Reddi 2021)",
        json_schema_extra=_only("adagrad", "adam", "yogi"),
    )


class SamplingSettings(Section):
    """Which clients take part in a round."""

    kind: Literal["all", "uniform", "by_examples", "stratified", "power_of_choice"] = Field(
        "all",
        title="Kind",
        description="every client, or a draw without replacement: equal, in proportion to examples (with weighting "
        "uniform, or size counts twice), so that the labels are covered, or those of the highest loss (weighting "
        "uniform)",
    )
    clients_per_round: int = Field(
        5,
        ge=1,
        le=MOST_CLIENTS,
        title="Clients a round",
        description="clients drawn",
        json_schema_extra=_only("uniform", "by_examples", "stratified", "power_of_choice"),
    )
    candidates: int = Field(
        10,
        ge=1,
        le=MOST_CLIENTS,
        title="Candidates",
        description="clients that measure their loss (d), from which those of the highest are taken",
        json_schema_extra=_only("power_of_choice"),
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

    kind: Literal["same", "per_client", "range"] = Field(
        "same", title="Kind", description="the same for all, by client, or drawn for each client and round"
    )
    epochs: int = Field(
        1,
        ge=1,
        title="Epochs",
        description="passes over the client's data; with per_client, of the clients not named",
        json_schema_extra=_only("same", "per_client"),
    )
    by_client: dict[str, Annotated[Integer, Field(ge=1)]] = Field(
        {}, title="By client", description="client id: epochs", json_schema_extra=_only("per_client")
    )
    low: int = Field(1, ge=1, title="Fewest epochs", description="epochs, included", json_schema_extra=_only("range"))
    high: int = Field(5, ge=1, title="Most epochs", description="epochs, included", json_schema_extra=_only("range"))

    @model_validator(mode="after")
    def _ordered(self) -> "LocalWorkSettings":
        if self.low > self.high:
            raise ValueError(f"low must be <= high, got {self.low} and {self.high}")
        return self


FaultKind = Literal["none", "flipped_labels", "noisy_features", "scaled_update", "reversed_update", "not_finite"]
_FAULTS = [kind for kind in get_args(FaultKind) if kind != "none"]


class FaultSettings(Section):
    """A fire drill: what a few broken clients do to the model, simulated."""

    kind: FaultKind = Field(
        "none",
        title="Kind",
        description="what the clients do: label y becomes C - 1 - y, features become noise, the update is sent times "
        "factor or -factor, or with a NaN",
    )
    clients: ClientIds = Field(
        (), title="Clients", description="ids of the broken clients", json_schema_extra=_only(*_FAULTS)
    )
    from_round: int = Field(
        1,
        ge=1,
        title="From round",
        description="first round in which they are broken; pruning's rounds come after it",
        json_schema_extra=_only(*_FAULTS),
    )
    factor: float = Field(
        10.0,
        gt=0,
        title="Factor",
        description="of the update sent; 10 of one client in ten turns the average round where it is reversed",
        json_schema_extra=_only("scaled_update", "reversed_update"),
    )

    @model_validator(mode="after")
    def _somebody_is_faulty(self) -> "FaultSettings":
        if self.kind != "none" and not self.clients:
            raise ValueError(f"clients must name at least one client with kind {self.kind}, got []")
        if len(set(self.clients)) < len(self.clients):
            raise ValueError(f"clients must name each client once, got {list(self.clients)}")
        return self


class RuntimeSettings(Section):
    """Where the rounds are computed."""

    kind: Literal["in_process"] = Field("in_process", title="Kind", description="in_process: this process")
    threads: int = Field(0, ge=0, title="Threads", description="clients computed at a time; 0: one a core")

    @model_validator(mode="before")
    @classmethod
    def _worker_is_gone(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        wrong = []
        if raw.get("kind") == "worker":
            wrong.append("kind must be in_process, got 'worker': TFF's worker process let the whole network run code")
        obsolete = [name for name in ("deadline", "restarts") if name in raw]
        if obsolete:
            them = "them" if len(obsolete) > 1 else "it"
            wrong.append(f"{' and '.join(obsolete)} went with kind worker: delete {them}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return raw


class EarlyStoppingSettings(Section):
    """When the rounds end before the last: judged by the training loss, for nothing is chosen by the hold-out set."""

    patience: int = Field(
        0, ge=0, title="Patience", description="rounds without a lower train_loss after which training ends; 0: never"
    )
    min_delta: float = Field(
        0.0, ge=0, title="Least improvement", description="nats by which train_loss must fall to count as lower"
    )


class FederateSettings(Section):
    """The federated rounds."""

    model: str = Field(
        "mlp",
        pattern=r"^(logistic|mlp|cnn|resnet8|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        title="Model",
        description="logistic, mlp, cnn, resnet8, or module:function of your own Keras 2 builder",
    )
    rounds: int = Field(30, ge=1, title="Rounds", description="federated rounds")
    evaluate_every: int = Field(1, ge=1, title="Evaluate every", description="rounds between two validations")
    checkpoint_every: int = Field(5, ge=1, title="Checkpoint every", description="rounds between two checkpoints")
    guard: Literal["stop", "rollback", "continue"] = Field(
        "continue",
        title="Guard",
        description="when a client fails, the model is not finite or val_loss rises: stop, go back, or go on",
    )
    client: ClientSettings = Field(ClientSettings(), title="Client", description="local training")
    aggregator: AggregatorSettings = Field(AggregatorSettings(), title="Aggregator", description="combines the updates")
    server_optimizer: ServerOptimizerSettings = Field(
        ServerOptimizerSettings(), title="Server optimiser", description="applies the combined update"
    )
    sampling: SamplingSettings = Field(SamplingSettings(), title="Sampling", description="who takes part")
    local_work: LocalWorkSettings = Field(
        LocalWorkSettings(), title="Local work", description="how long a client trains"
    )
    exclude: ClientIds = Field((), title="Exclude", description="ids of clients that take no part")
    shared_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="Shared fraction",
        description="size of a public set, drawn evenly over the labels, that every client adds to its own data, as a "
        "fraction of all training examples; those are shown to all clients, and their owners visit them twice",
    )
    width: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        {},
        title="Width",
        description="client id: share of the hidden units that it can train (HeteroFL); clients not named: 1",
    )
    early_stopping: EarlyStoppingSettings = Field(
        EarlyStoppingSettings(), title="Early stopping", description="end before the last round"
    )
    runtime: RuntimeSettings = Field(RuntimeSettings(), title="Runtime", description="where the rounds are computed")
    faults: FaultSettings = Field(FaultSettings(), title="Faults", description="a rehearsal with broken clients")

    @model_validator(mode="after")
    def _fault_happens(self) -> "FederateSettings":
        if self.faults.from_round > self.rounds:
            raise ValueError(
                f"faults.from_round must be <= federate.rounds ({self.rounds}), got {self.faults.from_round}"
            )
        return self

    @model_validator(mode="after")
    def _widths_fit(self) -> "FederateSettings":
        if self.width and self.client.kind not in ("sgd", "fedprox"):
            raise ValueError(
                f"width needs client.kind sgd or fedprox, got {self.client.kind}: what the others add up over the "
                "clients is not defined for parameters that only some of them hold"
            )
        if self.width and self.aggregator.kind != "mean":
            raise ValueError(
                f"width needs aggregator.kind mean, got {self.aggregator.kind}: the others would count the parameters "
                "that a client does not hold as votes for no change"
            )
        return self

    @model_validator(mode="after")
    def _one_vector_where_the_aggregator_protects(self) -> "FederateSettings":
        if self.client.kind not in ("sgd", "fedprox") and self.aggregator.kind in PROTECTING:
            what = "its number of steps" if self.client.kind == "fednova" else "its vector"
            raise ValueError(
                f"client.kind must be sgd or fedprox with aggregator.kind {self.aggregator.kind}, for what else "
                f"{self.client.kind} sends, {what}, is only averaged, so that one client could change the model at "
                f"will (or be found in it), got {self.client.kind}"
            )
        return self

    @model_validator(mode="after")
    def _nothing_beside_what_is_private(self) -> "FederateSettings":
        if self.aggregator.kind != "dp_mean":
            return self
        breaks = {
            "sampling.kind must be all or uniform": (
                self.sampling.kind not in ("all", "uniform"),
                f"for no epsilon is known where the data decide who takes part, got {self.sampling.kind}",
            ),
            "guard must be stop or continue": (
                self.guard == "rollback",
                "for going back to the lowest training loss reveals it without noise, got rollback",
            ),
            "early_stopping.patience must be 0": (
                self.early_stopping.patience > 0,
                f"for stopping by the training loss reveals it without noise, got {self.early_stopping.patience}",
            ),
            "shared_fraction must be 0": (
                self.shared_fraction > 0,
                f"for it shows clients' examples to all the others, got {self.shared_fraction}",
            ),
        }
        for allowed, (broken, reason) in breaks.items():
            if broken:
                raise ValueError(f"{allowed} with aggregator.kind dp_mean, {reason}")
        return self


class PruneSettings(Section):
    """Magnitude pruning between further federated rounds."""

    rounds: int = Field(
        10, ge=1, title="Rounds", description="federated rounds after training, while weights are pruned"
    )
    initial_sparsity: float = Field(
        0.3,
        ge=0,
        lt=1,
        title="Initial sparsity",
        description="fraction of zeros in the prunable weights at begin_round",
    )
    final_sparsity: float = Field(
        0.8,
        ge=0,
        lt=1,
        title="Final sparsity",
        description="fraction of zeros in the prunable weights from end_round on",
    )
    begin_round: int = Field(1, ge=1, title="Begin round", description="pruning round of the first masks")
    end_round: int = Field(8, ge=1, title="End round", description="pruning round that reaches the final sparsity")
    frequency: int = Field(1, ge=1, title="Frequency", description="rounds between two updates of the masks")

    @model_validator(mode="after")
    def _ordered(self) -> "PruneSettings":
        if self.initial_sparsity > self.final_sparsity:
            raise ValueError(
                f"initial_sparsity must be <= final_sparsity, got {self.initial_sparsity} and {self.final_sparsity}"
            )
        if self.end_round > self.rounds:
            raise ValueError(f"end_round must be <= prune.rounds ({self.rounds}), got {self.end_round}")
        if self.begin_round >= self.end_round:
            raise ValueError(f"begin_round must be < prune.end_round ({self.end_round}), got {self.begin_round}")
        if (self.end_round - self.begin_round) % self.frequency:
            raise ValueError(
                f"frequency must divide end_round - begin_round ({self.end_round - self.begin_round}), or the final "
                f"sparsity is never reached, got {self.frequency}"
            )
        return self


class EvaluateSettings(Section):
    """The final numbers."""

    batch_size: int = Field(256, ge=1, title="Batch size", description="examples predicted at a time")


class DiagnoseSettings(Section):
    """Did the loss rise, when, who drifted, and why."""

    significance: float = Field(
        0.01, gt=0, lt=1, title="Significance", description="probability of calling a rise where there is only noise"
    )
    budget: float = Field(
        3.0,
        gt=0,
        title="Budget",
        description="rounds that the replays may take, over those that they explain (at least 15)",
    )


class TrackSettings(Section):
    """What MLflow gets."""

    register_as: str = Field(
        "", title="Register as", description="name in MLflow's model registry for the models; empty: not registered"
    )

    @model_validator(mode="after")
    def _can_be_registered(self) -> "TrackSettings":
        if set(self.register_as) & set("/:") or self.register_as != self.register_as.strip():
            raise ValueError(f"register_as must hold no / or : and no space around it, got {self.register_as!r}")
        return self


class Settings(Section):
    """All settings of a run: params.yaml."""

    seed: int = Field(0, ge=0, lt=2**31, title="Seed", description="every random draw follows from it")
    data: DataSettings = Field(DataSettings(), title="Data", description="where the raw data comes from")
    partition: PartitionSettings = Field(PartitionSettings(), title="Partition", description="who gets which examples")
    preprocess: PreprocessSettings = Field(
        PreprocessSettings(), title="Preprocess", description="each client's own data"
    )
    federate: FederateSettings = Field(FederateSettings(), title="Federate", description="the federated rounds")
    prune: PruneSettings = Field(PruneSettings(), title="Prune", description="a smaller model")
    evaluate: EvaluateSettings = Field(EvaluateSettings(), title="Evaluate", description="the final numbers")
    diagnose: DiagnoseSettings = Field(DiagnoseSettings(), title="Diagnose", description="why the loss went up")
    track: TrackSettings = Field(TrackSettings(), title="Track", description="what MLflow gets")


def parse(raw: Any) -> Settings:
    """Returns the settings in `raw`, the mapping that params.yaml holds.

    Raises:
        SettingsError: one line that names each setting that is wrong, its value and what is allowed.
    """
    if not isinstance(raw, dict):
        raise SettingsError(f"params.yaml must hold a mapping of settings, got {type(raw).__name__}")
    with reading("params.yaml must hold a mapping of settings", SettingsError):
        try:
            return Settings.model_validate(raw)
        except ValidationError as exc:
            more = exc.error_count() - _MOST_ERRORS
            said = [*map(_say, exc.errors()[:_MOST_ERRORS]), *([f"and {more} more"] if more > 0 else [])]
            raise SettingsError("; ".join(said)) from exc


def with_settings(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Returns `settings` with others at the dotted names in `changes`.

    Raises:
        SettingsError: they do not fit the rest.
    """
    return parse(laid_over(settings.model_dump(mode="json"), changes))


def switch_kind(section: str, kind: str, **values: Any) -> dict[str, Any]:
    """Returns the changes that give `section` (dotted, such as federate.aggregator) another kind, by dotted names.

    Fields that `kind` does not use go back to their defaults, for they would be refused beside it; fields that it uses
    get their `values`, and else stay as they are.
    """
    changes: dict[str, Any] = {"kind": kind}
    for name, field in _section(section).model_fields.items():
        extra = field.json_schema_extra
        used_by = extra.get("used_by") if isinstance(extra, dict) else None
        if isinstance(used_by, list) and kind not in used_by:
            changes[name] = field.get_default(call_default_factory=True, validated_data={})
    return {f"{section}.{name}": value for name, value in {**changes, **values}.items()}


def _section(name: str) -> type[Section]:
    section: type[Section] = Settings
    for part in name.split("."):
        section = section.model_fields[part].annotation  # type: ignore[assignment]
    return section


def laid_over(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of `raw`, a mapping as params.yaml holds it, with others at the dotted names in `changes`."""
    result = dict(raw)
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        result[head] = laid_over(result.get(head) or {}, {rest: value}) if rest else value
    return result


def value_at(raw: Any, name: str) -> Any:
    """Returns what stands at the dotted `name` in `raw`, a mapping as params.yaml holds it; None if nothing does."""
    for part in name.split("."):
        raw = raw.get(part) if isinstance(raw, Mapping) else None
    return raw


def load(path: Path) -> Settings:
    """Returns the settings in the YAML file `path`.

    Raises:
        SettingsError: no such file, not YAML, or wrong settings.
    """
    try:
        check_regular(path)
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as exc:
        raise SettingsError(f"cannot read {path}: {exc}") from exc
    with reading(f"{path} must be YAML, nested a few levels deep", SettingsError):
        try:
            raw = yaml.load(text, _Loader)
        except yaml.YAMLError as exc:
            raise SettingsError(f"{path} is not YAML: {exc}") from exc
    if not isinstance(raw, dict):
        raise SettingsError(f"{path} must hold a mapping of settings, got {'nothing' if raw is None else shown(raw)}")
    return parse(raw)


class _Loader(yaml.SafeLoader):
    """Refuses what DVC refuses or pydantic cannot say well, and names the line of every value that is wrong."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Returns the value of `node`; what Python refuses, such as 2026-99-99 or `!!int abc`, is an error of YAML."""
        if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
            raise _wrong(f"a number must have at most {_LONGEST_NUMBER} digits, got {len(node.value)}", node)
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as exc:
            raise _wrong(one_line(exc), node) from exc

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Returns the mapping; a key that stands twice, of which PyYAML would take the last, is refused as DVC does."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _KEYS:
                got = shown(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise _wrong(f"a key must be text (in quotes if it looks like a number), got {got}", key)
            if key.value in seen:
                raise _wrong(f"{key.value} stands there twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Puts what `<<` names into the mapping."""
        super().flatten_mapping(node)
        if len(node.value) > _MOST_KEYS:
            raise _wrong(f"a mapping must have at most {_MOST_KEYS} keys, got {len(node.value)}", node)


_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
_KEYS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}


def _wrong(says: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, says, node.start_mark)


@contextmanager
def naming(*names: str) -> Iterator[None]:
    """Makes every error of the block name a setting, for the user has to know which one to change.

    A DataError or a lack of memory that names none gets `names`, with their values if you like. An OSError (a path too
    long, a link in a circle, a folder that may not be read) becomes a DataError. The innermost block counts.
    """
    among = f" ({', '.join(names)})"
    try:
        yield
    except DataError as exc:
        if any(re.search(rf"(?<![\w./]){re.escape(name)}(?![\w/])", str(exc)) for name in fields()):
            raise
        raise DataError(f"{exc}{among}") from exc
    except OSError as exc:
        raise DataError(f"cannot read {exc.filename or 'the data'}: {exc.strerror or one_line(exc)}{among}") from exc
    except MemoryError as exc:
        raise RunError(f"not enough memory: {one_line(exc)}{among}") from exc


def fields(section: type[Section] = Settings, prefix: str = "") -> dict[str, Any]:
    """Returns every setting by its dotted name, with pydantic's FieldInfo; sections are walked, not listed."""
    found: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found |= fields(field.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = field
    return found


def _say(error: ErrorDetails) -> str:
    name = ".".join(str(part)[:_LONGEST_NUMBER] for part in error["loc"])
    got, context = shown(error["input"]), error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            close = difflib.get_close_matches(name, fields(), n=1)
            return f"{name} is not a setting" + (f": did you mean {close[0]}?" if close else "")
        case "value_error":
            return f"{name}.{context['error']}" if name else str(context["error"])
        case "literal_error":
            return f"{name} must be one of {context['expected']}, got {got}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            (key, bound), *_ = context.items()
            sign = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}[key]
            return f"{name} must be {sign} {bound}, got {got}"
        case "float_type" | "int_type" if isinstance(error["input"], str):
            return f"{name} must be a number, got {got}"
        case "model_type" | "dict_type":
            return f"{name} must be a section of settings, got {got}"
        case "tuple_type":
            return f"{name} must be a list, such as [{got}], got {got}"
        case "string_type" if isinstance(error["input"], int | float):
            return f"{name}: input should be a valid string, got {got}: put it in quotes"
        case _:
            return f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}, got {got}"
