"""The figures of causes that were there from round 1, from suite.py's results."""

from collections.abc import Sequence

from figures import Rate, Result, claims, claims_wrong, exact, found, honest_called_faulty, right, share

_UNNAMED = ["unnamed"]


def rates_of_standing(results: Sequence[Result]) -> dict[str, Rate]:
    """Returns the figures that are rates. Runs without a rise are asked this question, also if nothing is planted.

    A cause that did no harm counts only in the wrong causes and the honest clients called faulty. TraceFL's fault
    counts whether it did harm or not, as in its paper.
    """
    standing = [one for one in results if one["kind"] == "standing"]
    harmed = [one for one in standing if one["rose"] and one["planted"] != _UNNAMED]
    of_clients = [one for one in harmed if one["planted"] == ["faulty_clients"]]
    named = [one for one in of_clients if right(one)]
    tracefl = [one for one in standing if one["plant"].startswith("tracefl")]
    none = [one for one in results if not one["planted"] and not one["detected"]]
    compared = [one for one in standing if one.get("worse") is not None]
    return {
        "cause named first, `standing`": share(harmed, right),
        "the same: faulty clients": share(of_clients, right),
        "the same: settings": share([one for one in harmed if _of_settings(one)], right),
        "`standing` is the question of a run with a standing cause": share(
            harmed, lambda one: one["question"] == "standing"
        ),
        "the faulty clients found exactly, of the named": share(named, exact),
        "the same: one faulty": share([one for one in named if len(one["planted_clients"]) == 1], exact),
        "the same: several faulty": share([one for one in named if len(one["planted_clients"]) > 1], exact),
        "TraceFL's fault: the client claimed": share(tracefl, _claims_client),
        "TraceFL's fault: the client claimed, or named as unusual": share(
            tracefl, lambda one: _claims_client(one) or set(one["planted_clients"]) <= set(one["unusual"])
        ),
        "a wrong cause claimed, `standing`": share(standing, claims_wrong),
        "the same, where most clients are faulty": share(
            [one for one in standing if one["planted"] == _UNNAMED], claims_wrong
        ),
        "a claim although nothing was planted and nothing rose": share(none, claims),
        "honest clients called faulty, nothing rose": honest_called_faulty(
            [one for one in results if not one["detected"] and one["kind"] in ("standing", "none")]
        ),
        "the proposed settings end worse than doing nothing, `standing`": share(compared, lambda one: one["worse"]),
    }


def shares_taken_back(results: Sequence[Result], *, standing: bool) -> list[float]:
    """Returns the share of the gap to the twin that each remedy takes back."""
    some = [one for one in results if (one["kind"] == "standing") == standing]
    return [one["taken_back"] for one in some if one.get("taken_back") is not None]


def _of_settings(one: Result) -> bool:
    return one["planted"][0] not in ("faulty_clients", "hold_out_shift")


def _claims_client(one: Result) -> bool:
    return bool(one["planted_clients"]) and set(one["planted_clients"]) <= found(one)
