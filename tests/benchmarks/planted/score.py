"""`python tests/benchmarks/planted/score.py OUT`: confusion matrix and rates of suite.py's results, in Markdown."""

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Result = Mapping[str, Any]
Rate = tuple[int, int]
"""(hits, cases)."""

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
        found.setdefault(_planted(one), Counter())[_first(one)] += 1
    return found


def rates(results: Sequence[Result]) -> dict[str, Rate]:
    """Returns the figures that are rates.

    A lasting change that raised no loss counts only in the wrong causes, the claims and the honest clients called
    faulty. A pair counts only if each of its two causes raised the loss.
    """
    planted = [one for one in results if one["planted"]]
    ended = [one for one in planted if one["kind"] == "ended"]
    once = [one for one in planted if one["kind"] == "once"]
    unnamed = [one for one in planted if one["planted"] == ["unnamed"]]
    rose = rises(results)
    single = [one for one in rose if len(one["planted"]) == 1]
    pairs = [one for one in rose if len(one["harmful"]) == 2]
    none = [one for one in results if not one["planted"]]
    faulty = [one for one in single if one["planted"] == ["faulty_clients"]]
    seen = [one for one in faulty if one["causes"]]
    proven = [one for one in planted if one["causes"]]
    compared = [one for one in results if one.get("worse") is not None]
    held = [one for one in results if one.get("contradictions") is not None]
    return {
        "cause named first, `rise`": _share(single, _right),
        "the same, the lasting fault after a spike": _share([one for one in single if one["spiked"]], _right),
        "the same, runs of 12 rounds": _share([one for one in single if one["rounds"] < _LONG], _right),
        "cause named first, `ended`": _share(ended, _right),
        "`ended` is the question of an ended run": _share(ended, lambda one: one["question"] == "ended"),
        "the clients of an ended run found exactly": _share(
            [one for one in ended if one["planted_clients"]],
            lambda one: bool(one["clients"]) and set(one["clients"][0]) == set(one["planted_clients"]),
        ),
        "with two planted, both among the first two": _share(
            pairs, lambda one: set(one["causes"][:2]) == set(one["planted"])
        ),
        "with two planted, one of them named first": _share(pairs, lambda one: _first(one) in one["planted"]),
        "the faulty clients found exactly": _share(faulty, _exact),
        "the same: one faulty": _share([one for one in faulty if len(one["planted_clients"]) == 1], _exact),
        "the same: several faulty": _share([one for one in faulty if len(one["planted_clients"]) > 1], _exact),
        "the same, if any cause was claimed": _share(seen, _exact),
        "a fault of one round named, with client and round": _share(once, lambda one: one["once_named"]),
        "the same, if a loss shows it": _share(
            [one for one in once if one["once_shown"]], lambda one: one["once_named"]
        ),
        "a wrong cause claimed, where something is planted": _share(planted, _claims_wrong),
        "the same, where no cause of the vocabulary fits": _share(unnamed, _claims_wrong),
        "a claim although nothing was planted": _share(none, lambda one: bool(one["causes"])),
        "the same, if val_loss itself did not rise": _share(
            [one for one in none if one["own_rise"] < _RISEN], lambda one: bool(one["causes"])
        ),
        "a rise although nothing was planted": _share(none, lambda one: one["detected"]),
        "honest clients called faulty": (
            sum(_honest_called(one) for one in results),
            sum(one["num_clients"] - len(_faulty(one)) for one in results),
        ),
        "a planted rise detected": _share(rose, lambda one: one["detected"]),
        "the proposed settings end worse than doing nothing": _share(compared, lambda one: one["worse"]),
        "the proposed settings of an ended run train": _share(ended, lambda one: one["trains"]),
        "proven causes that have a remedy": (
            sum(one["remedies"] for one in proven),
            sum(len(one["causes"]) for one in proven),
        ),
        "reports that contradict themselves": _share(held, lambda one: bool(one["contradictions"])),
        "a diagnosis that failed": _share(results, lambda one: bool(one["error"])),
    }


def rises(results: Iterable[Result]) -> list[Result]:
    """Returns the runs in which a planted cause of the vocabulary raised a loss, from its onset to the last round."""
    return [one for one in results if one["kind"] == "rise" and one["rose"] and one["planted"] != ["unnamed"]]


def delays(results: Iterable[Result]) -> list[float]:
    """Returns the rounds from onset to detection, live: 1 if the round of the onset shows it, infinite for never.

    A detection before the onset is a false alarm and counts as never.
    """
    return [_delay(one["live"]["round"], one["onset"]) for one in rises(results)]


def _delay(now: int | None, onset: int) -> float:
    return math.inf if now is None or now < onset else now - onset + 1


def costs(results: Iterable[Result], *, rose: bool) -> list[float]:
    """Returns the seconds of each diagnosis over those of its training, of runs in which a rise was found, or none."""
    lasting = [one for one in results if one["kind"] != "ended" and not one["error"]]
    return [one["seconds"] / one["training_seconds"] for one in lasting if one["detected"] == rose]


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of suite.py")
    parser.add_argument("--half", choices=["tune", "report", "all"], default="all", help="even, odd, or all seeds")
    given = parser.parse_args()
    results = [json.loads(path.read_text()) for path in sorted((given.out / "results").glob("*.json"))]
    if given.half != "all":
        results = [one for one in results if one["seed"] % 2 == (given.half == "report")]
    print(report(results))


def report(results: Sequence[Result]) -> str:
    """Returns the figures as Markdown: of the data sets to tune on, of the ones left out, and of each data set."""
    lines = []
    for left_out, title in ((False, "Data sets to tune on"), (True, "Data sets left out of all tuning")):
        some = [one for one in results if one["left_out"] == left_out]
        if some:
            lines += [f"## {title}", "", *_figures(some)]
    lines += ["## By data set", "", *_by_base(results), "## Seconds of a case", "", *_by_kind(results)]
    return "\n".join([*lines, "## Each miss", "", *_misses(results)])


def _figures(results: Sequence[Result]) -> list[str]:
    healthy = sum(not one["planted"] for one in results)
    lines = [f"{len(results)} runs, {healthy} with nothing planted", ""]
    matrix = confusion(results)
    columns = sorted({name for row in matrix.values() for name in row})
    lines += _table(
        ["planted \\ named first", *columns],
        [[name, *(str(matrix[name][column] or "") for column in columns)] for name in sorted(matrix)],
    )
    rows = [[name, *_rate(rate)] for name, rate in rates(results).items()]
    lines += _table(["figure", "measured", "95 % interval", "count"], rows)
    taken = [one["taken_back"] for one in results if one.get("taken_back") is not None]
    replayed = [one for one in results if one.get("allowed_rounds")]
    cost = [one["replay_rounds"] / one["allowed_rounds"] for one in replayed]
    return lines + _table(
        ["figure", "median", "95 % quantile", "runs"],
        [
            ["share of the gap that the proposed settings take back, run from round 1", *_quantiles(taken)],
            ["diagnosis / training, seconds, with a rise", *_quantiles(costs(results, rose=True))],
            ["diagnosis / training, seconds, without a rise", *_quantiles(costs(results, rose=False))],
            ["rounds from onset to detection, live", *_quantiles(delays(results))],
            ["replayed rounds / allowed rounds", *_quantiles(cost)],
            ["seconds of a diagnosis", *_quantiles([one["seconds"] for one in results])],
        ],
    )


_OF_BASE = {
    "cause named first, `rise`": "rise",
    "cause named first, `ended`": "ended",
    "the faulty clients found exactly": "faulty clients",
    "a wrong cause claimed, where something is planted": "wrong cause",
    "a claim although nothing was planted": "claim, nothing planted",
    "honest clients called faulty": "honest called faulty",
    "the proposed settings end worse than doing nothing": "remedy worse",
    "proven causes that have a remedy": "has a remedy",
    "reports that contradict themselves": "contradicts itself",
}


def _by_base(results: Sequence[Result]) -> list[str]:
    rows = []
    for base in dict.fromkeys(one["base"] for one in results):
        some = [one for one in results if one["base"] == base]
        found = rates(some)
        taken = [one["taken_back"] for one in some if one.get("taken_back") is not None]
        shown = ["{}/{}".format(*found[name]) for name in _OF_BASE]
        rows.append([base, *shown, _quantiles(taken)[0], *(_quantiles(costs(some, rose=r))[0] for r in (True, False))])
    header = ["data set", *_OF_BASE.values(), "taken back, median", "diagnosis / training: rise", "no rise"]
    return _table(header, rows)


def _by_kind(results: Sequence[Result]) -> list[str]:
    rows = []
    for kind in dict.fromkeys(one["kind"] for one in results):
        took = [one["case_seconds"] for one in results if one["kind"] == kind]
        rows.append([kind, *_quantiles(took), f"{sum(took):.0f}"])
    return _table(["kind", "median", "95 % quantile", "runs", "all"], rows)


def _misses(results: Sequence[Result]) -> list[str]:
    lines = [f"No rise: {name}" for name in (one["case"] for one in results if one["planted"] and not one["rose"])]
    lines += [
        f"Only {' and '.join(one['harmful']) or 'both together'} did harm: {one['case']}"
        for one in results
        if len(one["planted"]) == 2 > len(one["harmful"])
    ]
    lines += [f"Ends worse than doing nothing, {one['remedy']}: {one['case']}" for one in results if one.get("worse")]
    lines += [f"Contradicts itself, {one['contradictions']}: {one['case']}" for one in results if _contradicts(one)]
    lines += [f"Failed, {one['error']}: {one['case']}" for one in results if one["error"]]
    wrong = [one for one in results if _wrong(one)]
    header = ["wrong", "onset", "named", "clients planted", "clients named"]
    return [*lines, "", *_table(header, [_row(one) for one in wrong])]


def _planted(one: Result) -> str:
    return (" + ".join(one["planted"]) or "none") + ("" if one["rose"] or not one["planted"] else " (no rise)")


def _first(one: Result) -> str:
    return one["causes"][0] if one["causes"] else "none"


def _faulty(one: Result) -> set[str]:
    return set(one["planted_clients"]) if "faulty_clients" in one["planted"] else set()


def _exact(one: Result) -> bool:
    return set(one["called_faulty"]) == set(one["planted_clients"])


def _honest_called(one: Result) -> int:
    return len(set(one["called_faulty"]) - _faulty(one))


def _contradicts(one: Result) -> bool:
    return bool(one.get("contradictions"))


def _right(one: Result) -> bool:
    return _first(one) == one["planted"][0]


def _claims_wrong(one: Result) -> bool:
    return bool(set(one["causes"]) - set(one["planted"]))


def _wrong(one: Result) -> bool:
    if _claims_wrong(one):
        return True
    if not one["rose"] or one["planted"] == ["unnamed"] or len(one["planted"]) == 2 > len(one["harmful"]):
        return False
    if one["kind"] == "once":
        return not one["once_named"]
    named = set(one["causes"][: len(one["planted"])]) == set(one["planted"])
    return not (named and (not _faulty(one) or _exact(one)))


def _row(one: Result) -> list[str]:
    clients = [" ".join(one[name]) for name in ("planted_clients", "called_faulty")]
    return [one["case"], str(one["onset"] or ""), " + ".join(one["causes"]) or "none", *clients]


def _rate(rate: Rate) -> list[str]:
    hits, of = rate
    low, high = wilson(hits, of)
    return [f"{100 * hits / of:.1f} %" if of else "", f"{100 * low:.1f} to {100 * high:.1f} %", f"{hits}/{of}"]


def _share(results: Sequence[Result], right: Any) -> Rate:
    return sum(bool(right(one)) for one in results), len(results)


def _quantiles(values: Sequence[float]) -> list[str]:
    if not values:
        return ["", "", "0"]
    ordered = np.sort(values)
    # The nearest rank, because nothing can be interpolated between a number and infinity.
    shown = [f"{ordered[math.ceil(share * len(ordered)) - 1]:.3g}" for share in (0.5, 0.95)]
    return [*shown, str(len(values))]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return [*("| " + " | ".join(row) + " |" for row in cells), ""]


if __name__ == "__main__":
    main()
