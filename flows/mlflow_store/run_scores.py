"""The final scores of a run, as MLflow shows them: in the run's description, and by the model that they describe."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.settings import Settings

_BASELINES = "baselines"
OF_BASELINES = ("pooled_", "local_", "federated_", "clients_better_")
"""How the scores of `evaluate.baselines` begin."""
_OF_PRUNED = {
    "size_bytes": "tflite_size_bytes",
    "size_bytes_gzip": "tflite_size_bytes_gzip",
    "h5_size_bytes": "size_bytes",
    "h5_size_bytes_gzip": "size_bytes_gzip",
}
"""Score of the pruned model in metrics.json, without its prefix → the name on the model's own page."""


def note(
    settings: Settings, rows: Sequence[Mapping[str, str]], scores: Mapping[str, Any], said: Sequence[str] = ()
) -> str:
    """Returns the run's description in Markdown: main settings, number of rounds in `rows` of rounds.csv, scores.

    `said` are the sentences of `evaluate.baselines`: for whom the federation pays.
    """
    federate, partition = settings.federate, settings.partition
    pruned = sum(row["phase"] == "prune" for row in rows)
    lines = [
        f"**{federate.model}** on {settings.data.kind}, {partition.kind} partition, "
        f"{len(rows) - pruned} federated and {pruned} pruning rounds, seed {settings.seed}.",
        "",
        "| | global | pruned |",
        "|---|---|---|",
    ]
    for key in ("accuracy", "loss", "size_bytes"):
        if key in scores and f"pruned_{key}" in scores:
            lines.append(f"| {key} | {scores[key]:.6g} | {scores[f'pruned_{key}']:.6g} |")
    if said:
        lines += ["", " ".join(said)]
    return "\n".join(lines)


def worst(ranked: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the worst client, class, and class of a client, with their numbers of examples; "" if none is ranked.

    `ranked` is `worst` of a model in evaluation.json.
    """
    words = {
        "client": "client {client}: accuracy {accuracy:.3g} on {num_examples} examples of its own",
        "class": "class {class}: recall {recall:.3g} on {num_examples} hold-out examples",
        "client_class": "class at a client, {class} at {client}: recall {recall:.3g} on {num_examples} examples",
    }
    said = [f"worst {text.format(**ranked[key])}" for key, text in words.items() if key in ranked]
    return f"Global model: {'; '.join(said)}." if said else ""


def of_model(name: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the scores of metrics.json that describe one model, under names that both models share.

    `size_bytes` is the size of the model's H5 file. Of the pruned model, the deployed file's is `tflite_size_bytes`.
    """
    if name == "global":
        return {key: value for key, value in scores.items() if _is_of(key) == name}
    own = {key.removeprefix("pruned_"): value for key, value in scores.items() if _is_of(key) == name}
    return {_OF_PRUNED.get(key, key): value for key, value in own.items()}


def _is_of(key: str) -> str:
    """Returns the model that a score of metrics.json describes; the baselines are no models of the run."""
    if key.startswith(OF_BASELINES):
        return _BASELINES
    return "pruned" if key.startswith("pruned_") or key == "sparsity" else "global"
