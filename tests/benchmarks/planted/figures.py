"""The figures of the planted cases that are rates, from suite.py's results: of `rise`, `ended` and healthy runs."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]
Rate = tuple[int, int]
"""(hits, cases)."""

NEW = ("missing_clients", "data_drift", "hold_out_shift")
"""Causes that have figures of their own, so that those of `rise` can be compared with earlier ones."""
_RISEN = 0.1
"""ln of the ratio from which on the loss of a run with nothing planted counts as risen. See `measure.py`."""
_LONG = 30
"""Rounds of a run that is not short."""
_Z = 1.959964
"""Standard deviations on each side of a normal 95 % interval."""


def wilson(hits: int, of: int) -> tuple[float, float]:
    """Returns the 95 % interval of a rate (Wilson 1927); 0 to 1 if there are no cases."""
    if not of:
        return 0.0, 1.0
    rate, z2 = hits / of, _Z**2
    middle = (rate + z2 / (2 * of)) / (1 + z2 / of)
    half = _Z / (1 + z2 / of) * math.sqrt(rate * (1 - rate) / of + z2 / (4 * of**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def confusion(results: Iterable[Result]) -> dict[str, Counter[str]]:
    """Returns how often each cause was named first, by planted cause (a pair is joined by +, `none` is nothing)."""
    found: dict[str, Counter[str]] = {}
    for one in results:
        found.setdefault(_planted(one), Counter())[first(one)] += 1
    return found


def rates(results: Sequence[Result]) -> dict[str, Rate]:
    """Returns the figures that are rates, without the standing causes.

    A lasting change that raised no loss counts only in the wrong causes, the claims and the honest clients called
    faulty. A pair counts only if each of its two causes raised the loss.
    """
    results = [one for one in results if one["kind"] != "standing"]
    planted = [one for one in results if one["planted"]]
    ended = [one for one in planted if one["kind"] == "ended"]
    once = [one for one in planted if one["kind"] == "once"]
    rose = rises(results)
    single = [one for one in rose if len(one["planted"]) == 1]
    pairs = [one for one in rose if len(one["harmful"]) == 2]
    none = [one for one in results if not one["planted"]]
    faulty = [one for one in single if one["planted"] == ["faulty_clients"]]
    seen = [one for one in faulty if one["causes"]]
    proven = [one for one in planted if one["causes"]]
    compared = [one for one in results if one.get("worse") is not None]
    return {
        "cause named first, `rise`": share(single, right),
        "the same, the lasting fault after a spike": share([one for one in single if one["spiked"]], right),
        "the same, runs of 12 rounds": share([one for one in single if one["rounds"] < _LONG], right),
        "cause named first, `ended`": share(ended, right),
        "`ended` is the question of an ended run": share(ended, lambda one: one["question"] == "ended"),
        "the clients of an ended run found exactly": share(
            [one for one in ended if one["planted_clients"]],
            lambda one: bool(one["clients"]) and set(one["clients"][0]) == set(one["planted_clients"]),
        ),
        "with two planted, both among the first two": share(
            pairs, lambda one: set(one["causes"][:2]) == set(one["planted"])
        ),
        "with two planted, one of them named first": share(pairs, lambda one: first(one) in one["planted"]),
        "the faulty clients found exactly": share(faulty, exact),
        "the same: one faulty": share([one for one in faulty if len(one["planted_clients"]) == 1], exact),
        "the same: several faulty": share([one for one in faulty if len(one["planted_clients"]) > 1], exact),
        "the same, if any cause was claimed": share(seen, exact),
        "a fault of one round named, with client and round": share(once, lambda one: one["once_named"]),
        "the same, if a loss shows it": share(
            [one for one in once if one["once_shown"]], lambda one: one["once_named"]
        ),
        "a wrong cause claimed, where something is planted": share(planted, claims_wrong),
        "a claim although nothing was planted": share(none, claims),
        "the same, if val_loss itself did not rise": share([one for one in none if one["own_rise"] < _RISEN], claims),
        "a rise although nothing was planted": share(none, lambda one: one["detected"]),
        "honest clients called faulty": honest_called_faulty(results),
        "a planted rise detected": share(rose, lambda one: one["detected"]),
        "the proposed settings end worse than doing nothing": share(compared, lambda one: one["worse"]),
        "the proposed settings of an ended run train": share(ended, lambda one: one["trains"]),
        "proven causes that have a remedy": (
            sum(one["remedies"] for one in proven),
            sum(len(one["causes"]) for one in proven),
        ),
    }


def rates_of_new_causes(results: Iterable[Result]) -> dict[str, Rate]:
    """Returns the rates of the causes in NEW, from a round on or from round 1, where they did harm."""
    harmed = [one for one in results if set(one["planted"]) & {*NEW} and one["rose"]]
    found = {"the new causes named first": share(harmed, right)}
    for cause in NEW:
        found[f"the same: `{cause}`"] = share([one for one in harmed if one["planted"] == [cause]], right)
    missing = [one for one in harmed if one["planted"] == ["missing_clients"] and right(one)]
    return {**found, "the missing clients found exactly, of the named": share(missing, exact)}


def rates_of_reports(results: Iterable[Result]) -> dict[str, Rate]:
    """Returns the rates of what no report may have, whatever is planted."""
    results = list(results)
    held = [one for one in results if one.get("contradictions") is not None]
    return {
        "reports that contradict themselves": share(held, lambda one: one["contradictions"]),
        "a diagnosis that failed": share(results, lambda one: one["error"]),
    }


def rises(results: Iterable[Result]) -> list[Result]:
    """Returns the runs in which a planted cause raised a loss, from its onset to the last round; without NEW causes."""
    left_out = {*NEW, "unnamed"}
    return [one for one in results if one["kind"] == "rise" and one["rose"] and not set(one["planted"]) & left_out]


def delays(results: Iterable[Result]) -> list[float]:
    """Returns the rounds from onset to detection, live: 1 if the round of the onset shows it, infinite for never.

    A detection before the onset is a false alarm and counts as never.
    """
    return [_delay(one["live"]["round"], one["onset"]) for one in rises(results)]


def _delay(now: int | None, onset: int) -> float:
    return math.inf if now is None or now < onset else now - onset + 1


def costs(results: Iterable[Result], *, rose: bool, suspect: bool | None = None) -> list[float]:
    """Returns the seconds of each diagnosis over those of its training, of runs in which a rise was found, or none.

    With `suspect`, of these only the runs in which something was replayed, or nothing.
    """
    lasting = [one for one in results if one["kind"] != "ended" and not one["error"] and one["detected"] == rose]
    chosen = [one for one in lasting if suspect is None or ("replay_rounds" in one) == suspect]
    return [one["seconds"] / one["training_seconds"] for one in chosen]


def _planted(one: Result) -> str:
    return (" + ".join(one["planted"]) or "none") + ("" if one["rose"] or not one["planted"] else " (no harm)")


def first(one: Result) -> str:
    """Returns the cause that was named first; `none` if none was."""
    return one["causes"][0] if one["causes"] else "none"


def accepted(one: Result) -> set[str]:
    """Returns the names of causes that are right."""
    return {*one["planted"], *one.get("also", ())}


def faulty_of(one: Result) -> set[str]:
    """Returns the clients that may be called faulty."""
    return set(one["planted_clients"]) if "faulty_clients" in accepted(one) else set()


def exact(one: Result) -> bool:
    """Returns whether the clients of the right causes are exactly the planted ones."""
    return found(one) == set(one["planted_clients"])


def found(one: Result) -> set[str]:
    """Returns the clients of the faults that were claimed and are right."""
    if "faulty_clients" in one["planted"] and not one.get("also"):
        return set(one["called_faulty"])
    named = zip(one["causes"], one["clients"], strict=True)
    return {client for cause, clients in named if cause in accepted(one) for client in clients}


def honest_called_faulty(results: Sequence[Result]) -> Rate:
    """Returns how many clients with nothing planted were called faulty, of how many."""
    return (
        sum(len(set(one["called_faulty"]) - faulty_of(one)) for one in results),
        sum(one["num_clients"] - len(faulty_of(one)) for one in results),
    )


def right(one: Result) -> bool:
    """Returns whether the cause named first is right; of a pair, it must be the first of the two."""
    return first(one) in {*one["planted"][:1], *one.get("also", ())}


def claims(one: Result) -> bool:
    """Returns whether any cause is claimed."""
    return bool(one["causes"])


def claims_wrong(one: Result) -> bool:
    """Returns whether a cause is claimed that was not planted."""
    return bool(set(one["causes"]) - accepted(one))


def share(results: Sequence[Result], holds: Callable[[Result], Any]) -> Rate:
    """Returns of how many results it holds."""
    return sum(bool(holds(one)) for one in results), len(results)
