"""The step `federate`: data/clients in, models/global.h5 and the round log out."""

import logging
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import tensorflow as tf

from tasks import outputs
from tasks.errors import RunError
from tasks.federate.checkpoint import finish
from tasks.federate.cohort import cohort_of
from tasks.federate.fit import check_fit
from tasks.federate.loop import Watch, ignore, run_rounds
from tasks.federate.runner import Phase
from tasks.files import replacing
from tasks.models import BUILDERS, build, num_params, save_model
from tasks.parameters import kernels, unpruned
from tasks.round_log.columns import ClientRow, RoundRow
from tasks.round_log.write import LOGS, write_log
from tasks.settings import Settings
from tasks.tflite import to_tflite

_log = logging.getLogger(__name__)


def federate(settings: Settings, folder: Path, watch: Watch = ignore) -> None:
    """Trains the global model over the clients in `folder`/data/clients.

    Writes models/global.h5, and writes rounds.csv and clients.csv twice: into reports/federate/, the step's own output,
    and into reports/, where the step `prune` adds its rounds.

    Raises:
        RunError: no client took part in any round, because `federate.faults` makes all clients absent that were drawn;
            and see `run_rounds`.
    """
    with outputs.renewed(outputs.of("federate", folder)):
        _federate(settings, folder, watch)


def _federate(settings: Settings, folder: Path, watch: Watch) -> None:
    began = time.perf_counter()
    cohort = cohort_of(settings, folder)
    model = build(
        settings.federate.model,
        cohort.input_shape,
        cohort.num_classes,
        settings.seed,
        say=lambda sentence: _log.info("federate.model %s %s", settings.federate.model, sentence),
    )
    if settings.federate.model not in BUILDERS:
        check_fit(settings.federate.model, model, cohort)
        _check_for_prune(settings.federate.model, model)

    def report(rounds: Sequence[RoundRow], clients: Iterable[ClientRow]) -> None:
        own = folder / "reports" / "federate"
        write_log(own, rounds, clients)
        for name in LOGS:
            with replacing(folder / "reports" / name) as fresh:
                shutil.copyfile(own / name, fresh)

    rows = run_rounds(settings, folder, cohort, model, Phase("federate", 1, settings.federate.rounds), report, watch)
    if not any(row["num_clients"] for row in rows):
        raise RunError(
            f"no client took part in rounds 1 to {len(rows)}: federate.faults.kind is absent, and "
            "federate.faults.clients names every client that was drawn"
        )
    save_model(model, folder / "models" / "global.h5")
    finish(folder, "federate")
    row = rows[-1]
    _log.info(
        "%d rounds, %d clients, %d parameters: loss %s, accuracy %s in %.1f s",
        len(rows),
        len(cohort.clients),
        num_params(model),
        row["val_loss"],
        row["val_accuracy"],
        time.perf_counter() - began,
    )


def _check_for_prune(name: str, model: tf.keras.Model) -> None:
    """Checks before the rounds that `prune` can export the model after them; logs the layers that it will not prune.

    Raises:
        SettingsError: TensorFlow Lite cannot hold the model.
    """
    to_tflite(model, quantise=False)
    left = unpruned(model)
    if left:
        _log.info("federate.model %s: prune will leave %s as they are", name, ", ".join(left))
    if not kernels(model):
        _log.warning("federate.model %s has no layer that prune can make sparse, such as Dense or Conv2D", name)
