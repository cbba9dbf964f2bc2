"""The tables of scores, as MLflow itself reads them."""

from pathlib import Path
from typing import Any

import pytest

from flows.mlflow_store import connection, score_tables
from tasks.files import read_json


def evaluation() -> dict[str, Any]:
    """Two classes; client 00 has 3 and 1 examples of them, client 01 only the first."""
    per_class = [
        {"class": "cat", "recall": 1.0, "precision": 0.5, "f1": 0.66, "support": 12},
        {"class": "eel", "recall": None, "precision": 0.0, "f1": 0.0, "support": 0},
    ]

    def of_model(accuracy: float) -> dict[str, Any]:
        scores = {"loss": 0.12345, "accuracy": accuracy}
        clients = {
            "00": {"num_examples": 4, **scores, "support": [3, 1], "recall": [1.0, 0.0]},
            "01": {"num_examples": 2, **scores, "support": [2, 0], "recall": [0.5, None]},
        }
        return {"test": {"per_class": per_class}, "clients": clients}

    return {"classes": ["cat", "eel"], "global": of_model(0.75), "pruned": of_model(0.5)}


def test_mlflow_reads_each_figure_with_its_support(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    opened = connection.connect(tmp_path)
    run_id = opened.client.create_run(opened.experiment_id).info.run_id
    for _ in range(2):  # a second attempt adds no rows
        score_tables.log_tables(opened.client, run_id, evaluation())

    def read(name: str) -> list[tuple[Any, ...]]:
        path = opened.client.download_artifacts(run_id, f"tables/{name}.json", str(tmp_path))
        table = read_json(Path(path))
        # MLflow's page knows a table by the tag, and load_table reads it.
        assert len(opened.client.load_table(opened.experiment_id, f"tables/{name}.json", [run_id])) == len(
            table["data"]
        )
        return [tuple(row) for row in (table["columns"], *table["data"])]

    assert read("clients") == [
        ("client", "accuracy", "num_examples", "loss", "pruned_accuracy", "pruned_loss"),
        ("00", 0.75, 4, 0.1235, 0.5, 0.1235),
        ("01", 0.75, 2, 0.1235, 0.5, 0.1235),
    ]
    assert read("classes") == [
        ("class", "recall", "num_examples", "precision", "f1", "pruned_recall", "pruned_precision", "pruned_f1"),
        ("cat", 1.0, 12, 0.5, 0.66, 1.0, 0.5, 0.66),
        ("eel", None, 0, 0.0, 0.0, None, 0.0, 0.0),
    ]
    assert read("client_classes") == [  # client 01 has no eel
        ("client_class", "recall", "num_examples", "client", "class", "pruned_recall"),
        ("00 · cat", 1.0, 3, "00", "cat", 1.0),
        ("00 · eel", 0.0, 1, "00", "eel", 0.0),
        ("01 · cat", 0.5, 2, "01", "cat", 0.5),
    ]


def test_a_large_table_keeps_the_rows_with_the_most_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_tables, "MOST", 2)
    rows = score_tables.tables(evaluation())["tables/client_classes.json"]
    assert [(row["client_class"], row["num_examples"]) for row in rows] == [("00 · cat", 3), ("01 · cat", 2)]


def test_an_evaluation_without_scores_gives_no_table() -> None:
    assert score_tables.tables({"baselines": {}}) == {}
