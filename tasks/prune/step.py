"""The step `prune`: the trained model in, a sparse one and its TFLite files out."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks import outputs
from tasks.errors import DataError, RunError
from tasks.federate.checkpoint import finish
from tasks.federate.cohort import Cohort, cohort_of
from tasks.federate.parameters import flatten, prunable
from tasks.federate.record import CLIENT_COLUMNS, ROUND_COLUMNS
from tasks.federate.rounds import Watch, ignore, run_rounds
from tasks.federate.runner import Phase
from tasks.federate.step import save_model
from tasks.files import read_rows, replacing, write_json, write_rows
from tasks.prune.export import sizes, tflite_logits, to_tflite
from tasks.prune.masks import PruningMasks
from tasks.settings import Settings

log = logging.getLogger(__name__)

# Largest difference between a logit of the float TFLite file and of Keras that the order of additions explains,
# relative to the largest logit.
_SAME_LOGITS = 1e-3


def prune(settings: Settings, folder: Path, watch: Watch = ignore) -> None:
    """Prunes models/global.h5 over `prune.rounds` more federated rounds.

    Writes models/pruned.h5, models/pruned.tflite (8-bit weights), models/pruned_float.tflite, reports/prune.json, and
    reports/rounds.csv and clients.csv: the rounds of `federate`, then these.

    Raises:
        RunError: the float TFLite file gives other logits than the Keras model.
    """
    with outputs.renewed(outputs.of("prune", folder)):
        _prune(settings, folder, watch)


def _prune(settings: Settings, folder: Path, watch: Watch) -> None:
    began = time.perf_counter()
    cohort = cohort_of(settings, folder)
    model = _load(folder / "models" / "global.h5")
    before = model.predict(cohort.test_x, batch_size=1024, verbose=0)
    masks, trained = PruningMasks(settings.prune, model), _last_round(folder / "reports" / "federate" / "rounds.csv")

    def next_mask(round_num: int, params: NDArray[np.float32]) -> NDArray[np.float32] | None:
        return masks.update(round_num - trained, params)

    def report(lines: Sequence[Mapping[str, Any]]) -> None:
        _write_log(folder / "reports", lines)

    phase = Phase("prune", trained + 1, trained + settings.prune.rounds, next_mask)
    run_rounds(settings, folder, cohort, model, phase, report, watch)
    save_model(model, folder / "models" / "pruned.h5")
    summary = _export(folder, cohort, model, before, masks)
    write_json(folder / "reports" / "prune.json", summary)
    finish(folder, "prune")
    log.info(
        "%.1f %% zeros, accuracy %.4f from %.4f, %d bytes zipped from %d in %.1f s",
        100 * summary["sparsity"],
        summary["accuracy"]["after"],
        summary["accuracy"]["before"],
        summary["size_bytes"]["pruned_tflite_gzip"],
        summary["size_bytes"]["global_h5_gzip"],
        time.perf_counter() - began,
    )


def _last_round(log: Path) -> int:
    """Returns the number of rounds of `federate`, which may have stopped early."""
    return int(read_rows(log)[-1]["round"])


def _load(path: Path) -> tf.keras.Model:
    try:
        return tf.keras.models.load_model(path, compile=False)
    except OSError as exc:
        raise DataError(f"cannot read {path}: run the step federate first ({str(exc).partition(':')[0]})") from exc


def _write_log(reports: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    trained = read_rows(reports / "federate" / "rounds.csv"), read_rows(reports / "federate" / "clients.csv")
    write_rows(reports / "rounds.csv", ROUND_COLUMNS, [*trained[0], *(line["row"] for line in lines)])
    clients = [row for line in lines for row in line["clients"]]
    write_rows(reports / "clients.csv", CLIENT_COLUMNS, [*trained[1], *clients])


def _export(
    folder: Path, cohort: Cohort, model: tf.keras.Model, before: NDArray[np.float32], masks: PruningMasks
) -> dict[str, Any]:
    models, params = folder / "models", flatten(model)
    logits = model.predict(cohort.test_x, batch_size=1024, verbose=0)
    files = {"tflite_float": to_tflite(model, quantise=False), "tflite_quantised": to_tflite(model, quantise=True)}
    names = {"tflite_float": "pruned_float.tflite", "tflite_quantised": "pruned.tflite"}
    exported = {}
    for name, content in files.items():
        exported[name] = tflite_logits(content, cohort.test_x)
        with replacing(models / names[name]) as fresh:
            fresh.write_bytes(content)
    largest, unit = _apart(exported["tflite_float"], logits)
    if largest > _SAME_LOGITS * unit:
        raise RunError(f"models/pruned_float.tflite differs from models/pruned.h5: by up to {largest:.4g} in a logit")
    size: dict[str, int] = {}
    for file in ("global.h5", "pruned.h5", "pruned_float.tflite", "pruned.tflite"):
        key = file.replace(".", "_")
        size[key], size[f"{key}_gzip"] = sizes(models / file)
    return {
        "sparsity": float(np.mean(params[prunable(model)] == 0)),
        "layers": masks.layers(params),
        "size_bytes": size,
        "accuracy": {"before": _accuracy(before, cohort), "after": _accuracy(logits, cohort)}
        | {name: _accuracy(values, cohort) for name, values in exported.items()},
        "tflite_agreement": {
            name: float(np.mean(values.argmax(1) == logits.argmax(1))) for name, values in exported.items()
        },
        "tflite_largest_difference": largest,
    }


def _apart(exported: NDArray[np.float32], logits: NDArray[np.float32]) -> tuple[float, float]:
    """Returns the largest difference of two models' logits (N, C), and the largest logit, at least 1.

    Over those that are finite in both: a model that has diverged is pruned and exported all the same.
    """
    finite = np.isfinite(exported) & np.isfinite(logits)
    one, other = exported[finite].astype(np.float64), logits[finite].astype(np.float64)
    return float(np.abs(one - other).max(initial=0.0)), float(np.abs(other).max(initial=1.0))


def _accuracy(logits: NDArray[np.float32], cohort: Cohort) -> float:
    return float(np.mean(logits.argmax(1) == cohort.test_y))
