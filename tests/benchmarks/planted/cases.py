"""The cases: which healthy run, which planted cause, from which round on, and in which clients."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.clients import Examples

Operation = Callable[[NDArray[np.float32], NDArray[np.int32], int, np.random.Generator], Examples]

ROUNDS, ONSET = 30, 16
"""The rounds of a run, and the first round with the changed settings and data."""

BASES: dict[str, dict[str, Any]] = {
    "digits": {},
    "digits_part": {
        "partition.num_clients": 20,
        "federate.sampling.kind": "uniform",
        "federate.sampling.clients_per_round": 6,
    },
    "digits_logistic": {"federate.model": "logistic"},
    "chest": {
        "data.kind": "npz",
        "federate.model": "logistic",
        "partition.min_examples": 2,
        # At 0.05, clients with one class pull the model in turn, and the healthy loss doubles from round to round.
        "federate.client.learning_rate": 0.01,
    },
    "synthetic": {"data.kind": "synthetic", "data.num_clients": 10, "federate.model": "logistic"},
}
"""Settings of the healthy runs by name; the case sets `partition`."""

DIRICHLET = {"partition.kind": "dirichlet", "partition.alpha": 0.5}
NATURAL = {"partition.kind": "natural"}


@dataclass(frozen=True)
class Plant:
    """The causes that are planted, and how.

    Attributes:
        causes: their names in diagnosis.json; empty: nothing is planted.
        at_first: changes the data of all clients before the first round, in the healthy run too.
        healthy: settings before the onset; they override the base.
        changed: settings from the onset on; they override `healthy`.
        of_base: by base, settings from the onset on; they override all others.
        by_client: settings from the onset on that name the planted clients; with `by_others`, as many other clients.
        operation: changes the data of the planted clients; with `to_others`, of all other clients.
        share: the fraction of clients that are planted; 0: one client.
    """

    causes: tuple[str, ...] = ()
    at_first: Operation | None = None
    healthy: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, Any] = field(default_factory=dict)
    of_base: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    by_client: Callable[[list[str]], dict[str, Any]] | None = None
    operation: Operation | None = None
    share: float = 0.0
    to_others: bool = False
    by_others: bool = False


@dataclass(frozen=True)
class Case:
    """One run: the plant named `plant` in the healthy run `base`; `seed` is the seed of both."""

    plant: str
    base: str
    seed: int

    @property
    def name(self) -> str:
        """The name of the case's files."""
        return f"{self.plant}.{self.base}.{self.seed}"

    def healthy(self) -> dict[str, Any]:
        """Returns the settings before the onset, by their dotted names."""
        division: dict[str, Any] = NATURAL if self.base == "synthetic" else DIRICHLET
        if "partition.kind" in PLANTS[self.plant].healthy:
            division = {}
        fixed = {"seed": self.seed, "federate.rounds": ROUNDS}
        return {**fixed, **division, **BASES[self.base], **PLANTS[self.plant].healthy}

    def clients(self, sizes: Mapping[str, int]) -> list[str]:
        """Returns the planted clients, sorted, from `sizes`, their numbers of examples; none if the cause is of all."""
        plant = PLANTS[self.plant]
        return self._drawn(sizes)[0] if plant.operation or plant.by_client else []

    @property
    def changes_data(self) -> bool:
        """Whether an operation changes the data of the planted clients."""
        plant = PLANTS[self.plant]
        return plant.operation is not None and not plant.to_others

    @property
    def changes_updates(self) -> bool:
        """Whether the planted clients send another update than their training gives."""
        plant = PLANTS[self.plant]
        return plant.by_client is not None and plant.causes == _FAULTY

    def onset(
        self, sizes: Mapping[str, int], taking_part: Sequence[Collection[str]], unchanged: Collection[str] = ()
    ) -> int | None:
        """Returns the first round with something planted in it, or None if there is none.

        If the data or settings of some clients were changed, it is the first round from ONSET on in which one of them
        takes part. The clients in `unchanged` were drawn, but the operation left their data as they were.
        """
        plant = PLANTS[self.plant]
        if not plant.causes:
            return None
        if plant.changed:
            return ONSET
        drawn, others = self._drawn(sizes)
        touched: set[str] = set()
        if plant.operation:
            touched |= set(sizes) - set(drawn) if plant.to_others else set(drawn) - set(unchanged)
        if plant.by_client:
            touched |= set(others if plant.by_others else drawn)
        rounds = enumerate(taking_part, start=1)
        return next((number for number, clients in rounds if number >= ONSET and touched & set(clients)), None)

    def without(self) -> dict[str, "Case"]:
        """Returns the case without each cause of a pair, by that cause."""
        causes = PLANTS[self.plant].causes if self.plant in PAIRS else ()
        return {cause: Case(f"{self.plant}-{cause}", self.base, self.seed) for cause in causes}

    def planted(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        """Returns the settings from the onset on."""
        plant = PLANTS[self.plant]
        told = plant.by_client(self._drawn(sizes)[plant.by_others]) if plant.by_client else {}
        return {**self.healthy(), **plant.changed, **told, **plant.of_base.get(self.base, {})}

    def _drawn(self, sizes: Mapping[str, int]) -> tuple[list[str], list[str]]:
        """Returns the planted clients, and as many others with `by_others`.

        They are drawn from the clients with at least half the mean number of examples. If there are too few, they are
        the largest clients. The reason: an update with 1 % of the weight does no harm, whatever it holds.
        """
        plant = PLANTS[self.plant]
        num = max(1, round(plant.share * len(sizes)))
        needed = 2 * num if plant.by_others else num
        large = [client for client in sizes if sizes[client] >= sum(sizes.values()) / len(sizes) / 2]
        if len(large) < needed:
            large = sorted(sizes, key=lambda client: (-sizes[client], client))[:needed]
        drawn = np.random.default_rng([77, self.seed]).permutation(sorted(large)).tolist()
        return sorted(drawn[:num]), sorted(drawn[num:needed])


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


def _faults(kind: str, factor: float) -> Callable[[list[str]], dict[str, Any]]:
    def told(clients: list[str]) -> dict[str, Any]:
        names = {"kind": kind, "clients": clients, "from_round": ONSET, "factor": factor}
        return {f"federate.faults.{name}": value for name, value in names.items()}

    return told


def _work(clients: list[str]) -> dict[str, Any]:
    return {"federate.local_work.kind": "per_client", "federate.local_work.by_client": dict.fromkeys(clients, 50)}


def _narrow(clients: list[str]) -> dict[str, Any]:
    return {"federate.width": dict.fromkeys(clients, 0.25)}


_RATE, _SERVER_RATE = "federate.client.learning_rate", "federate.server_optimizer.learning_rate"
_FAST, _FASTER, _SERVER = {_RATE: 0.8}, {_RATE: 0.5}, {_SERVER_RATE: 4.0}
"""Planted rates; a healthy client has 0.05 (chest: 0.01), a healthy server 1. Pairs have _FASTER: if the loss exploded,
their other cause would not matter."""
_FAST_LINEAR = {"digits_logistic": {_RATE: 15.0}, "synthetic": {_RATE: 1.5}}
_FASTER_LINEAR = {"digits_logistic": {_RATE: 5.0}}
_SERVER_LINEAR = {"digits_logistic": {_SERVER_RATE: 10.0}, "synthetic": {_SERVER_RATE: 30.0}}
"""Higher rates for linear models, because with the rates above they only learn faster."""
_TWO_CLASSES = {"partition.kind": "classes", "partition.classes_per_client": 2}
_ONE_CLASS = {"partition.kind": "classes", "partition.classes_per_client": 1}
_DECAYING = {"federate.client.learning_rate": 0.1, "federate.client.weight_decay": 0.02}
"""With weight decay, a client forgets in every round the classes that it lacks. Without it, a client stops moving when
it knows its own classes, and the mean of the clients is hardly worse."""
_FAULTY = ("faulty_clients",)

PLANTS: dict[str, Plant] = {
    "flip_one": Plant(_FAULTY, operation=_flip),
    "flip_several": Plant(_FAULTY, operation=_flip, share=0.3),
    "noise_one": Plant(_FAULTY, operation=_noise),
    "noise_several": Plant(_FAULTY, operation=_noise, share=0.3),
    "scaled_one": Plant(
        _FAULTY,
        by_client=_faults("scaled_update", 30.0),
        of_base={base: {"federate.faults.factor": 100.0} for base in ("digits_logistic", "synthetic")},
    ),
    "reversed_one": Plant(_FAULTY, by_client=_faults("reversed_update", 10.0)),
    "reversed_several": Plant(_FAULTY, by_client=_faults("reversed_update", 3.0), share=0.3),
    "non_finite": Plant(("non_finite",), operation=_explode),
    "client_rate": Plant(("client_learning_rate",), changed=_FAST, of_base=_FAST_LINEAR),
    "server_rate": Plant(("server_learning_rate",), changed=_SERVER, of_base=_SERVER_LINEAR),
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
        (*_FAULTY, "client_learning_rate"), changed=_FASTER, of_base=_FASTER_LINEAR, operation=_flip, share=0.3
    ),
    "flip_server_rate": Plant(
        (*_FAULTY, "server_learning_rate"), changed=_SERVER, of_base=_SERVER_LINEAR, operation=_flip, share=0.3
    ),
    "shift_client_rate": Plant(
        ("feature_shift", "client_learning_rate"),
        changed=_FASTER,
        of_base=_FASTER_LINEAR,
        operation=_invert,
        share=0.3,
    ),
    "shift_server_rate": Plant(
        ("feature_shift", "server_learning_rate"),
        changed=_SERVER,
        of_base=_SERVER_LINEAR,
        operation=_invert,
        share=0.3,
    ),
    "width_flip": Plant(
        ("architecture_variation", *_FAULTY), by_client=_narrow, by_others=True, operation=_flip, share=0.3
    ),
    "none_iid": Plant(healthy={"partition.kind": "iid"}),
    "none_dirichlet_0.1": Plant(healthy={"partition.kind": "dirichlet", "partition.alpha": 0.1}),
    "none_dirichlet_0.5": Plant(),
    "none_two_classes": Plant(healthy=_TWO_CLASSES),
    "none_quantity": Plant(healthy={"partition.kind": "quantity", "partition.alpha": 0.5}),
    "none": Plant(),
}

PAIRS = [name for name, plant in PLANTS.items() if len(plant.causes) == 2]
_FAST_OR_SERVER = {"client_learning_rate", "server_learning_rate"}


def _without(plant: Plant, cause: str) -> Plant:
    """Returns the pair `plant` without one of its causes."""
    (other,) = [name for name in plant.causes if name != cause]
    if cause in _FAST_OR_SERVER:
        return replace(plant, causes=(other,), changed={}, of_base={})
    if cause == "architecture_variation":
        return replace(plant, causes=(other,), by_client=None)
    return replace(plant, causes=(other,), operation=None)


PLANTS |= {f"{name}-{cause}": _without(PLANTS[name], cause) for name in PAIRS for cause in PLANTS[name].causes}
"""The plants, and each pair without one of its causes. The difference of the two losses shows if this cause raised the
loss."""

_NO_WIDTH = ("width", "width_flip")
_OF_DIVISION = ("label_skew", "work", "quantity_skew")
_NO_OVERFIT = ("digits_part", "synthetic")
"""The bases in which `overfit` is not planted. With its 3 clients, `digits_part` would be the same run as `digits`. In
`synthetic`, longer local work makes the model better."""


_OF_FEATURES = ("shift", "shift_client_rate", "shift_server_rate")
"""The plants that `synthetic` does not get. Its clients differ in features and labelling by construction, and hold one
or two classes. So without earlier data, shifted features cannot be distinguished from wrong labels."""


def cases(seeds: list[int]) -> list[Case]:
    """Returns all cases; the cases of one healthy run follow each other."""
    found = []
    for seed in seeds:
        for base in BASES:
            for plant in PLANTS:
                if "-" in plant:
                    continue
                logistic = base in ("digits_logistic", "chest", "synthetic")
                if logistic and plant in _NO_WIDTH:
                    continue
                if base in _NO_OVERFIT and plant == "overfit":
                    continue
                if base == "synthetic" and plant in _OF_FEATURES:
                    continue
                if base in ("synthetic", "chest") and plant in (*_OF_DIVISION, "none_two_classes"):
                    continue
                if (base == "synthetic") != (plant == "none") and plant.startswith("none"):
                    continue
                found.append(Case(plant, base, seed))
    # Cases with the same healthy settings and data share a healthy run, so they follow each other.
    return sorted(found, key=_healthy_run)


def _healthy_run(case: Case) -> tuple[int, str, list[str], str]:
    at_first = PLANTS[case.plant].at_first
    settings = sorted(map(str, case.healthy().items()))
    return case.seed, case.base, settings, at_first.__name__ if at_first else ""
