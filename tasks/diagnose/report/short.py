"""The answer for a run that died, in a few lines for a terminal."""

from collections.abc import Iterator

from tasks.diagnose.diagnosis import Diagnosis, TriedRemedy
from tasks.diagnose.limits import WHY_NONE
from tasks.diagnose.phrases import figure, joined
from tasks.diagnose.report import ended_wording, patch, remedy_wording, wording


def lines(diagnosis: Diagnosis) -> Iterator[str]:
    """Yields `why: …`, `since: …` and `remedy: …`; without a proven cause, why there is none."""
    yield f"why: {_why(diagnosis)}"
    if diagnosis.rise.round is not None:
        yield f"since: round {diagnosis.rise.round}"
    remedy = diagnosis.remedy
    if remedy is not None:
        yield f"remedy: {_settings(diagnosis)} ({_effect(diagnosis, remedy)})"
    elif diagnosis.causes:
        yield "remedy: none of the settings that were tried helps" if diagnosis.remedies else "remedy: none was tried"
    if not diagnosis.causes:
        yield from [limit for limit in diagnosis.limits if any(why in limit for why in WHY_NONE)][:1]


def summary(diagnosis: Diagnosis) -> str:
    """Returns `the clients' learning rate is too high; -S federate.client.learning_rate=0.3 helps`."""
    if not diagnosis.causes:
        return "no cause is proven"
    causes = joined([wording.because(cause) for cause in diagnosis.causes])
    return f"{causes}; {_settings(diagnosis)} helps" if diagnosis.remedy else causes


def _why(diagnosis: Diagnosis) -> str:
    ending = diagnosis.ending
    how = wording.headline(diagnosis) if ending is None else f"{ended_wording.how(ending)}."
    if not diagnosis.causes:
        return f"{how} No cause is proven."
    return f"{how} The cause: {joined([wording.because(cause) for cause in diagnosis.causes])}."


def _effect(diagnosis: Diagnosis, remedy: TriedRemedy) -> str:
    if not ended_wording.is_ended(diagnosis.rise) or diagnosis.budget is None:
        return remedy_wording.effect(remedy, diagnosis).rstrip(".")
    return f"in replays, {ended_wording.trains(remedy, diagnosis)}; chance is {figure(diagnosis.budget.chance)}"


def _settings(diagnosis: Diagnosis) -> str:
    remedy = diagnosis.remedy
    return "" if remedy is None else patch.flags(remedy.settings) or patch.plain(remedy.settings)
