"""Why did the loss go up, or the run end? What happened, who drifted, which cause a replay proves, which remedy."""

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tasks import outputs
from tasks.diagnose.changed_data import rises_with_changed_data
from tasks.diagnose.compose import compose
from tasks.diagnose.consistency import contradictions
from tasks.diagnose.diagnosis import Diagnosis, to_json
from tasks.diagnose.ended.ending import Ending, as_rise, broken_model, find_ending
from tasks.diagnose.ended.limits import RUN_AGAIN, limits_of_ending, unfinished, why_not_proven, why_not_replayed
from tasks.diagnose.incident import Incident
from tasks.diagnose.investigation import Investigation
from tasks.diagnose.limits import FROM_DATA, limits_of_logs, no_standing_cause, not_proven, not_replayed, replay_failed
from tasks.diagnose.metrics import to_metrics
from tasks.diagnose.observe.chance import hold_out_counts
from tasks.diagnose.observe.observation import Observation, observe, sound_after, without_rise
from tasks.diagnose.observe.own_losses import ClientRise
from tasks.diagnose.observe.rise import Rise
from tasks.diagnose.payoff import payoff
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.report.markdown import to_markdown
from tasks.diagnose.report.wording import headline
from tasks.errors import UndriftError
from tasks.files import read_json, replacing, write_json
from tasks.round_log.read import ClientLog, RoundLog, has_no_row, no_clients, read_clients, read_rounds
from tasks.settings import Settings

_log = logging.getLogger(__name__)


def diagnose(settings: Settings, folder: Path) -> None:
    """Reads reports/rounds.csv and clients.csv, writes diagnosis.json, .md, .html and diagnosis_metrics.json there.

    If the loss rose, the rounds are replayed from data/clients and the checkpoints, if they are there.

    Raises:
        DataError: a file, a column or a number is missing; nothing is written.
    """
    diagnose_logs(folder / "reports", settings, folder)
    _log.info("report: %s", os.path.relpath(folder / "reports/diagnosis.html"))


def diagnose_logs(
    reports: Path, settings: Settings, workspace: Path | None, more_limits: Sequence[str] = ()
) -> Diagnosis:
    """Does the same for the logs in the folder `reports`, and returns the diagnosis.

    `workspace` holds the clients' data and perhaps checkpoints; None: nothing can be replayed, and clients.csv may be
    missing. `more_limits` are known to the caller, and come first.
    """
    answer, num_rounds = written(reports, settings, workspace, more_limits)
    _log.info("%d rounds: %s", num_rounds, headline(answer))
    return answer


def written(
    reports: Path, settings: Settings, workspace: Path | None, more_limits: Sequence[str] = ()
) -> tuple[Diagnosis, int]:
    """Writes the diagnosis of the logs in `reports`, and returns it with the number of rounds; logs no answer."""
    with outputs.renewed([reports / Path(name).name for name in outputs.OUTPUTS["diagnose"]]):
        rounds, clients, run_again = _logs(reports, settings, workspace)
        answer = diagnosis(rounds, clients, settings, workspace)
        if run_again:
            more_limits = (RUN_AGAIN, *more_limits)
        answer = replace(answer, limits=(*more_limits, *answer.limits))
        write_reports(reports, answer, rounds, clients, workspace)
    return answer, len(rounds.rounds)


def write_reports(
    reports: Path, answer: Diagnosis, rounds: RoundLog, clients: ClientLog, workspace: Path | None
) -> None:
    """Writes diagnosis.md, .html, .json and diagnosis_metrics.json."""
    pays = payoff(reports, rounds)
    _write_text(reports / "diagnosis.md", to_markdown(answer, pays))
    _write_text(reports / "diagnosis.html", _page(answer, rounds, clients, workspace, pays))
    content = to_json(answer)
    write_json(reports / "diagnosis.json", content)
    write_json(reports / "diagnosis_metrics.json", to_metrics(answer))
    for sentence in contradictions(content):
        _log.warning("this diagnosis contradicts itself, please report it: %s", sentence)


def _logs(reports: Path, settings: Settings, workspace: Path | None) -> tuple[RoundLog, ClientLog, bool]:
    """The two logs, and whether they are of round 1 run again, because the run's own log has no round.

    Raises:
        DataError: a file, a column or a number is missing; or there is no round, and the run does not end in round 1.
    """
    if workspace is not None and (workspace / "data/clients").is_dir() and has_no_row(reports / "rounds.csv"):
        from tasks.diagnose.replay.again import ended_again

        with tempfile.TemporaryDirectory() as holder:
            if ended_again(settings, workspace, Path(holder)):
                again = Path(holder, "reports")
                return read_rounds(again / "rounds.csv"), read_clients(again / "clients.csv"), True
    rounds = read_rounds(reports / "rounds.csv")
    if workspace is None and not (reports / "clients.csv").exists():
        return rounds, no_clients(), False
    return rounds, read_clients(reports / "clients.csv"), False


def diagnosis(
    rounds: RoundLog,
    clients: ClientLog,
    settings: Settings,
    workspace: Path | None,
    cache: ComputationCache | None = None,
) -> Diagnosis:
    """Returns the answer from the two logs.

    `workspace` as for `diagnose_logs`; several diagnoses in one process may share the `cache` of computations.
    """
    cache = cache or ComputationCache()
    significance, training = settings.diagnose.significance, clients.without(rounds.rounds[rounds.pruning])
    hold_out = hold_out_counts(workspace)
    observation = observe(rounds, clients, significance, hold_out=hold_out)
    data_rises = [] if workspace is None else rises_with_changed_data(settings, workspace, training, cache)
    from_data = list[str]()
    if data_rises and not observation.rise.detected:
        observation = observe(rounds, clients, significance, data_rises, hold_out)
        from_data = [FROM_DATA] if observation.rise.detected else []
    ending = find_ending(rounds, clients) or broken_model(observation, rounds, clients)
    replays, unproven = None, list[str]()
    logged = observation
    if ending and not (ending.by_rise and observation.rise.detected):
        observation, from_data = as_rise(observation, ending), []
        replays, unproven = _ended(observation.rise, ending, rounds, training, settings, workspace, cache)
    elif observation.rise.detected:
        replays, unproven = _replayed(observation, data_rises, rounds, training, settings, workspace, cache)
    goes_on = ending is None or ending.goes_on
    if goes_on and workspace is not None and not (replays and replays.causes) and _has_data(workspace):
        standing, why = _stood(logged, rounds, training, settings, workspace, cache)
        if not observation.rise.detected:
            replays, unproven = standing, why
        elif standing is not None and standing.causes:
            # What has been wrong from the start can hide behind a rise that nothing explains.
            observation, from_data, ending, replays, unproven = without_rise(logged), [], None, standing, []
    if not ending:
        unproven = [*unproven, *unfinished(rounds, settings, workspace)]
    is_rise = observation.rise.kind != "ended"
    looked_for = () if replays is None else replays.looked_for
    of_logs = limits_of_logs(observation, rounds, clients, looked_for) if is_rise else limits_of_ending(observation)
    notes = () if replays is None else replays.notes
    limits = [*unproven, *from_data, *notes, *of_logs]
    return compose(observation, limits, settings, replays, ending)


def _has_data(workspace: Path) -> bool:
    return (workspace / "data/clients/preprocess.json").is_file()


def _ended(
    rise: Rise,
    ending: Ending,
    rounds: RoundLog,
    clients: ClientLog,
    settings: Settings,
    workspace: Path | None,
    cache: ComputationCache,
) -> tuple[Investigation | None, list[str]]:
    """What the replays of a run that ended showed, and why they prove no cause, if they prove none."""
    reasons = why_not_replayed(rise, ending, workspace, rounds, settings.federate.rounds)
    if reasons or workspace is None:
        return None, reasons
    from tasks.diagnose.ended.investigate import investigate_ending

    budget = settings.diagnose.budget
    return _outcome(lambda: investigate_ending(settings, workspace, ending, clients, budget, cache), why_not_proven)


def _replayed(
    observation: Observation,
    data_rises: Sequence[ClientRise],
    rounds: RoundLog,
    clients: ClientLog,
    settings: Settings,
    workspace: Path | None,
    cache: ComputationCache,
) -> tuple[Investigation | None, list[str]]:
    """What the replays showed, if they could be run, and why they prove no cause, if they prove none."""
    reasons = not_replayed(observation.rise, workspace, rounds, settings.federate.rounds)
    if reasons or workspace is None:
        return None, reasons
    # TensorFlow takes seconds to import, and most diagnoses find no rise.
    from tasks.diagnose.investigate import investigate

    rise = observation.rise
    column = rounds.losses[rise.loss]
    incident = Incident(
        rise,
        rounds.rounds[column.given],
        column.values[column.given],
        (observation.train_trend, observation.val_trend),
        sound_after(rise, rounds, data_rises),
        rounds.hold_out,
    )
    budget = settings.diagnose.budget
    return _outcome(
        lambda: investigate(settings, workspace, incident, clients, budget, cache),
        lambda replays: not_proven(replays, incident.hidden),
    )


def _stood(
    observation: Observation,
    rounds: RoundLog,
    clients: ClientLog,
    settings: Settings,
    workspace: Path,
    cache: ComputationCache,
) -> tuple[Investigation | None, list[str]]:
    """What stands in the way of a loss that did not rise, and why that is not known, if it is not."""
    if rounds.pruning.all():
        return None, []
    if reasons := not_replayed(observation.rise, workspace, rounds, settings.federate.rounds):
        return None, reasons
    from tasks.diagnose.standing.investigate import investigate_standing

    return _outcome(
        lambda: investigate_standing(settings, workspace, rounds, clients, observation, cache),
        lambda replays: no_standing_cause(replays) if replays.standing and not replays.causes else [],
    )


def _outcome(
    investigate: Callable[[], Investigation], unproven: Callable[[Investigation], list[str]]
) -> tuple[Investigation | None, list[str]]:
    """What the replays showed, if they could be run, and why they could not be run or prove no cause."""
    try:
        replays = investigate()
    except UndriftError as exc:
        return None, replay_failed(exc)
    return replays, unproven(replays)


def _page(answer: Diagnosis, rounds: RoundLog, clients: ClientLog, workspace: Path | None, pays: Sequence[str]) -> str:
    # Matplotlib takes half a second to import, which other commands need not wait for.
    from tasks.diagnose.report.page import to_html

    path = None if workspace is None else workspace / "data/partition/partition.json"
    partition = read_json(path) if path is not None and path.is_file() else None
    return to_html(answer, rounds, clients, partition, pays)


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")
