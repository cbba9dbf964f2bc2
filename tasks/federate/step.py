"""The step `federate`: data/clients in, models/global.h5 and the round log out."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks import outputs
from tasks.federate.checkpoint import finish
from tasks.federate.cohort import cohort_of
from tasks.federate.fit import check_fit
from tasks.federate.record import write_log
from tasks.federate.rounds import Watch, ignore, run_rounds
from tasks.federate.runner import Phase
from tasks.models import build, num_params, save_model
from tasks.settings import Settings

log = logging.getLogger(__name__)


def federate(settings: Settings, folder: Path, watch: Watch = ignore) -> None:
    """Trains the global model over the clients in `folder`/data/clients.

    Writes models/global.h5, and rounds.csv and clients.csv into both reports/federate/ (the step's own output) and
    reports/, where the step `prune` puts its rounds after them.
    """
    with outputs.renewed(outputs.of("federate", folder)):
        _federate(settings, folder, watch)


def _federate(settings: Settings, folder: Path, watch: Watch) -> None:
    began = time.perf_counter()
    cohort = cohort_of(settings, folder)
    model = build(settings.federate.model, cohort.input_shape, cohort.num_classes, settings.seed)
    if ":" in settings.federate.model:
        check_fit(settings.federate.model, model, cohort)

    def report(lines: Sequence[Mapping[str, Any]]) -> None:
        for reports in (folder / "reports" / "federate", folder / "reports"):
            write_log(reports, lines)

    lines = run_rounds(settings, folder, cohort, model, Phase("federate", 1, settings.federate.rounds), report, watch)
    save_model(model, folder / "models" / "global.h5")
    finish(folder, "federate")
    row = lines[-1]["row"]
    log.info(
        "%d rounds, %d clients, %d parameters: loss %s, accuracy %s in %.1f s",
        len(lines),
        len(cohort.clients),
        num_params(model),
        row["val_loss"],
        row["val_accuracy"],
        time.perf_counter() - began,
    )
