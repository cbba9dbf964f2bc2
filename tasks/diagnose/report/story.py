"""diagnosis.json as values. What is missing, or of another type than expected, is None or empty: files have ages."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

Series = tuple[float | None, ...]
"""A loss per round; None where it is not finite."""


@dataclass(frozen=True)
class Rise:
    """Whether, when and how far the loss rose; `loss` is the column that was tested, `hidden` whose own loss rose."""

    detected: bool
    round: int | None
    until: int | None
    before: float | None
    after: float | None
    confidence: float | None
    loss: str
    num_losses: int | None
    phase: str
    finite: bool
    hidden: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """One signal: its value, what is usual, and a sentence. `client` is empty where the sentence names them all."""

    signal: str
    value: float | None
    expected: float | None
    says: str
    client: str = ""
    before: float | None = None
    unusual: bool = True


@dataclass(frozen=True)
class Replay:
    """The rounds after `from_round` once more: `unchanged` and `changed`, the mean loss over seeds of each round.

    `loss` is the column that they are of, empty for the one that was tested; `removes`, `low` and `high` are the share
    of its rise that the change takes away, and its interval.
    """

    says: str
    change: dict[str, Any]
    from_round: int | None
    unchanged: Series
    changed: Series
    seeds: int | None
    removes: float | None
    low: float | None
    high: float | None
    loss: str = ""


@dataclass(frozen=True)
class Remedy:
    """Settings, the share of the rise that they take back, the time of a round relative to before, and which causes.

    `against` is empty where that is not known.
    """

    settings: dict[str, Any]
    says: str
    recovers: float | None
    loss_after: float | None
    extra_cost: float | None
    against: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cause:
    """A cause that is claimed; `fault`: what is wrong of faulty clients, labels, data or updates; empty if unknown."""

    cause: str
    score: float | None
    clients: tuple[str, ...]
    rounds: tuple[int, int] | None
    evidence: tuple[Evidence, ...]
    replay: Replay | None
    remedy: Remedy | None
    fault: str = ""


@dataclass(frozen=True)
class RuledOut:
    """A cause that was replayed and not proven."""

    cause: str
    says: str
    removes: float | None


@dataclass(frozen=True)
class Budget:
    """What the replays cost, in rounds, and what they may."""

    rounds: int | None
    allowed: int | None
    seeds: int | None


@dataclass(frozen=True)
class Story:
    """A diagnosis, in the order in which it is told."""

    rise: Rise
    causes: tuple[Cause, ...]
    healthy: tuple[str, ...]
    limits: tuple[str, ...]
    observed: tuple[Evidence, ...]
    ruled_out: tuple[RuledOut, ...]
    remedies: tuple[Remedy, ...]
    budget: Budget | None

    @property
    def named(self) -> tuple[str, ...]:
        """Clients of the causes, then those that were seen to be unusual or failed."""
        blamed = [client for cause in self.causes for client in cause.clients]
        odd = [one.client for one in self.observed if one.unusual]
        return tuple(dict.fromkeys([*blamed, *self.rise.hidden, *odd]))

    @property
    def remedy(self) -> Remedy | None:
        """The remedy of the first cause that has one."""
        return next((cause.remedy for cause in self.causes if cause.remedy), None)

    @property
    def proposed(self) -> list[tuple[list[str], Remedy]]:
        """The causes' remedies, each once, with the names of its causes."""
        found: list[tuple[list[str], Remedy]] = []
        for cause in self.causes:
            same = next((names for names, one in found if cause.remedy and one.settings == cause.remedy.settings), None)
            if same is not None:
                same.append(cause.cause)
            elif cause.remedy:
                found.append(([cause.cause], cause.remedy))
        return found

    @property
    def worse(self) -> tuple[Remedy, ...]:
        """The remedies that were tried and are no cause's remedy."""
        chosen = [cause.remedy.settings for cause in self.causes if cause.remedy]
        return tuple(one for one in self.remedies if one.settings not in chosen)


def read(diagnosis: Mapping[str, Any]) -> Story:
    """Returns what diagnosis.json holds."""
    remedies = tuple(_remedy(one) for one in _objects(diagnosis, "remedies"))
    causes = tuple(_cause(one, remedies) for one in _objects(diagnosis, "causes"))
    spent = diagnosis.get("replays")
    return Story(
        _rise(_object(diagnosis, "increase"), _object(diagnosis, "detection")),
        causes,
        _texts(diagnosis, "healthy"),
        _texts(diagnosis, "limits"),
        tuple(_evidence(one) for one in _objects(diagnosis, "observations")),
        tuple(
            RuledOut(_text(one, "cause"), _text(one, "says"), _share(one)) for one in _objects(diagnosis, "ruled_out")
        ),
        remedies,
        Budget(_whole(spent, "rounds"), _whole(spent, "allowed"), _whole(spent, "seeds"))
        if isinstance(spent, dict)
        else None,
    )


def number(value: Any) -> float | None:
    """Returns a finite number, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _rise(increase: Mapping[str, Any], detection: Mapping[str, Any]) -> Rise:
    return Rise(
        increase.get("detected") is True,
        _whole(increase, "round"),
        _whole(increase, "until"),
        number(increase.get("loss_before")),
        number(increase.get("loss_after")),
        number(increase.get("confidence")),
        _text(detection, "loss") or "the loss",
        _whole(detection, "num_losses"),
        _text(detection, "phase"),
        detection.get("kind") != "not_finite",
        _texts(detection, "clients"),
    )


def _cause(raw: Mapping[str, Any], tried: tuple[Remedy, ...]) -> Cause:
    replay, given, rounds = raw.get("replay"), raw.get("remedy"), raw.get("rounds")
    remedy = _remedy(given) if isinstance(given, dict) else None
    if remedy:
        same = next((one for one in tried if one.settings == remedy.settings), remedy)
        remedy = replace(same, recovers=remedy.recovers if remedy.recovers is not None else same.recovers)
    ends = [int(end) for end in map(number, rounds if isinstance(rounds, list) else []) if end is not None]
    return Cause(
        _text(raw, "cause"),
        number(raw.get("score")),
        _texts(raw, "clients"),
        (min(ends), max(ends)) if ends else None,
        tuple(_evidence(one) for one in _objects(raw, "evidence")),
        _replay(replay) if isinstance(replay, dict) else None,
        remedy,
        _text(raw, "fault"),
    )


def _evidence(raw: Mapping[str, Any]) -> Evidence:
    value, expected, before = (number(raw.get(name)) for name in ("value", "expected", "before"))
    unusual = raw.get("unusual", True) is True
    return Evidence(_text(raw, "signal"), value, expected, _text(raw, "says"), _text(raw, "client"), before, unusual)


def _replay(raw: Mapping[str, Any]) -> Replay:
    removes = raw.get("removes")
    interval = removes if isinstance(removes, dict) else {}
    return Replay(
        _text(raw, "says"),
        _object(raw, "change"),
        _whole(raw, "from_round"),
        _series(raw, "loss_without"),
        _series(raw, "loss_with"),
        _whole(raw, "seeds"),
        _share(raw),
        number(interval.get("low")),
        number(interval.get("high")),
        _text(raw, "loss"),
    )


def _remedy(raw: Mapping[str, Any]) -> Remedy:
    recovers, after, cost = (number(raw.get(name)) for name in ("recovers", "loss_after", "extra_cost"))
    return Remedy(_object(raw, "settings"), _text(raw, "says"), recovers, after, cost, _texts(raw, "against"))


def _share(raw: Mapping[str, Any]) -> float | None:
    removes = raw.get("removes")
    return number(removes.get("mean") if isinstance(removes, dict) else removes)


def _object(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key)
    return {str(name): each for name, each in value.items()} if isinstance(value, dict) else {}


def _objects(raw: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = raw.get(key)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key)
    return value if isinstance(value, str) else ""


def _texts(raw: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = raw.get(key)
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list | tuple) else ()


def _whole(raw: Mapping[str, Any], key: str) -> int | None:
    value = number(raw.get(key))
    return None if value is None else int(value)


def _series(raw: Mapping[str, Any], key: str) -> Series:
    value = raw.get(key)
    return tuple(number(each) for each in value) if isinstance(value, list) else ()
