"""The scores of each client and class as tables of an MLflow run, each figure with its number of examples.

MLflow shows a table on the run's page, under Artifacts. Its evaluation view sets the tables of several runs side by
side: a row for each value of the first column, and the figure of the second one. As metrics, they would be thousands.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

MOST = 10_000
"""Most rows of a table. MLflow's page loads a whole table; 10,000 rows are 0.5 MB."""
_LISTED = "mlflow.loggedArtifacts"
"""The tag by which MLflow knows the tables of a run."""

Row = dict[str, Any]

_log = logging.getLogger(__name__)


def tables(evaluation: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Returns path of the artifact → rows, from the content of evaluation.json; a table without rows is left out.

    The figures of the pruned model have the prefix `pruned_`, as in metrics.json, and all have four digits.
    `num_examples` is the support: the client's own training examples, or the hold-out examples of the class. A class
    that a client does not have is left out. In a table of more than MOST rows, the rows with the most examples stay.
    """
    ours, pruned = (evaluation.get(model) or {} for model in ("global", "pruned"))
    found = {
        "tables/clients.json": _both(_clients(ours), _clients(pruned)),
        "tables/classes.json": _both(_classes(ours), _classes(pruned)),
        "tables/client_classes.json": _both(
            *(_client_classes(of, evaluation.get("classes", ())) for of in (ours, pruned))
        ),
    }
    return {path: _shown(path, rows) for path, rows in found.items() if rows}


def log_tables(client: "MlflowClient", run_id: str, evaluation: Mapping[str, Any]) -> None:
    """Logs the tables, in place of those of an earlier attempt. MLflow's own `log_table` would add rows to them."""
    every = tables(evaluation)
    for path, rows in every.items():
        columns = list(rows[0])
        client.log_dict(run_id, {"columns": columns, "data": [[row[name] for name in columns] for row in rows]}, path)
    listed = json.loads(client.get_run(run_id).data.tags.get(_LISTED, "[]"))
    named = [{"path": path, "type": "table"} for path in every]
    client.set_tag(run_id, _LISTED, json.dumps([*listed, *(entry for entry in named if entry not in listed)]))


def _clients(model: Mapping[str, Any]) -> list[Row]:
    return [
        {"client": client, **_figures(of, "accuracy"), "num_examples": of["num_examples"], **_figures(of, "loss")}
        for client, of in (model.get("clients") or {}).items()
    ]


def _classes(model: Mapping[str, Any]) -> list[Row]:
    return [
        {
            "class": of["class"],
            **_figures(of, "recall"),
            "num_examples": of["support"],
            **_figures(of, "precision", "f1"),
        }
        for of in (model.get("test") or {}).get("per_class", ())
    ]


def _client_classes(model: Mapping[str, Any], classes: Sequence[str]) -> list[Row]:
    return [
        {
            "client_class": f"{client} · {name}",
            **_figures({"recall": recall}, "recall"),
            "num_examples": support,
            "client": client,
            "class": name,
        }
        for client, of in (model.get("clients") or {}).items()
        for name, support, recall in zip(classes, of.get("support", ()), of.get("recall", ()), strict=False)
        if support
    ]


def _figures(scores: Mapping[str, Any], *names: str) -> Row:
    return {name: None if scores.get(name) is None else float(f"{scores[name]:.4g}") for name in names}


def _both(ours: list[Row], pruned: list[Row]) -> list[Row]:
    """Returns the rows of `ours`, each with the figures of the same row of `pruned`."""
    pairs: Iterable[tuple[Row, Row]] = zip(ours, pruned, strict=True) if pruned else ((row, {}) for row in ours)
    return [
        row | {f"pruned_{name}": value for name, value in other.items() if isinstance(value, float | None)}
        for row, other in pairs
    ]


def _shown(path: str, rows: list[Row]) -> list[Row]:
    if len(rows) <= MOST:
        return rows
    _log.info("MLflow: %s has %d of %d rows: those with the most examples", path, MOST, len(rows))
    most = sorted(range(len(rows)), key=lambda place: -rows[place]["num_examples"])[:MOST]
    return [rows[place] for place in sorted(most)]
