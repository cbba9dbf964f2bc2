"""What is planted in a healthy run: changed settings, changed data, or nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bases import PART
from operations import Operation, explode, few, few_and_doubtful, flip, invert, noise, rescale, shift_labels

ROUNDS, SHORT = 30, 12
"""The rounds of a run, and of a short one."""


@dataclass(frozen=True)
class Plant:
    """The causes that are planted, and how.

    Attributes:
        causes: their names in diagnosis.json; empty: nothing is planted.
        kind: `rise`: a lasting change; `once`: a change of one round, and the run is healthy again after it; `ended`:
            a run that dies; `standing`: there from round 1 to the end.
        also: names that are right as well, where what was planted fits two.
        at_first: changes the data of clients before the first round, in the healthy run too.
        num_at_first: number of clients that `at_first` changes; 0: all.
        healthy: settings before the onset; they override the base.
        changed: settings from the onset on; they override `healthy`.
        of_linear: the same for linear models; they override `changed`.
        of_base: the same by base; they override all others.
        by_client: (planted clients, onset) -> settings from the onset on; with `by_others`, as many other clients.
        operation: changes the data of the planted clients; with `to_others`, of all other clients.
        of_hold_out: changes the hold-out data from the onset on.
        raw: whether the data are changed before `preprocess`, which then computes mean and sd of the changed data.
        spike: whether the update of one more client is scaled in one earlier round.
        rounds: of the run.
        grows: an `ended` setting that is multiplied by 10 until the run dies, or a `standing` one that is doubled until
            the run does not learn.
        share: the fraction of clients that are planted; 0: one client.
        whole_classes: whether all holders of a class are planted, of as many classes as fit into `share`, at least one.
            Each client must hold one class.
    """

    causes: tuple[str, ...] = ()
    kind: str = "rise"
    also: tuple[str, ...] = ()
    at_first: Operation | None = None
    num_at_first: int = 0
    healthy: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, Any] = field(default_factory=dict)
    of_linear: Mapping[str, Any] = field(default_factory=dict)
    of_base: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    by_client: Callable[[list[str], int], dict[str, Any]] | None = None
    operation: Operation | None = None
    of_hold_out: Operation | None = None
    raw: bool = False
    spike: bool = False
    rounds: int = ROUNDS
    grows: str = ""
    share: float = 0.0
    whole_classes: bool = False
    to_others: bool = False
    by_others: bool = False


def faults(kind: str, factor: float) -> Callable[[list[str], int], dict[str, Any]]:
    """Returns `by_client` of a simulated fault."""

    def named(clients: list[str], onset: int) -> dict[str, Any]:
        names: dict[str, Any] = {"kind": kind, "clients": clients, "from_round": onset}
        if kind in ("scaled_update", "reversed_update"):
            names["factor"] = factor
        return {f"federate.faults.{name}": value for name, value in names.items()}

    return named


def _work(clients: list[str], _: int) -> dict[str, Any]:
    return {"federate.local_work.kind": "per_client", "federate.local_work.by_client": dict.fromkeys(clients, 50)}


def _narrow(clients: list[str], _: int) -> dict[str, Any]:
    return {"federate.width": dict.fromkeys(clients, 0.25)}


SERVER_OPTIMIZER = "federate.server_optimizer"
RATE, SERVER_RATE = "federate.client.learning_rate", f"{SERVER_OPTIMIZER}.learning_rate"
_GUARDED = {"federate.guard": "stop"}
FAST, _FASTER, SERVER = {RATE: 0.8}, {RATE: 0.5}, {SERVER_RATE: 4.0}
"""Planted rates; a healthy client has 0.05 or 0.01 (`bases.py`), a healthy server 1. Pairs have _FASTER: if
the loss exploded, their other cause would not matter."""
_FAST_LINEAR, _FASTER_LINEAR, _SERVER_LINEAR = {RATE: 15.0}, {RATE: 5.0}, {SERVER_RATE: 10.0}
"""Higher rates for linear models, because with the rates above they only learn faster. The chest X-rays rise with the
rates above: an example is 12 times as long."""
_FAST_OF = {"synthetic": {RATE: 1.5}, "chest": FAST}
_FASTER_OF = {"synthetic": _FASTER, "chest": _FASTER}
_SERVER_OF = {"synthetic": {SERVER_RATE: 30.0}, "chest": SERVER}
TWO_EACH = {"partition.kind": "classes", "partition.classes_per_client": 2}
ONE_EACH = {"partition.kind": "classes", "partition.classes_per_client": 1}
_DECAYING = {"federate.client.learning_rate": 0.1, "federate.client.weight_decay": 0.02}
"""With weight decay, a client forgets in every round the classes that it lacks. Without it, a client stops moving when
it knows its own classes, and the mean of the clients is hardly worse."""
FAULTY = ("faulty_clients",)
_DATA_DRIFT, _HOLD_OUT = ("data_drift",), ("hold_out_shift",)
FACTOR = "federate.faults.factor"

PLANTS: dict[str, Plant] = {
    "flip_one": Plant(FAULTY, operation=flip),
    "flip_several": Plant(FAULTY, operation=flip, share=0.3),
    "noise_one": Plant(FAULTY, operation=noise),
    "noise_several": Plant(FAULTY, operation=noise, share=0.3),
    "scaled_one": Plant(
        FAULTY,
        by_client=faults("scaled_update", 30.0),
        of_linear={FACTOR: 100.0},
        of_base={"chest": {FACTOR: 30.0}},
    ),
    "reversed_one": Plant(FAULTY, by_client=faults("reversed_update", 10.0)),
    "reversed_several": Plant(FAULTY, by_client=faults("reversed_update", 3.0), share=0.3),
    "non_finite": Plant(("non_finite",), operation=explode),
    "client_rate": Plant(("client_learning_rate",), changed=FAST, of_linear=_FAST_LINEAR, of_base=_FAST_OF),
    "server_rate": Plant(("server_learning_rate",), changed=SERVER, of_linear=_SERVER_LINEAR, of_base=_SERVER_OF),
    "width": Plant(("architecture_variation",), by_client=_narrow, share=0.5),
    "shift": Plant(("feature_shift",), operation=invert, share=0.3),
    # 3 clients, because the mean of 10 overfitted models is better than each of them.
    "overfit": Plant(
        ("overfitting",),
        at_first=few_and_doubtful,
        healthy={
            "partition.kind": "iid",
            "partition.num_clients": 3,
            "federate.local_work.epochs": 8,
        },
        changed={"federate.local_work.epochs": 800},
    ),
    "work": Plant(("unequal_local_work",), healthy={**TWO_EACH, **_DECAYING}, by_client=_work, share=0.3),
    "label_skew": Plant(
        ("label_skew",),
        healthy={"partition.kind": "iid", **_DECAYING, "federate.local_work.epochs": 5},
        changed=ONE_EACH,
    ),
    "quantity_skew": Plant(
        ("quantity_skew",), healthy={**TWO_EACH, **_DECAYING}, operation=few, share=0.1, to_others=True
    ),
    "flip_client_rate": Plant(
        (*FAULTY, "client_learning_rate"),
        changed=_FASTER,
        of_linear=_FASTER_LINEAR,
        of_base=_FASTER_OF,
        operation=flip,
        share=0.3,
    ),
    "flip_server_rate": Plant(
        (*FAULTY, "server_learning_rate"),
        changed=SERVER,
        of_linear=_SERVER_LINEAR,
        of_base=_SERVER_OF,
        operation=flip,
        share=0.3,
    ),
    "shift_client_rate": Plant(
        ("feature_shift", "client_learning_rate"),
        changed=_FASTER,
        of_linear=_FASTER_LINEAR,
        of_base=_FASTER_OF,
        operation=invert,
        share=0.3,
    ),
    "shift_server_rate": Plant(
        ("feature_shift", "server_learning_rate"),
        changed=SERVER,
        of_linear=_SERVER_LINEAR,
        of_base=_SERVER_OF,
        operation=invert,
        share=0.3,
    ),
    "width_flip": Plant(
        ("architecture_variation", *FAULTY), by_client=_narrow, by_others=True, operation=flip, share=0.3
    ),
    "scaled_moderate": Plant(FAULTY, by_client=faults("scaled_update", 9.0)),
    "reversed_moderate": Plant(FAULTY, by_client=faults("reversed_update", 1.0)),
    "spike_flip": Plant(FAULTY, operation=flip, share=0.3, spike=True),
    "spike_client_rate": Plant(
        ("client_learning_rate",), changed=FAST, of_linear=_FAST_LINEAR, of_base=_FAST_OF, spike=True
    ),
    "flip_all": Plant(_DATA_DRIFT, operation=flip, share=1.0),
    "flip_six": Plant(_DATA_DRIFT, operation=flip, share=0.6),
    "hold_out_elsewhere": Plant(_HOLD_OUT, of_hold_out=invert),
    "scaled_once": Plant(FAULTY, "once", by_client=faults("scaled_update", 30.0)),
    "reversed_once": Plant(FAULTY, "once", by_client=faults("reversed_update", 10.0)),
    "flip_once": Plant(FAULTY, "once", operation=flip),
    "noise_once": Plant(FAULTY, "once", operation=noise),
    "ended_client_rate": Plant(("client_learning_rate",), "ended", grows=RATE),
    "ended_server_rate": Plant(("server_learning_rate",), "ended", grows=SERVER_RATE),
    "ended_explode": Plant(("non_finite",), "ended", changed=_GUARDED, operation=explode),
    "ended_not_finite": Plant(("non_finite",), "ended", changed=_GUARDED, by_client=faults("not_finite", 0)),
    "none_iid": Plant(healthy={"partition.kind": "iid"}),
    "none_dirichlet_0.1": Plant(healthy={"partition.kind": "dirichlet", "partition.alpha": 0.1}),
    "none_dirichlet_0.5": Plant(),
    "none_one_class": Plant(healthy=ONE_EACH),
    "none_two_classes": Plant(healthy=TWO_EACH),
    "none_quantity": Plant(healthy={"partition.kind": "quantity", "partition.alpha": 0.5}),
    "none_feature_noise": Plant(healthy={"partition.kind": "feature_noise", "partition.sigma": 0.5}),
    "none_feature_shift": Plant(healthy={"partition.kind": "feature_shift"}),
    "none_tiny_client": Plant(at_first=few, num_at_first=1),
    "none_part": Plant(healthy=PART),
    "none_part_0.1": Plant(healthy={**PART, "partition.kind": "dirichlet", "partition.alpha": 0.1}),
    "none_momentum": Plant(healthy={f"{SERVER_OPTIMIZER}.kind": "momentum", SERVER_RATE: 0.1}),
    "none_adam": Plant(healthy={f"{SERVER_OPTIMIZER}.kind": "adam", SERVER_RATE: 0.01}),
}

_SHORT = (
    "flip_one",
    "flip_several",
    "noise_one",
    "scaled_one",
    "reversed_several",
    "non_finite",
    "client_rate",
    "server_rate",
    "shift",
    "none_dirichlet_0.5",
)
PLANTS |= {f"{name}_short": replace(PLANTS[name], rounds=SHORT) for name in _SHORT}
"""Runs of 12 rounds."""

PAIRS = [name for name, plant in PLANTS.items() if len(plant.causes) == 2]
_FAST_OR_SERVER = {"client_learning_rate", "server_learning_rate"}


def _without(plant: Plant, cause: str) -> Plant:
    """Returns the pair `plant` without one of its causes."""
    (other,) = [name for name in plant.causes if name != cause]
    if cause in _FAST_OR_SERVER:
        return replace(plant, causes=(other,), changed={}, of_linear={}, of_base={})
    if cause == "architecture_variation":
        return replace(plant, causes=(other,), by_client=None)
    return replace(plant, causes=(other,), operation=None)


PLANTS |= {f"{name}-{cause}": _without(PLANTS[name], cause) for name in PAIRS for cause in PLANTS[name].causes}
"""The plants, and each pair without one of its causes. The difference of the two losses shows if this cause raised the
loss."""

PLANTS |= {
    "absent": Plant(
        ("missing_clients",), healthy=ONE_EACH, by_client=faults("absent", 0), share=0.3, whole_classes=True
    ),
    "invert_all": Plant(_DATA_DRIFT, operation=invert, share=1.0),
    "hold_out_labels": Plant(_HOLD_OUT, of_hold_out=shift_labels),
    "hold_out_rescaled": Plant(_HOLD_OUT, of_hold_out=rescale, raw=True),
}
"""They stand at the end, because a plant's place decides in which seeds it is in the sample."""
