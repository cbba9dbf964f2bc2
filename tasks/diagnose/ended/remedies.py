"""Settings with which a run that ended trains: tried in replays, the one with the lowest hold-out loss is proposed."""

from collections.abc import Sequence

import numpy as np

from tasks.diagnose.causes import Remedy, remedies
from tasks.diagnose.ended.survival import Survival
from tasks.diagnose.ended.suspects import Steepness, rate_settings
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.investigation import Proof, Tried
from tasks.diagnose.replay.change import Change
from tasks.diagnose.verdict import SEEDS
from tasks.settings import Settings, value_at

_RATE = "federate.client.learning_rate"
_WORSE = 2
"""Client rates in a row with a higher loss than the best one, after which no lower rate is tried."""
_CONFIRMED = 3
"""Most remedies that are replayed with other seeds, the best first, until one trains with all of them."""


def treated(
    survival: Survival, proven: Sequence[Proof], settings: Settings, findings: Findings, steepness: Steepness
) -> tuple[tuple[Tried, ...], dict[str, Tried]]:
    """Returns the remedies that were tried, the best first, and the one that is proposed against each cause.

    With the proposed remedy, the run trains (1) to its last round, and (2) with every seed with which it does not train
    otherwise.

    Args:
        survival: the replays in which the causes were proven.
        proven: the causes; there may be none.
        settings: of the run.
        findings: of the clients.
        steepness: of the clients' losses, which bounds the client rates.
    """
    if not proven:
        return (), {}
    causes = tuple(proof.candidate.cause for proof in proven)
    changes = _replayed(survival, _options(proven, settings, findings, survival.start))
    if "client_learning_rate" in causes:
        others = {} if len(proven) == 1 else _without_rate(proven, settings)
        changes += _rates(survival, steepness, others)
    ranked = sorted(changes, key=lambda pair: (not survival.trains(pair[1]), survival.final(pair[1])))
    proposed = next((pair for pair in ranked[:_CONFIRMED] if _confirmed(survival, pair[1])), None)
    tried = [_tried(survival, *pair, causes) for pair in ranked]
    tried.sort(key=lambda each: (-each.recovers, each.loss))
    if proposed is None:
        return tuple(tried), {}
    chosen = next(each for each in tried if each.remedy is proposed[0])
    return tuple(tried), dict.fromkeys(causes, chosen)


def _confirmed(survival: Survival, change: Change) -> bool:
    """Whether the run trains with a change to its last round, and with other seeds in the rounds that are replayed."""
    if not survival.trains(change) or not survival.affords(_with_confirmation(survival) - survival.length):
        return False
    return survival.trains_to_the_end(change) and survival.confirmed(change).proven


def _options(proven: Sequence[Proof], settings: Settings, findings: Findings, start: int) -> list[Remedy]:
    """The remedies of each cause; of two causes that end the run together, each remedy of one with each of the other.

    Lower client rates are tried elsewhere: `_rates`.
    """
    by_cause = [
        [
            remedy
            for remedy in remedies(proof.candidate.cause, settings, proof.candidate.clients, findings, start)
            if _RATE not in remedy.settings
        ]
        for proof in proven
    ]
    if len(by_cause) == 1:
        return by_cause[0]
    first, second = by_cause
    joint = [one | other for one in first for other in second]
    return [remedy for remedy in joint if remedy is not None]


def _without_rate(proven: Sequence[Proof], settings: Settings) -> dict[str, object]:
    """The settings that the proof of two causes changes, without the client rate."""
    both, raw = proven[0].candidate.change.settings, settings.model_dump(mode="json")
    return {name: value for name, value in both.items() if name != _RATE and value != value_at(raw, name)}


def _replayed(survival: Survival, options: Sequence[Remedy]) -> list[tuple[Remedy, Change]]:
    found: list[tuple[Remedy, Change]] = []
    for remedy in options:
        if found and not survival.affords(_with_confirmation(survival)):
            break
        if survival.run(remedy.change) is not None:
            found.append((remedy, remedy.change))
    return found


def _with_confirmation(survival: Survival) -> int:
    """Rounds of a replay, and of the replays that confirm it: to the end of the run, and with the other seeds."""
    return survival.length * SEEDS + survival.to_the_end


def _rates(survival: Survival, steepness: Steepness, others: dict[str, object]) -> list[tuple[Remedy, Change]]:
    """Replays lower client rates, beside the settings `others`; it ends where lower rates only learn more slowly."""
    found: list[tuple[Remedy, Change]] = []
    best, worse = np.inf, 0
    for rate in steepness.rates():
        says = f"set the client learning rate to {rate:g}" + (" beside the other change" if others else "")
        remedy = Remedy(says, {**others, **rate_settings(rate)})
        pair = remedy, remedy.change
        if found and not survival.affords(_with_confirmation(survival)):
            break
        if survival.run(pair[1]) is None:
            continue
        found.append(pair)
        final = survival.final(pair[1])
        better = survival.trains(pair[1]) and final < best
        worse = 0 if better else worse + np.isfinite(best)
        best = final if better else best
        if worse == _WORSE:
            break
    return found


def _tried(survival: Survival, remedy: Remedy, change: Change, causes: tuple[str, ...]) -> Tried:
    effect = survival.effect(change)
    return Tried(remedy, effect.mean if effect.by_seed else 0.0, survival.final(change), causes)
