"""Why did the loss go up? What rose, who drifted, which cause a replay proves, and which remedy."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks import outputs
from tasks.detection import Increase
from tasks.diagnose.explain import with_causes
from tasks.diagnose.incident import Incident
from tasks.diagnose.observe.limits import limits, not_replayed
from tasks.diagnose.observe.observation import Observation, observe, sound_after
from tasks.diagnose.observe.own_losses import ClientRise
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.report.observed import headline, to_json, to_markdown
from tasks.errors import UndriftError
from tasks.files import read_json, replacing, write_json
from tasks.round_log.read import ClientLog, RoundLog, read_clients, read_rounds
from tasks.runtime.check_in import check_in
from tasks.settings import Settings

_log = logging.getLogger(__name__)

_FROM_DATA = (
    "No test of the losses alone finds this rise: it is known from the clients' data, which have changed in the course "
    "of the run."
)
_SHORTLY = 10
"""Rounds."""


def diagnose(settings: Settings, folder: Path) -> None:
    """Reads reports/rounds.csv and clients.csv, writes reports/diagnosis.json, diagnosis.md and diagnosis.html.

    Where the loss rose, the rounds are replayed from data/clients and the checkpoints, if they are there.

    Raises:
        DataError: a file, a column or a number is missing; nothing is written.
    """
    diagnose_logs(folder / "reports", settings, folder)


def diagnose_logs(reports: Path, settings: Settings, workspace: Path | None) -> str:
    """Does the same for the logs in the folder `reports`, and returns the answer in one sentence.

    `workspace` holds the clients' data and perhaps checkpoints; None: nothing can be replayed.
    """
    with outputs.renewed([reports / Path(name).name for name in outputs.OUTPUTS["diagnose"]]):
        return _diagnose_logs(reports, settings, workspace)


def _diagnose_logs(reports: Path, settings: Settings, workspace: Path | None) -> str:
    rounds, clients = read_rounds(reports / "rounds.csv"), read_clients(reports / "clients.csv")
    found = diagnosis(rounds, clients, settings, workspace)
    _write_text(reports / "diagnosis.md", to_markdown(found))
    _write_text(reports / "diagnosis.html", _page(found, rounds, clients, workspace))
    write_json(reports / "diagnosis.json", found)
    answer = headline(found)
    _log.info("%d rounds: %s", len(rounds.rounds), answer)
    return answer


def diagnosis(
    rounds: RoundLog,
    clients: ClientLog,
    settings: Settings,
    workspace: Path | None,
    cache: ComputationCache | None = None,
) -> dict[str, Any]:
    """Returns what diagnosis.json holds; several diagnoses in one process may share the `cache` of computations."""
    cache = cache or ComputationCache()
    significance = settings.diagnose.significance
    seen, risen = observe(rounds, clients, significance), list[ClientRise]()
    tested, training = seen.rise.detected, clients.without(rounds.rounds[rounds.pruning])
    if workspace is not None and _data_changed(settings, workspace):
        risen = _risen_with_their_data(training, settings, workspace, cache)
    if risen and not tested:
        seen = observe(rounds, clients, significance, risen)
    unknown = limits(seen, rounds, clients, significance)
    if seen.rise.detected and not tested:
        unknown.insert(0, _FROM_DATA)
    found = to_json(seen, significance, unknown)
    if not seen.rise.detected:
        return found
    why = not_replayed(seen, workspace, rounds, settings.federate.rounds)
    if why is None and workspace is not None:
        try:
            return _with_proof(found, seen, risen, rounds, training, settings, workspace, cache)
        except UndriftError as exc:
            why = f"The rounds could not be replayed, so no cause is proven: {exc}."
    return found | {"limits": [why, *unknown]}


def _data_changed(settings: Settings, workspace: Path) -> bool:
    """Whether the clients' data are others than those that the run began with, as far as its checkpoints tell."""
    try:
        began_with = read_json(workspace / "models/checkpoints/federate/run.json")["identity"]["data"]
        return bool(check_in(workspace / "data/clients", settings.federate.exclude).digest != began_with)
    except (UndriftError, OSError, KeyError, TypeError):
        return False  # without checkpoints or data there is nothing to compare


def _risen_with_their_data(
    clients: ClientLog, settings: Settings, workspace: Path, cache: ComputationCache
) -> list[ClientRise]:
    """The clients whose loss rose as their data changed; none where that cannot be known."""
    if not {"num_examples", "loss_before"} <= set(clients.signals):
        return []
    from tasks.diagnose.evidence.remembered import risen_with_their_data

    try:
        return risen_with_their_data(settings, workspace, clients, cache)
    except UndriftError as exc:
        _log.info("whose data have changed is not known: %s", exc)
        return []


def _with_proof(
    found: dict[str, Any],
    seen: Observation,
    risen: Sequence[ClientRise],
    rounds: RoundLog,
    clients: ClientLog,
    settings: Settings,
    workspace: Path,
    cache: ComputationCache,
) -> dict[str, Any]:
    # TensorFlow takes seconds to import, and most diagnoses find no rise.
    from tasks.diagnose.investigate import investigate

    column = rounds.losses[seen.rise.loss]
    measured = rounds.rounds[column.given], column.values[column.given]
    trends = seen.train_trend, seen.val_trend
    hidden = () if seen.rise.kind == "not_finite" else seen.rise.clients
    # Data that changed shortly before the rise was seen had changed the model by then.
    sound, began = sound_after(seen.rise, rounds), seen.rise.round or 0
    changed = [one.round for one in risen if began - _SHORTLY <= one.round <= began]
    sound = min([sound, *(round_num - 1 for round_num in changed)])
    rise = seen.rise
    increase = Increase(True, rise.round, rise.until, rise.loss_before, rise.loss_after, rise.confidence, rise.alarm)
    incident = Incident(increase, rise.loss, *measured, trends, sound, hidden)
    shown = investigate(settings, workspace, incident, clients, settings.diagnose.budget, cache)
    unknown = list(found["limits"])
    if not shown.reproduced:
        unknown.insert(
            0,
            "Run again with the data and settings in this folder, the loss did not rise: something was different then, "
            "so no cause is proven.",
        )
    elif not shown.causes:
        unknown.insert(0, "No change of one factor that was tried takes the rise away, so no cause is proven.")
    return with_causes(found | {"limits": unknown}, shown, settings)


def _page(found: dict[str, Any], rounds: RoundLog, clients: ClientLog, workspace: Path | None) -> str:
    from tasks.diagnose.report.page import (
        to_html,  # Matplotlib takes half a second, which other commands need not wait for
    )

    held = None if workspace is None else workspace / "data/partition/partition.json"
    return to_html(found, rounds, clients, read_json(held) if held is not None and held.is_file() else None)


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


__all__ = ["diagnose", "diagnose_logs", "diagnosis"]
