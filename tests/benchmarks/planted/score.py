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
    """Returns the goals that are rates.

    A run whose planted cause raised no loss counts only in the honest clients called faulty. A pair counts only if each
    of its two causes raised the loss.
    """
    rose = [one for one in results if one["planted"] and one["rose"]]
    single = [one for one in rose if len(one["planted"]) == 1]
    pairs = [one for one in rose if len(one["harmful"]) == 2]
    none = [one for one in results if not one["planted"]]
    faulty = [one for one in single if one["planted"] == ["faulty_clients"]]
    seen = [one for one in faulty if one["causes"]]
    honest = [one for one in results if "iid" not in one["plant"]]
    return {
        "cause named first": _share(single, lambda one: _first(one) == one["planted"][0]),
        "with two planted, both among the first two": _share(
            pairs, lambda one: set(one["causes"][:2]) == set(one["planted"])
        ),
        "with two planted, one of them named first": _share(pairs, lambda one: _first(one) in one["planted"]),
        "the planted clients found: one faulty": _share(
            [one for one in faulty if len(one["planted_clients"]) == 1], _exact
        ),
        "the planted clients found: several faulty": _share(
            [one for one in faulty if len(one["planted_clients"]) > 1], _exact
        ),
        "the planted clients found, if any cause was claimed": _share(seen, _exact),
        "honest clients called faulty, in non-IID runs": (
            sum(_honest_called(one) for one in honest),
            sum(one["num_clients"] - len(_faulty(one)) for one in honest),
        ),
        "a claim although nothing was planted": _share(none, lambda one: bool(one["causes"])),
        "a rise although nothing was planted": _share(none, lambda one: one["detected"]),
        "a planted rise detected": _share(rose, lambda one: one["detected"]),
    }


def delays(results: Iterable[Result]) -> list[float]:
    """Returns the rounds from onset to detection, live: 1 if the round of the onset shows it, infinite for never.

    A detection before the onset is a false alarm and counts as never.
    """
    rose = [one for one in results if one["planted"] and one["rose"]]
    return [_delay(one["live"]["round"], one["onset"]) for one in rose]


def _delay(now: int | None, onset: int) -> float:
    return math.inf if now is None or now < onset else now - onset + 1


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
    """Returns the figures as Markdown."""
    lines = [f"{len(results)} runs, {sum(not one['planted'] for one in results)} with nothing planted", ""]
    matrix = confusion(results)
    columns = sorted({name for row in matrix.values() for name in row})
    lines += _table(
        ["planted \\ named first", *columns],
        [[name, *(str(matrix[name][column] or "") for column in columns)] for name in sorted(matrix)],
    )
    rows = []
    for name, (hits, of) in rates(results).items():
        low, high = wilson(hits, of)
        measured = f"{100 * hits / of:.1f} %" if of else ""
        rows.append([name, measured, f"{100 * low:.1f} to {100 * high:.1f} %", f"{hits}/{of}"])
    lines += _table(["figure", "measured", "95 % interval", "count"], rows)
    late = delays(results)
    taken = [one["taken_back"] for one in results if one.get("taken_back") is not None]
    replayed = [one for one in results if one.get("allowed_rounds")]
    cost = [one["replay_rounds"] / one["allowed_rounds"] for one in replayed]
    lines += _table(
        ["figure", "median", "95 % quantile", "runs"],
        [
            ["rounds from onset to detection, live", *_quantiles(late)],
            ["share of the gap that the remedy takes back", *_quantiles(taken)],
            ["replayed rounds / allowed rounds (3 a round explained, of at least 15)", *_quantiles(cost)],
            ["seconds of a diagnosis", *_quantiles([one["seconds"] for one in results])],
        ],
    )
    lines += [f"No rise: {name}" for name in (one["case"] for one in results if one["planted"] and not one["rose"])]
    lines += [
        f"Only {' and '.join(one['harmful']) or 'both together'} did harm: {one['case']}"
        for one in results
        if len(one["planted"]) == 2 > len(one["harmful"])
    ]
    wrong = [one for one in results if _wrong(one)]
    lines += ["", *_table(["wrong", "named", "clients planted", "clients named"], [_told(one) for one in wrong])]
    return "\n".join(lines)


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


def _wrong(one: Result) -> bool:
    if not one["planted"]:
        return bool(one["causes"])
    if len(one["planted"]) == 2 > len(one["harmful"]):
        return False
    named = set(one["causes"][: len(one["planted"])]) == set(one["planted"])
    return bool(one["rose"]) and not (named and (not _faulty(one) or _exact(one)))


def _told(one: Result) -> list[str]:
    clients = [" ".join(one[name]) for name in ("planted_clients", "called_faulty")]
    return [one["case"], " + ".join(one["causes"]) or "none", *clients]


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
