"""The step `prune`: it reads the trained model, and writes a sparse one and its TFLite files."""

import itertools
import logging
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks import outputs
from tasks.errors import DataError
from tasks.federate.checkpoint import finish
from tasks.federate.cohort import Cohort, cohort_of
from tasks.federate.loop import Watch, ignore, run_rounds
from tasks.federate.runner import Phase
from tasks.files import iterate_rows, replacing, write_json
from tasks.models import load_model, logits_of, save_model
from tasks.parameters import flatten, prunable, unpruned
from tasks.prune.masks import PruningMasks
from tasks.round_log.cells import Rows
from tasks.round_log.columns import CLIENT_COLUMNS, ROUND_COLUMNS, ClientRow, RoundRow
from tasks.round_log.own import checked_data, clients_of_run, rounds_of_run
from tasks.round_log.write import write_log
from tasks.scrub import scrubbing
from tasks.settings import Settings
from tasks.tflite import checked_difference, sizes, tflite_logits, to_tflite

_BATCH = 1024
"""Examples that are predicted at a time; it bounds the memory."""

_log = logging.getLogger(__name__)


def prune(settings: Settings, folder: Path, watch: Watch = ignore) -> None:
    """Prunes models/global.h5 over `prune.rounds` more federated rounds.

    Writes models/pruned.h5, models/pruned.tflite (8-bit weights), models/pruned_float.tflite, reports/prune.json, and
    reports/rounds.csv and clients.csv: the rounds of `federate`, then the rounds of pruning.

    Raises:
        DataError: the global model or the log of `federate` is missing, damaged, or belongs to another model.
        RunError: the float TFLite file gives other logits than the Keras model.
    """
    with outputs.renewed(outputs.of("prune", folder)):
        _prune(settings, folder, watch)


def _prune(settings: Settings, folder: Path, watch: Watch) -> None:
    began = time.perf_counter()
    cohort = cohort_of(settings, folder)
    model = load_model(folder / "models" / "global.h5", settings.federate.model, cohort.input_shape, cohort.num_classes)
    if not np.isfinite(flatten(model)).all():
        raise DataError(
            "models/global.h5 must hold finite parameters, got NaN or infinity: run the step federate again"
        )
    trained_log = folder / "reports" / "federate"
    rounds = _log_of_training(trained_log, settings, cohort)
    trained = len(rounds)  # not federate.rounds, because early stopping can end training earlier
    before = _logits(model, cohort)
    masks = PruningMasks(settings.prune, model)

    def next_mask(round_num: int, params: NDArray[np.float32]) -> NDArray[np.float32] | None:
        return masks.update(round_num - trained, params)

    def report(own_rounds: Sequence[RoundRow], own_clients: Iterable[ClientRow]) -> None:
        write_log(
            folder / "reports",
            [*rounds, *own_rounds],
            itertools.chain(iterate_rows(trained_log / "clients.csv"), own_clients),
        )

    phase = Phase("prune", trained + 1, trained + settings.prune.rounds, next_mask)
    run_rounds(settings, folder, cohort, model, phase, report, watch)
    save_model(model, folder / "models" / "pruned.h5")
    summary = _export(folder, cohort, model, before, masks)
    write_json(folder / "reports" / "prune.json", summary)
    finish(folder, "prune")
    _log.info(
        "%.1f %% zeros, accuracy %.4f from %.4f, %d bytes zipped from %d in %.1f s",
        100 * summary["sparsity"],
        summary["accuracy"]["after"],
        summary["accuracy"]["before"],
        summary["size_bytes"]["pruned_tflite_gzip"],
        summary["size_bytes"]["global_h5_gzip"],
        time.perf_counter() - began,
    )


def _log_of_training(reports: Path, settings: Settings, cohort: Cohort) -> Rows:
    """Returns the rows of rounds.csv of `federate`. Checks clients.csv, whose rows can be many, without keeping them.

    Both files must have the columns that this step writes.
    """
    rounds = rounds_of_run(reports / "rounds.csv", ROUND_COLUMNS, ["federate"], "federate")
    _check_columns(reports / "rounds.csv", rounds[0], ROUND_COLUMNS)
    chosen, path = settings.federate, reports / "clients.csv"
    if len(rounds) > chosen.rounds or (len(rounds) < chosen.rounds and not chosen.early_stopping.patience):
        raise DataError(
            f"{reports / 'rounds.csv'} must have the {chosen.rounds} rounds of federate.rounds, got {len(rounds)}: run "
            "the step federate again"
        )
    sizes = {client: info.num_examples for client, info in cohort.clients.items()}
    blocks = clients_of_run(path, CLIENT_COLUMNS, len(rounds), "federate")
    for block in checked_data(path, blocks, sizes, "federate", left_out={*cohort.broken, *chosen.exclude}):
        _check_columns(path, block.header, CLIENT_COLUMNS)
    return rounds


def _check_columns(path: Path, got: Iterable[str], known: Collection[str]) -> None:
    unknown = [column for column in got if column not in known]
    if unknown:
        raise DataError(f"{path} has an unknown column {unknown[0][:50]!r}: run the step federate again")


def _logits(model: tf.keras.Model, cohort: Cohort) -> Any:
    """Returns the logits (N, C) of the hold-out data."""
    return scrubbing("the model failed on the hold-out data", lambda: logits_of(model, _BATCH)(cohort.test_x))


def _export(
    folder: Path, cohort: Cohort, model: tf.keras.Model, before: NDArray[np.float32], masks: PruningMasks
) -> dict[str, Any]:
    models, params = folder / "models", flatten(model)
    logits = _logits(model, cohort)
    files = {"tflite_float": to_tflite(model, quantise=False), "tflite_quantised": to_tflite(model, quantise=True)}
    names = {"tflite_float": "pruned_float.tflite", "tflite_quantised": "pruned.tflite"}
    exported = {}
    for name, content in files.items():
        exported[name] = tflite_logits(content, cohort.test_x)
        with replacing(models / names[name]) as fresh:
            fresh.write_bytes(content)
    largest = checked_difference(exported["tflite_float"], logits)
    size: dict[str, int] = {}
    for file in ("global.h5", "pruned.h5", "pruned_float.tflite", "pruned.tflite"):
        key = file.replace(".", "_")
        size[key], size[f"{key}_gzip"] = sizes(models / file)
    zeros = params[prunable(model)] == 0
    return {
        "sparsity": float(np.mean(zeros)) if len(zeros) else 0.0,
        "layers": masks.layers(params),
        "unpruned": unpruned(model),
        "size_bytes": size,
        "accuracy": {"before": _accuracy(before, cohort), "after": _accuracy(logits, cohort)}
        | {name: _accuracy(values, cohort) for name, values in exported.items()},
        "tflite_agreement": {
            name: float(np.mean(values.argmax(1) == logits.argmax(1))) for name, values in exported.items()
        },
        "tflite_largest_difference": largest,
    }


def _accuracy(logits: NDArray[np.float32], cohort: Cohort) -> float:
    return float(np.mean(logits.argmax(1) == cohort.test_y))
