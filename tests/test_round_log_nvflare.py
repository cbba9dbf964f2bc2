"""NVFlare's round_metrics.jsonl as a round log. The form is that of NVFlare's MetricsArtifactWriter."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import DataError
from tasks.round_log.nvflare import read_nvflare
from tasks.round_log.read import read_clients, read_rounds


def metrics(**values: Any) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def site(name: Any, weight: float = 40, **values: Any) -> dict[str, Any]:
    return {"name": name, "metrics": metrics(**values), "weight": weight, "weight_key": "NUM_STEPS_CURRENT_ROUND"}


def line(number: Any, sites: Any = (), skipped: Any = (), **values: Any) -> dict[str, Any]:
    return {
        "round": number,
        "aggregated_metrics": metrics(**values),
        "sites": list(sites),
        "skipped_metrics": list(skipped),
        "aggregation": {"method": "weighted_average", "weight_key": "NUM_STEPS_CURRENT_ROUND"},
    }


def written(folder: Path, *lines: Any) -> Path:
    path = folder / "round_metrics.jsonl"
    path.write_text("".join(f"{json.dumps(each, separators=(',', ':'))}\n" for each in lines))
    return path


def test_aggregated_losses_are_the_rounds_and_the_sites_losses_are_the_clients(tmp_path: Path) -> None:
    sites = [site("site-1", val_loss=1.5, note="x", accuracy=0.5), site("site-2", 10, val_loss=2.5)]
    path = written(
        tmp_path,
        line(0, sites, accuracy=0.5, train_loss=1.25, val_loss=1.75),
        line(1, [site("site-2", 10, val_loss=2.0), site("site-3", accuracy=0.1)], train_loss=1.0, val_loss=1.5),
    )
    read_nvflare(path).write(tmp_path)
    rounds, clients = read_rounds(tmp_path / "rounds.csv"), read_clients(tmp_path / "clients.csv")
    assert rounds.rounds.tolist() == [0, 1]  # NVFlare's own numbers
    assert {name: column.values.tolist() for name, column in rounds.losses.items()} == {
        "val_loss": [1.75, 1.5],
        "train_loss": [1.25, 1.0],
    }
    assert list(zip(clients.rounds.tolist(), clients.clients, strict=True)) == [
        (0, "site-1"),
        (0, "site-2"),
        (1, "site-2"),
    ]
    assert clients.signals["loss_before"].tolist() == [1.5, 2.5, 2.0]
    assert clients.signals["num_steps"].tolist() == [40, 10, 10]
    assert not clients.failed.any()


def test_a_loss_that_nvflare_skipped_as_not_finite_is_not_finite(tmp_path: Path) -> None:
    of_all = {"name": "loss", "reason": "non_finite_number"}
    of_one = {**of_all, "site": "site-2"}
    other = {"name": "blob", "reason": "unsupported_type"}
    path = written(
        tmp_path,
        line(0, [site("site-1", loss=1.0), site("site-2", loss=1.0)], loss=1.0),
        line(1, [site("site-1", loss=1.0)], [of_all, of_one, other]),
    )
    log = read_nvflare(path)
    log.write(tmp_path)
    assert read_rounds(tmp_path / "rounds.csv").losses["val_loss"].not_finite.tolist() == [False, True]
    # The server may have used the update of site-2 nevertheless, so the site did not fail.
    assert not read_clients(tmp_path / "clients.csv").failed.any()
    assert "The loss of site-2 was NaN or infinite in round 1." in log.says


def test_without_losses_of_sites_there_are_no_clients(tmp_path: Path) -> None:
    log = read_nvflare(written(tmp_path, line(0, [site("site-1", accuracy=0.5)], loss=1.0), line(1, loss=0.5)))
    assert (len(log.rounds), log.clients) == (2, ())


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"aggregated_metrics": []}, "line 2 has no field round, got aggregated_metrics"),
        (line(None, loss=1.0), "line 2: round must be a whole number >= 0, got None"),
        (line(0, loss=1.0), "line 2: round must be in one line, got 0 again, as in line 1"),
        (line(1, loss="low"), r"line 2: aggregated_metrics\[loss\] must be a number, got 'low'"),
        (line(1, loss=True), r"line 2: aggregated_metrics\[loss\] must be a number, got True"),
        ({"round": 1, "aggregated_metrics": {"loss": 1.0}}, "line 2: aggregated_metrics must be a list, got"),
        (
            {"round": 1, "aggregated_metrics": [{"value": 1.0}]},
            r"metrics\[0\].name must be a text, got None",
        ),
        (line(1, [site("", loss=1.0)], loss=1.0), r"line 2: sites\[0\].name must be the name of a site, got ''"),
        (line(1, [site("a", loss=1.0), site("a", loss=1.0)], loss=1.0), r"sites\[1\].name .* once, got 'a' again"),
        (line(1, [site("a", loss="low")], loss=1.0), r"line 2: sites\[0\].metrics\[loss\] must be a number, got 'low'"),
        (line(1, ["a"], loss=1.0), r"line 2: sites\[0\] must be an object, got 'a'"),
        ([1], r"line 2 must be an object, got \[1\]"),
    ],
)
def test_an_error_names_the_line_and_the_field(second: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"round_metrics.jsonl, .*{says}"):
        read_nvflare(written(tmp_path, line(0, loss=1.0), second))


def test_a_half_written_line_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, line(0, loss=1.0), line(1, loss=1.0))
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match="line 2 must be JSON, got JSONDecodeError"):
        read_nvflare(path)


def test_a_file_without_a_loss_says_which_metrics_it_has_and_what_to_do(tmp_path: Path) -> None:
    path = written(tmp_path, line(0, accuracy=0.5, auroc=0.6))
    with pytest.raises(DataError, match=r"must hold a loss named loss, .*got accuracy, auroc: .*FLModel\.metrics"):
        read_nvflare(path)
