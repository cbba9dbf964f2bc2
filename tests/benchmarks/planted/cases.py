"""The cases: which healthy run, which planted cause, from which round on, and in which clients."""

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from bases import BASES, LINEAR, OF_TRACEFL, PART_OF_SYNTHETIC, PICTURES, TWO_CLASSES
from plants import PAIRS, SHORT, Plant
from plants import PLANTS as NOT_STANDING
from standing import STANDING, TRACEFL

PLANTS = NOT_STANDING | STANDING

DIRICHLET = {"partition.kind": "dirichlet", "partition.alpha": 0.5}
NATURAL = {"partition.kind": "natural"}
_EDGE = 3
"""No change begins in the first two rounds or in the last three of a run."""


@dataclass(frozen=True)
class Case:
    """One run: the plant named `plant` in the healthy run `base`; `seed` is the seed of both.

    `labels` has the class of each client. Only a plant of whole classes needs it.
    """

    plant: str
    base: str
    seed: int
    labels: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The name of the case's files."""
        return f"{self.plant}.{self.base}.{self.seed}"

    @property
    def what(self) -> Plant:
        """What is planted."""
        return PLANTS[self.plant]

    @property
    def begins(self) -> int:
        """The first round with the changed settings and data, drawn from the case's name.

        It is anywhere in the run, so it is behind a checkpoint in one of five cases. Each half of a pair has the pair's
        own. A standing cause, and a setting that ends a run, are there from round 1 on.
        """
        if self.what.kind == "standing" or (self.what.kind == "ended" and self.what.by_client is None):
            return 1
        if self.what.rounds == SHORT:
            return int(self._draw("begins").integers(4, 9))
        first = _EDGE + 6 if self.what.spike else _EDGE
        return int(self._draw("begins").integers(first, self.what.rounds - _EDGE + 1))

    @property
    def spiked(self) -> int:
        """The first round in which an update can be scaled before the lasting change: 3 to 6 rounds before it."""
        return self.begins - int(self._draw("spike").integers(3, 7))

    def _draw(self, what: str) -> np.random.Generator:
        name = f"{self.plant.split('-')[0]}.{self.base}.{what}"
        return np.random.default_rng([79, self.seed, zlib.crc32(name.encode())])

    def healthy(self) -> dict[str, Any]:
        """Returns the settings before the onset, by their dotted names."""
        division: dict[str, Any] = NATURAL if self.base == "synthetic" else DIRICHLET
        healthy = dict(self.what.healthy)
        if self.base == "synthetic" and "partition.num_clients" in healthy:
            healthy = PART_OF_SYNTHETIC
        if "partition.kind" in healthy:
            division = {}
        fixed = {"seed": self.seed, "federate.rounds": self.what.rounds}
        return {**fixed, **division, **BASES[self.base], **healthy}

    def clients(self, sizes: Mapping[str, int]) -> list[str]:
        """Returns the planted clients, sorted, from `sizes`, their numbers of examples; none if the cause is of all."""
        plant = PLANTS[self.plant]
        return self._drawn(sizes)[0] if plant.operation or plant.by_client else []

    def spike(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        """Returns the settings of the one round with a scaled update; its client is not one of the planted."""
        _, left = self._drawn(sizes, 1)
        faults = {"kind": "scaled_update", "clients": left, "from_round": 1, "factor": 30.0}
        return {**self.healthy(), **{f"federate.faults.{name}": value for name, value in faults.items()}}

    @property
    def changes_data(self) -> bool:
        """Whether an operation changes the data of the planted clients."""
        plant = PLANTS[self.plant]
        return plant.operation is not None and not plant.to_others

    @property
    def changes_updates(self) -> bool:
        """Whether the planted clients send another update than their training gives."""
        plant = PLANTS[self.plant]
        return plant.by_client is not None and plant.causes == ("faulty_clients",)

    def onset(
        self, sizes: Mapping[str, int], taking_part: Sequence[Collection[str]], unchanged: Collection[str] = ()
    ) -> int | None:
        """Returns the first round with something planted in it, or None if there is none.

        If the data or settings of some clients were changed, it is the first round from `begins` on in which one of
        them takes part. The clients in `unchanged` were drawn, but the operation left their data as they were.
        """
        plant = PLANTS[self.plant]
        if not plant.causes:
            return None
        if plant.changed or plant.of_hold_out or plant.whole_classes or (plant.grows and not plant.by_client):
            return self.begins
        drawn, others = self._drawn(sizes)
        touched: set[str] = set()
        if plant.operation:
            touched |= set(sizes) - set(drawn) if plant.to_others else set(drawn) - set(unchanged)
        if plant.by_client:
            touched |= set(others if plant.by_others else drawn)
        rounds = enumerate(taking_part, start=1)
        return next((number for number, clients in rounds if number >= self.begins and touched & set(clients)), None)

    def without(self) -> dict[str, "Case"]:
        """Returns the case without each cause of a pair, by that cause."""
        causes = PLANTS[self.plant].causes if self.plant in PAIRS else ()
        return {cause: Case(f"{self.plant}-{cause}", self.base, self.seed) for cause in causes}

    def planted(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        """Returns the settings from the onset on."""
        plant = PLANTS[self.plant]
        named = plant.by_client(self._drawn(sizes)[plant.by_others], self.begins) if plant.by_client else {}
        of_model = plant.of_linear if self.base in LINEAR else {}
        return {**self.healthy(), **plant.changed, **named, **of_model, **plant.of_base.get(self.base, {})}

    def _drawn(self, sizes: Mapping[str, int], others: int = 0) -> tuple[list[str], list[str]]:
        """Returns the planted clients, and as many others with `by_others`, or `others`.

        They are drawn from the clients with at least half the mean number of examples. If there are too few, they are
        the largest clients. The reason: an update with 1 % of the weight does no harm, whatever it holds.
        """
        plant = PLANTS[self.plant]
        num = max(1, round(plant.share * len(sizes)))
        if plant.whole_classes:
            return self._holders(num), []
        needed = 2 * num if plant.by_others else num + others
        large = [client for client in sizes if sizes[client] >= sum(sizes.values()) / len(sizes) / 2]
        if len(large) < needed:
            large = sorted(sizes, key=lambda client: (-sizes[client], client))[:needed]
        drawn = np.random.default_rng([77, self.seed]).permutation(sorted(large)).tolist()
        return sorted(drawn[:num]), sorted(drawn[num:needed])

    def _holders(self, num: int) -> list[str]:
        """Returns all clients of the drawn classes: of as many as have at most `num` clients, but at least of one."""
        holders: list[str] = []
        for label in np.random.default_rng([77, self.seed]).permutation(sorted({*self.labels.values()})):
            own = [client for client, held in self.labels.items() if held == label]
            if not holders or len(holders) + len(own) <= num:
                holders += own
        return sorted(holders)


_NO_WIDTH = ("width", "width_flip")
_OF_DIVISION = ("label_skew", "work", "quantity_skew", "none_two_classes")
_NO_OVERFIT = ("digits_part", "synthetic")
"""The bases in which `overfit` is not planted. With its 3 clients, `digits_part` would be the same run as `digits`. In
`synthetic`, longer local work makes the model better."""
_OF_FEATURES = ("shift", "shift_short", "shift_client_rate", "shift_server_rate", "invert_all")
"""The plants that `synthetic` does not get. Its clients differ in features and labelling by construction, and hold one
or two classes. So without earlier data, shifted features cannot be distinguished from wrong labels."""


_SAME_AS_FLIP = ("standing_shifted", "standing_renumbered", "standing_renumbered_several")
"""With two classes, each of these reverses the labels."""


def cases(seeds: list[int]) -> list[Case]:
    """Returns all cases; the cases of one healthy run follow each other."""
    every = [Case(plant, base, seed) for seed in seeds for base in BASES for plant in PLANTS if "-" not in plant]
    # Cases with the same healthy settings and data share a healthy run, so they follow each other.
    return sorted(filter(_possible, every), key=_healthy_run)


def _possible(case: Case) -> bool:
    plant, base = case.plant, case.base
    if plant in _NO_WIDTH:
        return base not in LINEAR and base != "chest_cnn"
    if plant == "ended_server_rate":
        # The loss of a linear model grows in proportion to the rate, and not from round to round.
        return base not in LINEAR
    if plant == "overfit":
        return base not in _NO_OVERFIT
    if plant in TRACEFL:
        return base in OF_TRACEFL
    if plant in STANDING:
        return _possible_from_round_one(case)
    if base == "synthetic" and (plant in _OF_FEATURES or plant in _OF_DIVISION or plant == "absent"):
        return False
    if base in TWO_CLASSES and plant in _OF_DIVISION:
        return False
    if plant == "none_feature_shift":
        return base in PICTURES
    if "partition.num_clients" in case.what.healthy and plant.startswith("none"):
        # The 142 rows of `wine` are too few for 20 clients, and `digits_part` has them already.
        return base != "wine" and (base != "digits_part" or plant != "none_part")
    # The clients of `synthetic` are given: nothing divides its examples.
    return base != "synthetic" or not plant.startswith("none") or "partition.kind" not in case.what.healthy


def _possible_from_round_one(case: Case) -> bool:
    """Returns whether a standing cause can be planted.

    What one client of the synthetic data holds tells nothing of another, by construction. So nobody could know that its
    data were changed, unless they were seen before. Only its settings and updates are changed.
    """
    plant = case.what
    divided = "partition.kind" in {**plant.healthy, **plant.changed}
    if case.base == "synthetic":
        return not (plant.operation or plant.of_hold_out or divided)
    if case.base == "chest_cnn" and divided:
        return False  # 30 rounds of 20 epochs take minutes
    if case.base == "wine":
        # A cycle of three classes shifts them up or down. And the loss falls below 0.01 with any division.
        return not divided and case.plant not in ("standing_renumbered", "standing_renumbered_several")
    return case.base not in TWO_CLASSES or case.plant not in (*_SAME_AS_FLIP, "standing_two_classes")


def sampled(found: list[Case], one_of: Mapping[str, int]) -> list[Case]:
    """Returns all healthy cases, and of the planted ones one of `one_of`, by kind; `tracefl` is a kind of its own.

    Seeds that follow each other by 2 get other cases, so that as many of them as `one_of` says get all.
    """
    plants, bases = list(PLANTS), list(BASES)

    def kept(case: Case) -> bool:
        of = one_of["tracefl" if case.plant in TRACEFL else case.what.kind] if case.what.causes else 1
        return (plants.index(case.plant) + 2 * bases.index(case.base) + case.seed // 2) % of == 0

    return [case for case in found if kept(case)]


def _healthy_run(case: Case) -> tuple[int, str, list[str], str]:
    at_first = case.what.at_first
    settings = sorted(map(str, case.healthy().items()))
    return case.seed, case.base, settings, at_first.__name__ if at_first else ""
