"""What may stand together in one diagnosis: the rules that every diagnosis.json keeps."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tasks.diagnose.causes import CAUSES
from tasks.diagnose.phrases import figure
from tasks.diagnose.thresholds import PROVEN

Content = Mapping[str, Any]
"""diagnosis.json."""


def contradictions(content: Content) -> list[str]:
    """Returns a sentence for each pair of statements in diagnosis.json that cannot both be true; empty if all can.

    A key that an older diagnosis.json does not have is not an error.
    """
    return [sentence for rule in _RULES for sentence in rule(content)]


def _verdict(content: Content) -> Iterator[str]:
    causes = [cause["cause"] for cause in content["causes"]]
    first = causes[0] if causes else "none"
    if content["verdict"] != first:
        yield f"The verdict is {content['verdict']}, but the first proven cause is {first}."
    if len({*causes}) < len(causes):
        yield f"A cause is claimed twice: {', '.join(causes)}."


def _rise(content: Content) -> Iterator[str]:
    increase = content["increase"]
    dated = increase["round"] is not None and increase["until"] is not None
    if increase["detected"] != dated:
        rounds = f"{increase['round']} to {increase['until']}"
        yield f"increase.detected is {increase['detected']}, but its rounds are {rounds}."
    if dated and increase["round"] > increase["until"]:
        yield f"The rise begins in round {increase['round']} and ends in round {increase['until']}."
    before, after = increase["loss_before"], increase["loss_after"]
    if increase["detected"] and None not in (before, after):
        if not after > before:
            yield f"The loss rose from {figure(before)} to {figure(after)}."
        elif figure(before) == figure(after):
            yield f"The loss rose, but both of its levels are shown as {figure(before)}."
    harmed = increase["detected"] or content.get("question") == "ended"
    if not harmed and (content["causes"] or content.get("ruled_out") or content.get("remedies")):
        yield "Nothing rose and the run did not end early, but causes or remedies were tried."


def _harm(content: Content) -> Iterator[str]:
    if "harm" not in content:
        return
    harm, detected = content["harm"], content["increase"]["detected"]
    if harm is None:
        if detected:
            yield "The loss rose, but there is no harm."
        return
    if not detected and content.get("question", "rise") == "rise":
        yield "Nothing rose, but there is a harm."
    if None not in (harm["loss"], harm["reference"]) and not harm["loss"] > harm["reference"]:
        yield f"The harm is a loss of {figure(harm['loss'])}, which is not above {figure(harm['reference'])}."


def _proofs(content: Content) -> Iterator[str]:
    for cause in content["causes"]:
        mean = cause["replay"]["removes"]["mean"]
        if mean < PROVEN:
            yield f"{cause['cause']} is claimed, but without it only {mean:.0%} of the harm is gone."
    for cause in content.get("ruled_out", []):
        if cause["removes"] is not None and cause["removes"] >= PROVEN:
            yield f"{cause['cause']} is ruled out, but without it {cause['removes']:.0%} of the harm is gone."


def _tried(content: Content) -> Iterator[str]:
    """A replay has one outcome: a change proves a cause, is ruled out, or is not finished."""
    groups = {
        "proven": [(cause["cause"], cause["replay"]["says"]) for cause in content["causes"]],
        "ruled out": [(cause["cause"], cause["says"]) for cause in content.get("ruled_out", [])],
        "not finished": [(cause["cause"], cause["says"]) for cause in content.get("not_finished", [])],
    }
    seen: dict[tuple[str, str], str] = {}
    for outcome, changes in groups.items():
        for change in dict.fromkeys(changes):
            if change in seen:
                yield f"{change[0]} ({change[1]}) is both {seen[change]} and {outcome}."
            seen[change] = outcome
    proven = {cause for cause, _ in groups["proven"]}
    for cause, says in groups["not finished"]:
        if cause in proven:
            yield f"{cause} is proven, but its replay of {says} is called not finished."


def _budget(content: Content) -> Iterator[str]:
    budget = content.get("replays")
    if not budget:
        return
    if budget["rounds"] > budget["allowed"]:
        yield f"The replays took {budget['rounds']} rounds of {budget['allowed']} that they may take."
    if budget.get("remedy_rounds", 0) > budget.get("remedy_allowed", 0):
        spent, allowed = budget["remedy_rounds"], budget["remedy_allowed"]
        yield f"The replays of remedies took {spent} rounds of {allowed} that they may take."
    seeds = max((cause["replay"]["seeds"] for cause in content["causes"]), default=0)
    if budget["seeds"] < seeds:
        yield f"A cause was replayed with {seeds} seeds, but replays.seeds is {budget['seeds']}."


def _reproduced(content: Content) -> Iterator[str]:
    """A fault that has gone is proven by a replay whose loss does not rise; another cause, by one whose loss does.

    Failed updates are counted, so for them it does not matter whether the loss rises again.
    """
    budget = content.get("replays")
    if not budget:
        return
    for cause in content["causes"]:
        gone = cause["replay"].get("of_log", False)
        if gone and budget["reproduced"]:
            yield f"{cause['cause']} has gone, but the loss rose again in the replays."
        if not gone and cause["cause"] != "non_finite" and not budget["reproduced"]:
            yield f"{cause['cause']} is proven by a replay, but the replays did not reproduce the run."


def _remedies(content: Content) -> Iterator[str]:
    tried = [remedy["settings"] for remedy in content.get("remedies", [])]
    for cause in content["causes"]:
        remedy = cause["remedy"]
        if remedy is None:
            continue
        if not remedy["recovers"] > 0:
            yield f"The remedy of {cause['cause']} is proposed, but it takes back {remedy['recovers']:.0%}."
        if remedy["settings"] not in tried:
            yield f"The remedy of {cause['cause']} is proposed, but it is not among the remedies that were tried."


def _clients(content: Content) -> Iterator[str]:
    healthy = {*content["healthy"]}
    faults = [cause for cause in content["causes"] if CAUSES[cause["cause"]].fault_of_clients]
    blamed = {client for cause in faults for client in cause["clients"]}
    unusual = {each["client"] for each in content.get("observations", []) if each["unusual"]}
    for client in sorted(healthy & blamed):
        yield f"Client {client} is named by a cause, and is among the clients with nothing unusual."
    for client in sorted(healthy & unusual):
        yield f"Client {client} has an unusual signal, and is among the clients with nothing unusual."


def _limits(content: Content) -> Iterator[str]:
    text = " ".join(content["limits"])
    if content["causes"] and "o cause is proven" in text:
        yield "A cause is proven, but a limit says that none is."
    if content["increase"]["detected"] and "The loss did not rise" in text:
        yield "The loss rose, but a limit says that it did not."


_RULES: tuple[Callable[[Content], Iterator[str]], ...] = (
    _verdict,
    _rise,
    _harm,
    _proofs,
    _tried,
    _budget,
    _reproduced,
    _remedies,
    _clients,
    _limits,
)
