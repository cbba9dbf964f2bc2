"""The step `evaluate`: it reads the models, the clients' data and the round log, and writes scores and pictures."""

import logging
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks import outputs
from tasks.arrays import LogitsOf
from tasks.clients import CLIENTS, Examples, Preprocessed, check_client_id, read_hold_out, read_preprocessed
from tasks.errors import DataError, listed, reading
from tasks.evaluate.curves import Curves, read_curves, read_updates
from tasks.evaluate.metrics import ClientScores, Scores, over_clients, score, score_client, worst
from tasks.evaluate.model import load_logits
from tasks.evaluate.pictures import draw_confusion, draw_curves, draw_drift, save
from tasks.files import read_json, write_json
from tasks.local.on_examples import on_examples
from tasks.runtime.carry import at_clients
from tasks.runtime.failed import Failed
from tasks.settings import Settings

_log = logging.getLogger(__name__)

_MODELS = ("global", "pruned")

_FROM_PRUNE = {
    "sparsity": ("sparsity",),
    "size_bytes": ("size_bytes", "global_h5"),
    "size_bytes_gzip": ("size_bytes", "global_h5_gzip"),
    "pruned_size_bytes": ("size_bytes", "pruned_tflite"),
    "pruned_size_bytes_gzip": ("size_bytes", "pruned_tflite_gzip"),
    "pruned_h5_size_bytes": ("size_bytes", "pruned_h5"),
    "pruned_h5_size_bytes_gzip": ("size_bytes", "pruned_h5_gzip"),
    "pruned_tflite_accuracy": ("accuracy", "tflite_quantised"),
}
"""Key of metrics.json -> path in prune.json. `size_bytes` is the size of the trained H5 file, `pruned_size_bytes` the
size of the deployed file, 8-bit TFLite. Compare `pruned_h5_size_bytes_gzip` with `size_bytes_gzip` to see
how many bytes the zeros save."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model on the hold-out set, and on every readable client's own training data."""

    test: Scores
    clients: dict[str, ClientScores]


def evaluate(settings: Settings, folder: Path) -> None:
    """Writes reports/metrics.json, evaluation.json, loss.png, drift.png and confusion.png.

    Nothing is written before everything is computed. A client whose data cannot be used is named in the log and under
    `left_out` in evaluation.json. It is missing from the scores over clients. With `evaluate.baselines`, the two files
    also say for which clients the federation pays; see `tasks.evaluate.baselines`.

    Raises:
        DataError: a model, the hold-out set, the round log or prune.json is missing or cannot be used.
    """
    with outputs.renewed(outputs.of("evaluate", folder)):
        _evaluate(settings, folder)


def _evaluate(settings: Settings, folder: Path) -> None:
    reports = folder / "reports"
    classes, clients = read_partition(folder / "data" / "partition" / "partition.json")
    curves = read_curves(reports / "rounds.csv")
    of_prune = numbers_of_prune(reports / "prune.json")
    preprocessed = _read_preprocessed(folder / CLIENTS, classes, clients)
    updates = read_updates(reports / "clients.csv", preprocessed.sizes, len(curves.rounds))
    x, y = read_hold_out(preprocessed)
    model, batch_size = settings.federate.model, settings.evaluate.batch_size
    models = {
        name: load_logits(folder / "models" / f"{name}.h5", model, preprocessed.form, batch_size) for name in _MODELS
    }
    predicted = {name: logits(x) for name, logits in models.items()}
    tests = {name: _score_test(name, y, logits) for name, logits in predicted.items()}
    per_client, left_out = _score_clients(models, preprocessed)
    evaluations = {name: Evaluation(tests[name], per_client[name]) for name in models}
    metrics = _flat(evaluations, curves) | of_prune
    detailed = _detailed(evaluations, classes) | {"left_out": left_out}
    if settings.evaluate.baselines:
        # Here, because TFF takes seconds to import, and most evaluations need none.
        from tasks.evaluate.baselines.measure import measure

        measured = measure(settings, folder, int(metrics["rounds"]), predicted["global"])
        metrics, detailed = metrics | measured.flat, detailed | {"baselines": measured.detailed}
        _log.info("%s", " ".join(measured.says))
    write_json(reports / "metrics.json", metrics)
    write_json(reports / "evaluation.json", detailed)
    save(draw_curves(curves), reports / "loss.png")
    save(draw_drift(updates, curves.prune_from), reports / "drift.png")
    confusions = {name: evaluation.test.confusion for name, evaluation in evaluations.items()}
    save(draw_confusion(confusions, classes), reports / "confusion.png")
    _log.info(
        "%.4f accuracy, pruned %.4f, on %d test examples; %d of %d clients evaluated",
        metrics["accuracy"],
        metrics["pruned_accuracy"],
        len(y),
        len(clients) - len(left_out),
        len(clients),
    )


def read_partition(path: Path) -> tuple[list[str], list[str]]:
    """Returns the names of the classes, and the clients' ids, sorted, in partition.json.

    Raises:
        DataError: (1) the file is missing, (2) it does not hold classes and clients, or (3) a client id is not allowed.
    """
    raw = read_json(path)
    with reading(f"{path} must hold classes and clients"):
        classes, clients = [str(name) for name in raw["classes"]], sorted(map(str, raw["clients"]))
    for client in clients:
        try:
            check_client_id(client)
        except DataError as exc:
            raise DataError(f"{path}: {str(exc)[:300]}") from exc
    return classes, clients


def _read_preprocessed(root: Path, classes: Sequence[str], clients: Sequence[str]) -> Preprocessed:
    preprocessed, path = read_preprocessed(root), root / "preprocess.json"
    if preprocessed.form.num_classes != len(classes):
        raise DataError(
            f"{path} must say the {len(classes)} classes of partition.json, got {preprocessed.form.num_classes}: "
            "run the step preprocess again"
        )
    if list(preprocessed.sizes) != list(clients):
        raise DataError(f"{path} must name the clients of partition.json: run the step preprocess again")
    return preprocessed


def _score_clients(
    models: Mapping[str, LogitsOf], preprocessed: Preprocessed
) -> tuple[dict[str, dict[str, ClientScores]], dict[str, str]]:
    """Returns each model's scores by client, and the reason for each client left out: unreadable, or a model fails."""

    def scores_of(examples: Examples) -> dict[str, ClientScores]:
        x, y = examples
        return {name: score_client(y, logits(x)) for name, logits in models.items()}

    answers = at_clients(partial(on_examples, scores_of), preprocessed.stored)
    scores: dict[str, dict[str, ClientScores]] = {name: {} for name in models}
    left_out = {}
    for client, answer in answers.items():
        if isinstance(answer, Failed):
            left_out[client] = f"client {client}: {answer.reason.removeprefix(f'client {client}: ')}"
            continue
        for name, of_client in answer.items():
            scores[name][client] = of_client
    if left_out:
        said = listed(list(left_out.values()), between="; ")
        _log.warning("%d clients are left out of the scores over clients: %s", len(left_out), said)
    return scores, left_out


def _score_test(name: str, y: NDArray[np.int32], logits: NDArray[np.float32]) -> Scores:
    scores = score(y, logits)
    if scores.non_finite:
        _log.warning(
            "%d of %d test examples have a logit that is not finite under models/%s.h5: counted as wrong",
            scores.non_finite,
            scores.num_examples,
            name,
        )
    return scores


def numbers_of_prune(path: Path) -> dict[str, float]:
    """Returns the numbers of prune.json by their names in metrics.json.

    Raises:
        DataError: the file is missing, or a number in it is missing or not finite.
    """
    raw = read_json(path)
    numbers = {}
    for name, keys in _FROM_PRUNE.items():
        value = raw
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
            got = reprlib.repr(value)
            raise DataError(f"{path} must hold a number at {'.'.join(keys)}, got {got}: run the step prune again")
        numbers[name] = value
    return numbers


def _flat(evaluations: Mapping[str, Evaluation], curves: Curves) -> dict[str, float]:
    """Returns the numbers of metrics.json; the names of the pruned model's numbers begin with `pruned_`."""
    pruning = 0 if curves.prune_from is None else int((curves.rounds >= curves.prune_from).sum())
    flat: dict[str, float] = {"rounds": len(curves.rounds) - pruning, "prune_rounds": pruning}
    for name, evaluation in evaluations.items():
        prefix = "" if name == "global" else f"{name}_"
        test = evaluation.test
        scores = {
            "loss": test.loss,
            "accuracy": test.accuracy,
            "balanced_accuracy": test.balanced_accuracy,
            "macro_f1": test.macro_f1,
            "auc": test.auc,
        } | over_clients(evaluation.clients)
        flat |= {prefix + key: value for key, value in scores.items() if value is not None}
    return flat


def _detailed(evaluations: Mapping[str, Evaluation], classes: list[str]) -> dict[str, Any]:
    """Returns evaluation.json: by model, all scores of metrics.json, and the scores of each class and client.

    `support` and `recall` of a client are in the order of `classes`. `losses` are those of the hold-out examples, with
    spaces between them: in one line, and with them two runs on the same hold-out data are compared.
    """
    detailed: dict[str, Any] = {"classes": classes}
    for model, evaluation in evaluations.items():
        test = evaluation.test
        per_class = [{"class": name} | asdict(of) for name, of in zip(classes, test.per_class, strict=True)]
        detailed[model] = {
            "test": asdict(test)
            | {"per_class": per_class, "confusion": test.confusion.tolist(), "losses": _line(test.losses)},
            "clients": {client: asdict(of) for client, of in evaluation.clients.items()},
            "over_clients": over_clients(evaluation.clients),
            "worst": worst(classes, test, evaluation.clients),
        }
    return detailed


def _line(losses: NDArray[np.float64] | None) -> str | None:
    return None if losses is None else " ".join(f"{loss:.6g}" for loss in losses.tolist())
