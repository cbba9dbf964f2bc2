"""A Flower log as a round log. The forms are those of flwr 1.42: `vars(History)` and the metrics of a `Result`."""

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import DataError
from tasks.round_log.flower import read_flower
from tasks.round_log.read import read_rounds

HISTORY: dict[str, Any] = {
    "losses_distributed": [[1, 1.5], [2, 1.25]],
    "losses_centralized": [[0, 2.5], [1, 2.0], [2, 1.0]],
    "metrics_distributed_fit": {"train_loss": [[1, 0.5], [2, 0.25]], "accuracy": [[1, 0.9], [2, 0.9]]},
    "metrics_distributed": {},
    "metrics_centralized": {"accuracy": [[0, 0.1], [1, 0.5], [2, 0.6]]},
}
RESULT: dict[str, Any] = {
    "train_metrics_clientapp": {"1": {"train_loss": 0.5}, "2": {"train_loss": 0.25}},
    "evaluate_metrics_clientapp": {"1": {"eval_loss": 1.5, "eval_acc": 0.5}, "2": {"eval_loss": 1.25, "eval_acc": 0.6}},
    "evaluate_metrics_serverapp": {"0": {"loss": 2.5, "accuracy": 0.1}, "1": {"loss": 2.0}, "2": {"loss": 1.0}},
}


def written(folder: Path, content: Any) -> Path:
    (folder / "history.json").write_text(json.dumps(content))
    return folder / "history.json"


def losses(path: Path, folder: Path) -> dict[str, dict[int, float]]:
    """Column → round → loss, as the diagnosis reads the round log that the reader writes."""
    read_flower(path).write(folder)
    log = read_rounds(folder / "rounds.csv")
    return {
        name: dict(zip(log.rounds[column.given].tolist(), column.values[column.given].tolist(), strict=True))
        for name, column in log.losses.items()
    }


@pytest.mark.parametrize("content", [HISTORY, RESULT], ids=["History", "Result"])
def test_the_server_s_loss_is_val_loss_and_the_clients_is_train_loss(content: Any, tmp_path: Path) -> None:
    found = losses(written(tmp_path, content), tmp_path)
    assert found == {"val_loss": {0: 2.5, 1: 2.0, 2: 1.0}, "train_loss": {1: 1.5, 2: 1.25}}
    assert not (tmp_path / "clients.csv").exists()


@pytest.mark.parametrize(
    ("content", "server", "fitted"),
    [
        (HISTORY, "losses_centralized", "metrics_distributed_fit[train_loss]"),
        (RESULT, "evaluate_metrics_serverapp", "train_metrics_clientapp[train_loss]"),
    ],
    ids=["History", "Result"],
)
def test_without_the_server_s_loss_the_clients_loss_is_val_loss(
    content: dict[str, Any], server: str, fitted: str, tmp_path: Path
) -> None:
    path = written(tmp_path, {name: value for name, value in content.items() if name != server})
    assert losses(path, tmp_path) == {"val_loss": {1: 1.5, 2: 1.25}, "train_loss": {1: 0.5, 2: 0.25}}
    assert any(sentence.startswith(f"train_loss is {fitted} of Flower's log") for sentence in read_flower(path).says)


def test_a_loss_that_is_not_finite_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    path.write_text('{"losses_centralized": [[1, 2.0], [2, NaN], [3, Infinity]]}')
    read_flower(path).write(tmp_path)
    column = read_rounds(tmp_path / "rounds.csv").losses["val_loss"]
    assert column.not_finite.tolist() == [False, True, True]
    assert math.isfinite(column.values[0])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"losses_centralized": [[1, 2.0], [2, "1.0"]]}, r"losses_centralized\[1\]\[1\] must be a number, got '1.0'"),
        ({"losses_centralized": [[1, True]]}, r"losses_centralized\[0\]\[1\] must be a number, got True"),
        ({"losses_distributed": [[1, 2.0], [1, 1.0]]}, r"losses_distributed\[1\]\[0\] .* once, got 1 again"),
        ({"losses_distributed": [[-1, 2.0]]}, r"losses_distributed\[0\]\[0\] must be a whole number >= 0, got -1"),
        ({"losses_distributed": [2.0, 1.0]}, r"losses_distributed\[0\] must be \[round, loss\], got 2.0"),
        ({"losses_distributed": 2.0}, r"losses_distributed must be a list, got 2.0"),
        ({"evaluate_metrics_serverapp": {"one": {"loss": 1.0}}}, r"serverapp\[one\] must be a whole number >= 0"),
        ({"evaluate_metrics_serverapp": {"1": {"loss": [1.0]}}}, r"serverapp\[1\]\[loss\] must be a number"),
        ({"evaluate_metrics_serverapp": {"1": {"accuracy": 0.5}}}, "holds no loss"),
        ({"losses_distributed": [], "losses_centralized": []}, "holds no loss"),
        ({"loss": [1.0]}, r"must have fields of a Flower History \(losses_centralized.*got loss"),
        ([[1, 2.0]], "must be an object, got"),
    ],
)
def test_an_error_names_the_field(content: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        read_flower(written(tmp_path, content))


def test_an_error_of_json_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    path.write_text('{"losses_centralized": [\n[1, 2.0],\n[2, 1.0\n]}')
    with pytest.raises(DataError, match=r"must be JSON, got JSONDecodeError: .*: line 4 column 2"):
        read_flower(path)


class Harmful:
    """Its pickle would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_without_running_it_and_the_error_says_how_to_write_json(tmp_path: Path) -> None:
    by_pickle, by_numpy, made = tmp_path / "history.pkl", tmp_path / "history.npy", tmp_path / "made"
    by_pickle.write_bytes(pickle.dumps(Harmful(made)))
    np.save(by_numpy, np.array(Harmful(made), dtype=object), allow_pickle=True)
    for path in (by_pickle, by_numpy):
        with pytest.raises(DataError, match=r"is a pickle.*json\.dump\(vars\(history\), file, default=float\)"):
            read_flower(path)
    assert not made.exists()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"history\.json is missing"):
        read_flower(tmp_path / "history.json")
