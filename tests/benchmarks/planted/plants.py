"""What is planted in a healthy run: changed settings, changed data, or nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from bases import PART
from numpy.typing import NDArray

from tasks.clients import Examples

Operation = Callable[[NDArray[np.float32], NDArray[np.int32], int, np.random.Generator], Examples]
"""(x, y, number of classes, rng) -> the changed x and y."""

ROUNDS, SHORT = 30, 12
"""The rounds of a run, and of a short one."""


@dataclass(frozen=True)
class Plant:
    """The causes that are planted, and how.

    Attributes:
        causes: their names in diagnosis.json; empty: nothing is planted.
        kind: `rise`: a lasting change; `once`: a change of one round, and the run is healthy again after it; `ended`:
            a run that dies.
        at_first: changes the data of clients before the first round, in the healthy run too.
        num_at_first: number of clients that `at_first` changes; 0: all.
        healthy: settings before the onset; they override the base.
        changed: settings from the onset on; they override `healthy`.
        of_linear: the same for linear models; they override `changed`.
        of_base: the same by base; they override all others.
        by_client: (planted clients, onset) -> settings from the onset on; with `by_others`, as many other clients.
        operation: changes the data of the planted clients; with `to_others`, of all other clients.
        of_hold_out: changes the hold-out data from the onset on.
        spike: whether the update of one more client is scaled in one earlier round.
        rounds: of the run.
        grows: an `ended` setting that is multiplied by 10 until the run dies.
        share: the fraction of clients that are planted; 0: one client.
    """

    causes: tuple[str, ...] = ()
    kind: str = "rise"
    at_first: Operation | None = None
    num_at_first: int = 0
    healthy: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, Any] = field(default_factory=dict)
    of_linear: Mapping[str, Any] = field(default_factory=dict)
    of_base: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    by_client: Callable[[list[str], int], dict[str, Any]] | None = None
    operation: Operation | None = None
    of_hold_out: Operation | None = None
    spike: bool = False
    rounds: int = ROUNDS
    grows: str = ""
    share: float = 0.0
    to_others: bool = False
    by_others: bool = False


def _flip(x: NDArray[np.float32], y: NDArray[np.int32], classes: int, _: np.random.Generator) -> Examples:
    return x, (classes - 1 - y).astype(np.int32)


def _noise(x: NDArray[np.float32], y: NDArray[np.int32], _: int, rng: np.random.Generator) -> Examples:
    """Noise with three times the sd of the features: with the same sd, it is memorised before the loss shows it."""
    return (x.mean() + 3 * x.std() * rng.standard_normal(x.shape)).astype(np.float32), y


def _invert(x: NDArray[np.float32], y: NDArray[np.int32], _: int, __: np.random.Generator) -> Examples:
    return -x, y


def _explode(x: NDArray[np.float32], y: NDArray[np.int32], _: int, __: np.random.Generator) -> Examples:
    return x * np.float32(1e25), y


def _few(x: NDArray[np.float32], y: NDArray[np.int32], _: int, rng: np.random.Generator) -> Examples:
    kept = np.sort(rng.permutation(len(y))[:3])
    return x[kept], y[kept]


def _few_and_doubtful(x: NDArray[np.float32], y: NDArray[np.int32], classes: int, rng: np.random.Generator) -> Examples:
    """20 examples, of which 30 % get a random label, so that they can only be memorised."""
    kept = np.sort(rng.permutation(len(y))[:20])
    labels, doubtful = y[kept].copy(), rng.random(len(kept)) < 0.3
    labels[doubtful] = rng.integers(0, classes, int(doubtful.sum()))
    return x[kept], labels


def _faults(kind: str, factor: float) -> Callable[[list[str], int], dict[str, Any]]:
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


_SERVER_OPTIMIZER = "federate.server_optimizer"
_RATE, _SERVER_RATE = "federate.client.learning_rate", f"{_SERVER_OPTIMIZER}.learning_rate"
_GUARDED = {"federate.guard": "stop"}
_FAST, _FASTER, _SERVER = {_RATE: 0.8}, {_RATE: 0.5}, {_SERVER_RATE: 4.0}
"""Planted rates; a healthy client has 0.05 or 0.01 (`bases.py`), a healthy server 1. Pairs have _FASTER: if
the loss exploded, their other cause would not matter."""
_FAST_LINEAR, _FASTER_LINEAR, _SERVER_LINEAR = {_RATE: 15.0}, {_RATE: 5.0}, {_SERVER_RATE: 10.0}
"""Higher rates for linear models, because with the rates above they only learn faster. The chest X-rays rise with the
rates above: an example is 12 times as long."""
_FAST_OF = {"synthetic": {_RATE: 1.5}, "chest": _FAST}
_FASTER_OF = {"synthetic": _FASTER, "chest": _FASTER}
_SERVER_OF = {"synthetic": {_SERVER_RATE: 30.0}, "chest": _SERVER}
_TWO_CLASSES = {"partition.kind": "classes", "partition.classes_per_client": 2}
_ONE_CLASS = {"partition.kind": "classes", "partition.classes_per_client": 1}
_DECAYING = {"federate.client.learning_rate": 0.1, "federate.client.weight_decay": 0.02}
"""With weight decay, a client forgets in every round the classes that it lacks. Without it, a client stops moving when
it knows its own classes, and the mean of the clients is hardly worse."""
_FAULTY = ("faulty_clients",)
_UNNAMED = ("unnamed",)
"""The truth of a change that no cause of the vocabulary fits. No cause may be claimed."""
_FACTOR = "federate.faults.factor"

PLANTS: dict[str, Plant] = {
    "flip_one": Plant(_FAULTY, operation=_flip),
    "flip_several": Plant(_FAULTY, operation=_flip, share=0.3),
    "noise_one": Plant(_FAULTY, operation=_noise),
    "noise_several": Plant(_FAULTY, operation=_noise, share=0.3),
    "scaled_one": Plant(
        _FAULTY,
        by_client=_faults("scaled_update", 30.0),
        of_linear={_FACTOR: 100.0},
        of_base={"chest": {_FACTOR: 30.0}},
    ),
    "reversed_one": Plant(_FAULTY, by_client=_faults("reversed_update", 10.0)),
    "reversed_several": Plant(_FAULTY, by_client=_faults("reversed_update", 3.0), share=0.3),
    "non_finite": Plant(("non_finite",), operation=_explode),
    "client_rate": Plant(("client_learning_rate",), changed=_FAST, of_linear=_FAST_LINEAR, of_base=_FAST_OF),
    "server_rate": Plant(("server_learning_rate",), changed=_SERVER, of_linear=_SERVER_LINEAR, of_base=_SERVER_OF),
    "width": Plant(("architecture_variation",), by_client=_narrow, share=0.5),
    "shift": Plant(("feature_shift",), operation=_invert, share=0.3),
    # 3 clients, because the mean of 10 overfitted models is better than each of them.
    "overfit": Plant(
        ("overfitting",),
        at_first=_few_and_doubtful,
        healthy={
            "partition.kind": "iid",
            "partition.num_clients": 3,
            "federate.local_work.epochs": 8,
        },
        changed={"federate.local_work.epochs": 800},
    ),
    "work": Plant(("unequal_local_work",), healthy={**_TWO_CLASSES, **_DECAYING}, by_client=_work, share=0.3),
    "label_skew": Plant(
        ("label_skew",),
        healthy={"partition.kind": "iid", **_DECAYING, "federate.local_work.epochs": 5},
        changed=_ONE_CLASS,
    ),
    "quantity_skew": Plant(
        ("quantity_skew",), healthy={**_TWO_CLASSES, **_DECAYING}, operation=_few, share=0.1, to_others=True
    ),
    "flip_client_rate": Plant(
        (*_FAULTY, "client_learning_rate"),
        changed=_FASTER,
        of_linear=_FASTER_LINEAR,
        of_base=_FASTER_OF,
        operation=_flip,
        share=0.3,
    ),
    "flip_server_rate": Plant(
        (*_FAULTY, "server_learning_rate"),
        changed=_SERVER,
        of_linear=_SERVER_LINEAR,
        of_base=_SERVER_OF,
        operation=_flip,
        share=0.3,
    ),
    "shift_client_rate": Plant(
        ("feature_shift", "client_learning_rate"),
        changed=_FASTER,
        of_linear=_FASTER_LINEAR,
        of_base=_FASTER_OF,
        operation=_invert,
        share=0.3,
    ),
    "shift_server_rate": Plant(
        ("feature_shift", "server_learning_rate"),
        changed=_SERVER,
        of_linear=_SERVER_LINEAR,
        of_base=_SERVER_OF,
        operation=_invert,
        share=0.3,
    ),
    "width_flip": Plant(
        ("architecture_variation", *_FAULTY), by_client=_narrow, by_others=True, operation=_flip, share=0.3
    ),
    "scaled_moderate": Plant(_FAULTY, by_client=_faults("scaled_update", 9.0)),
    "reversed_moderate": Plant(_FAULTY, by_client=_faults("reversed_update", 1.0)),
    "spike_flip": Plant(_FAULTY, operation=_flip, share=0.3, spike=True),
    "spike_client_rate": Plant(
        ("client_learning_rate",), changed=_FAST, of_linear=_FAST_LINEAR, of_base=_FAST_OF, spike=True
    ),
    "flip_all": Plant(_UNNAMED, operation=_flip, share=1.0),
    "flip_six": Plant(_UNNAMED, operation=_flip, share=0.6),
    "hold_out_elsewhere": Plant(_UNNAMED, of_hold_out=_invert),
    "scaled_once": Plant(_FAULTY, "once", by_client=_faults("scaled_update", 30.0)),
    "reversed_once": Plant(_FAULTY, "once", by_client=_faults("reversed_update", 10.0)),
    "flip_once": Plant(_FAULTY, "once", operation=_flip),
    "noise_once": Plant(_FAULTY, "once", operation=_noise),
    "ended_client_rate": Plant(("client_learning_rate",), "ended", grows=_RATE),
    "ended_server_rate": Plant(("server_learning_rate",), "ended", grows=_SERVER_RATE),
    "ended_explode": Plant(("non_finite",), "ended", changed=_GUARDED, operation=_explode),
    "ended_not_finite": Plant(("non_finite",), "ended", changed=_GUARDED, by_client=_faults("not_finite", 0)),
    "none_iid": Plant(healthy={"partition.kind": "iid"}),
    "none_dirichlet_0.1": Plant(healthy={"partition.kind": "dirichlet", "partition.alpha": 0.1}),
    "none_dirichlet_0.5": Plant(),
    "none_one_class": Plant(healthy=_ONE_CLASS),
    "none_two_classes": Plant(healthy=_TWO_CLASSES),
    "none_quantity": Plant(healthy={"partition.kind": "quantity", "partition.alpha": 0.5}),
    "none_feature_noise": Plant(healthy={"partition.kind": "feature_noise", "partition.sigma": 0.5}),
    "none_feature_shift": Plant(healthy={"partition.kind": "feature_shift"}),
    "none_tiny_client": Plant(at_first=_few, num_at_first=1),
    "none_part": Plant(healthy=PART),
    "none_part_0.1": Plant(healthy={**PART, "partition.kind": "dirichlet", "partition.alpha": 0.1}),
    "none_momentum": Plant(healthy={f"{_SERVER_OPTIMIZER}.kind": "momentum", _SERVER_RATE: 0.1}),
    "none_adam": Plant(healthy={f"{_SERVER_OPTIMIZER}.kind": "adam", _SERVER_RATE: 0.01}),
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
