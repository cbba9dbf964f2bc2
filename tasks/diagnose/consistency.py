"""What may stand together in one diagnosis: the rules that every diagnosis.json keeps."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tasks.diagnose.causes import CAUSES
from tasks.diagnose.limits import (
    ALL_RULED_OUT,
    NEAR_CHANCE,
    NONE_TRIED,
    NOT_KNOWN,
    NOT_LOOKED_AT,
    ONLY_SINGLE_ROUNDS,
    WHY_NONE,
)
from tasks.diagnose.phrases import figure
from tasks.diagnose.thresholds import PROVEN

Content = Mapping[str, Any]
"""diagnosis.json."""
RISE = re.compile(r"\b(the|this) rise\b|\brose again\b|\brise again\b")
"""What only a report about a rise says of it."""


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
    harmed = increase["detected"] or content.get("question") in ("ended", "standing", "against")
    if not harmed and (content["causes"] or content.get("ruled_out") or content.get("remedies")):
        yield "Nothing rose and the run did not end early, but causes or remedies were tried."


def _harm(content: Content) -> Iterator[str]:
    if "harm" not in content:
        return
    harm, detected = content["harm"], content["increase"]["detected"]
    if harm is None:
        if detected and content.get("question") != "against":
            yield "The loss rose, but there is no harm."
        return
    if not detected and content.get("question", "rise") == "rise":
        yield "Nothing rose, but there is a harm."
    if None not in (harm["loss"], harm["reference"]) and not harm["loss"] > harm["reference"]:
        yield f"The harm is a loss of {figure(harm['loss'])}, which is not above {figure(harm['reference'])}."


def _standing(content: Content) -> Iterator[str]:
    """A loss that did not rise: what it would be is known exactly if a cause is proven."""
    if content.get("question") != "standing":
        return
    if content["increase"]["detected"]:
        yield "The question is why the loss is high although it did not rise, but it rose."
    harm = content["harm"] or {}
    if content["causes"] and harm.get("reference") is None:
        yield "A cause is proven, but it is not known how high the loss is without it."
    if not content["causes"] and harm.get("reference") is not None:
        yield "No cause is proven, but there is a loss without the causes."
    for sentence in _sentences(content):
        if RISE.search(sentence):
            yield f"Nothing rose, but a sentence speaks of a rise: {sentence}"


def _against(content: Content) -> Iterator[str]:
    """A run beside another one: only a higher loss has causes, and each is a difference that was taken back."""
    if content.get("question") != "against":
        return
    if content["causes"] and not content["worse"]:
        yield "The loss is not higher than that of the other run, but a cause is claimed."
    if content["causes"] and not any(each["proven"] for each in content["differences"]):
        yield "A cause is claimed, but no difference is one."
    for each in content["differences"]:
        if each["proven"] and not each["tried"]:
            yield f"{each['name']} is a cause, but it was not taken back."


def _sentences(content: Content) -> Iterator[str]:
    """All that the report says of the limits, and of the causes that are proven or tried."""
    yield from content["limits"]
    for cause in content["causes"]:
        yield from (evidence["says"] for evidence in cause["evidence"])
        yield cause["replay"]["says"]
    for tried in (*content.get("ruled_out", []), *content.get("not_finished", [])):
        yield from (tried["says"], tried["why"])


def _looked_at(content: Content) -> Iterator[str]:
    """Where nothing rose, a client is called usual only if it is said what was looked at."""
    if content["increase"]["detected"] or "looked_for" not in content:
        return
    if content["healthy"] and not content["looked_for"]:
        yield "Clients have nothing unusual, but it is not said what was looked at."
    if content["looked_for"] and ONLY_SINGLE_ROUNDS in " ".join(content["limits"]):
        yield "A limit says that only single rounds were looked at, but the report says what else was."


def _proofs(content: Content) -> Iterator[str]:
    if content.get("question") == "standing":
        # Several causes share the excess, and a share within the noise of seeds is no proof.
        for cause in content["causes"]:
            if not cause["replay"]["removes"]["mean"] > 0:
                yield f"{cause['cause']} is claimed, but without it none of the harm is gone."
        return
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


def _endings(content: Content) -> Iterator[str]:
    """A remedy that ended no better than doing nothing is not proposed."""
    failed = [r for r in content.get("remedies", []) if r.get("ending") and not r["confirmed"]]
    for cause in content["causes"]:
        remedy = cause["remedy"] or {}
        if any((each["settings"], each["says"]) == (remedy.get("settings"), remedy.get("says")) for each in failed):
            yield f"The remedy of {cause['cause']} is proposed, but at the end of the run it does not help."


def _clients(content: Content) -> Iterator[str]:
    healthy = {*content["healthy"]}
    named = {client for cause in content["causes"] for client in cause["clients"]}
    unusual = {each["client"] for each in content.get("observations", []) if each["unusual"]}
    risen = {*content.get("detection", {}).get("clients", [])}
    for clients, what in (
        (named, "is named by a cause"),
        (unusual, "has an unusual signal"),
        (risen, "has a loss that rose, or failed"),
        ({*content.get("not_looked_at", [])}, "was not looked at"),
    ):
        for client in sorted(healthy & clients):
            yield f"Client {client} {what}, and is among the clients with nothing unusual."


def _limits(content: Content) -> Iterator[str]:
    text = " ".join(content["limits"])
    if content["causes"] and "o cause is proven" in text:
        yield "A cause is proven, but a limit says that none is."
    if content["increase"]["detected"] and "The loss did not rise." in text:
        yield "The loss rose, but a limit says that it did not."
    if content["increase"]["detected"] and NEAR_CHANCE in text:
        yield "The loss rose, but a limit says that its changes are no rise."


def _unproven(content: Content) -> Iterator[str]:
    """The limits say why no cause is proven, and the causes that were tried agree with that."""
    text, ruled_out = " ".join(content["limits"]), content.get("ruled_out", [])
    not_finished = content.get("not_finished", [])
    if NONE_TRIED in text and (ruled_out or not_finished):
        yield "A limit says that no cause was tried, but there are causes ruled out or not finished."
    if ALL_RULED_OUT in text and (not_finished or not ruled_out):
        yield "A limit says that every cause that was tried is ruled out, but that is not so."
    if NOT_KNOWN in text and not not_finished:
        yield "A limit says that causes are not finished, but there are none."
    skipped = " ".join(limit for limit in content["limits"] if limit.startswith(NOT_LOOKED_AT))
    for cause in {each["cause"] for each in (*content["causes"], *ruled_out, *not_finished)}:
        if CAUSES[cause].words.name in skipped:
            yield f"A limit says that {cause} was not looked at, but it was tried."
    harmed = content["increase"]["detected"] or content.get("question") in ("ended", "standing")
    if content.get("question") == "against":
        harmed = content["worse"]
    if harmed and not content["causes"] and not any(why in text for why in WHY_NONE):
        yield "No cause is proven, but no limit says why."


_RULES: tuple[Callable[[Content], Iterator[str]], ...] = (
    _verdict,
    _rise,
    _harm,
    _standing,
    _against,
    _looked_at,
    _proofs,
    _tried,
    _budget,
    _reproduced,
    _remedies,
    _endings,
    _clients,
    _limits,
    _unproven,
)
