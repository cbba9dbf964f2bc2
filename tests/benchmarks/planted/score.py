"""`python tests/benchmarks/planted/score.py OUT`: confusion matrix and rates of suite.py's results, in Markdown."""

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from figures import (
    Rate,
    Result,
    claims_wrong,
    confusion,
    costs,
    delays,
    exact,
    faulty_of,
    rates,
    rates_of_new_causes,
    rates_of_reports,
    right,
    wilson,
)
from figures_standing import rates_of_standing, shares_taken_back


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
    standing = [one for one in results if one["kind"] == "standing"]
    lines = [f"{len(results)} runs, {healthy} with nothing planted, {len(standing)} with a standing cause", ""]
    others = [one for one in results if one["kind"] != "standing"]
    lines += _confusion(others) + _confusion(standing)
    for title, found in (
        ("rise, ended", rates(results)),
        ("new causes", rates_of_new_causes(results)),
        ("standing", rates_of_standing(results)),
        ("all reports", rates_of_reports(results)),
    ):
        header = [f"figure: {title}", "measured", "95 % interval", "count"]
        lines += _table(header, [[name, *_rate(rate)] for name, rate in found.items()])
    replayed = [one for one in results if one.get("allowed_rounds")]
    cost = [one["replay_rounds"] / one["allowed_rounds"] for one in replayed]
    of_rise = shares_taken_back(results, standing=False)
    of_standing = shares_taken_back(results, standing=True)
    suspected, not_suspected = (costs(results, rose=False, suspect=suspect) for suspect in (True, False))
    return lines + _table(
        ["figure", "median", "95 % quantile", "runs"],
        [
            ["share of the gap that the proposed settings take back, run from round 1", *_quantiles(of_rise)],
            ["the same, of a standing cause, at the end", *_quantiles(of_standing)],
            ["diagnosis / training, seconds, with a rise", *_quantiles(costs(others, rose=True))],
            ["diagnosis / training, seconds, without a rise", *_quantiles(costs(others, rose=False))],
            ["the same, also of standing causes, with a suspect", *_quantiles(suspected)],
            ["the same, also of standing causes, without a suspect", *_quantiles(not_suspected)],
            ["rounds from onset to detection, live", *_quantiles(delays(results))],
            ["replayed rounds / allowed rounds", *_quantiles(cost)],
            ["seconds of a diagnosis", *_quantiles([one["seconds"] for one in results])],
        ],
    )


def _confusion(results: Sequence[Result]) -> list[str]:
    matrix = confusion(results)
    columns = sorted({name for row in matrix.values() for name in row})
    return _table(
        ["planted \\ named first", *columns],
        [[name, *(str(matrix[name][column] or "") for column in columns)] for name in sorted(matrix)],
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
    "the new causes named first": "new causes",
    "cause named first, `standing`": "standing",
    "TraceFL's fault: the client claimed": "TraceFL's fault",
    "a wrong cause claimed, `standing`": "wrong cause, standing",
}


def _by_base(results: Sequence[Result]) -> list[str]:
    rows = []
    for base in dict.fromkeys(one["base"] for one in results):
        some = [one for one in results if one["base"] == base]
        found = rates(some) | rates_of_new_causes(some) | rates_of_standing(some) | rates_of_reports(some)
        taken = shares_taken_back(some, standing=False)
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
    lines = [f"No harm: {one['case']}" for one in results if one["planted"] and not one["rose"]]
    lines += [
        f"Only {' and '.join(one['harmful']) or 'both together'} did harm: {one['case']}"
        for one in results
        if len(one["planted"]) == 2 > len(one["harmful"])
    ]
    lines += [f"Ends worse than doing nothing, {one['remedy']}: {one['case']}" for one in results if one.get("worse")]
    lines += [
        f"Contradicts itself, {one['contradictions']}: {one['case']}" for one in results if one.get("contradictions")
    ]
    lines += [f"Failed, {one['error']}: {one['case']}" for one in results if one["error"]]
    wrong = [one for one in results if _wrong(one)]
    header = ["wrong", "onset", "named", "clients planted", "clients named"]
    return [*lines, "", *_table(header, [_row(one) for one in wrong])]


def _wrong(one: Result) -> bool:
    if claims_wrong(one):
        return True
    if not one["rose"] or one["planted"] == ["unnamed"] or len(one["planted"]) == 2 > len(one["harmful"]):
        return False
    if one["kind"] == "once":
        return not one["once_named"]
    named = set(one["causes"][:2]) == set(one["planted"]) if len(one["planted"]) == 2 else right(one)
    return not (named and (not faulty_of(one) or exact(one)))


def _row(one: Result) -> list[str]:
    clients = [" ".join(one[name]) for name in ("planted_clients", "called_faulty")]
    return [one["case"], str(one["onset"] or ""), " + ".join(one["causes"]) or "none", *clients]


def _rate(rate: Rate) -> list[str]:
    hits, of = rate
    low, high = wilson(hits, of)
    return [f"{100 * hits / of:.1f} %" if of else "", f"{100 * low:.1f} to {100 * high:.1f} %", f"{hits}/{of}"]


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
