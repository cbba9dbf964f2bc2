"""`python -m flows.diagnose FILE --from FRAMEWORK`: from another framework's log to a report beside it."""

import json
from pathlib import Path
from typing import Any

import pytest
from diagnosis_logs import client_rows, losses_of

from flows import diagnose
from flows.framework_logs import READERS, WRITTEN, diagnose_file
from tasks import files
from tasks.errors import DataError, InputError


def history(folder: Path, onset: int | None = None) -> Path:
    """A Flower History of 30 rounds whose loss doubles from round `onset` on."""
    losses = losses_of(0, onset=onset, height=2).tolist()
    files.write_json(folder / "history.json", {"losses_centralized": [[t, v] for t, v in enumerate(losses, start=1)]})
    return folder / "history.json"


def round_metrics(folder: Path) -> Path:
    """NVFlare's log of ten sites; the loss of site 03 is about four times as high from round 19 on."""
    lines = []
    for t, loss in enumerate(losses_of(0, onset=19, height=2), start=1):
        rows = [row for row in client_rows(0, drifted=["03"]) if row["round"] == t]
        sites = [
            {"name": row["client"], "metrics": [{"name": "loss", "value": row["loss_before"]}]}  # as NVFlare has it
            for row in rows
        ]
        lines.append({"round": t, "aggregated_metrics": [{"name": "loss", "value": loss}], "sites": sites})
    path = folder / "round_metrics.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


def found(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = files.read_json(folder / "diagnosis.json")
    return content


def test_a_flower_history_gets_its_rise_and_says_what_it_cannot_tell(tmp_path: Path) -> None:
    diagnose_file(history(tmp_path, onset=19), "flower")
    assert {path.name for path in tmp_path.iterdir()} == {"history.json", *WRITTEN}
    increase = found(tmp_path)["increase"]
    assert (increase["detected"], increase["round"], increase["until"]) == (True, 19, 30)
    assert increase["loss_after"] == pytest.approx(2 * increase["loss_before"], rel=0.2)
    assert (found(tmp_path)["verdict"], found(tmp_path)["observations"]) == ("none", [])
    text = (tmp_path / "diagnosis.md").read_text()
    assert "val_loss is losses_centralized of Flower's log" in text
    assert "no client can be named" in text
    assert "Each client that was looked at" not in text  # none was


def test_without_a_rise_the_report_does_not_say_that_all_is_well(tmp_path: Path) -> None:
    diagnose_file(history(tmp_path), "flower")
    assert found(tmp_path)["increase"]["detected"] is False
    limits = " ".join(found(tmp_path)["limits"])
    assert "does not show why, or whether a loss that did not rise is higher than it should be" in limits
    assert "clients were checked" not in limits


def test_nvflare_s_log_names_the_site_whose_loss_rose(tmp_path: Path) -> None:
    answer = diagnose_file(round_metrics(tmp_path), "nvflare")
    assert answer.rise.round == 19
    assert answer.named == ("03",)
    (unusual,) = found(tmp_path)["observations"]
    assert (unusual["client"], unusual["signal"], unusual["unusual"]) == ("03", "loss_before", True)
    assert unusual["value"] == pytest.approx(1.5, rel=0.2)  # planted


def test_a_wrong_file_leaves_the_earlier_diagnosis(tmp_path: Path) -> None:
    diagnose_file(history(tmp_path), "flower")
    before = {name: (tmp_path / name).read_bytes() for name in WRITTEN}
    (tmp_path / "history.json").write_text("{}")
    with pytest.raises(DataError, match="must have fields of a Flower History"):
        diagnose_file(tmp_path / "history.json", "flower")
    assert {name: (tmp_path / name).read_bytes() for name in WRITTEN} == before


def test_a_folder_or_another_framework_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="RUN must be a file, got the folder"):
        diagnose_file(tmp_path, "flower")
    with pytest.raises(InputError, match="--from must be flower or nvflare, got 'fedml'"):
        diagnose_file(history(tmp_path), "fedml")


def test_the_command_offers_every_reader_and_reports_errors_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for framework in READERS:
        assert diagnose.main([str(tmp_path / "none"), "--from", framework]) == 2
        assert "none is missing" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        diagnose.main([str(tmp_path), "--from", "fedml"])
    assert left.value.code == 2
    with pytest.raises(SystemExit) as left:
        diagnose.main([str(tmp_path), "--from", "flower", "--apply"])
    assert left.value.code == 2
    assert "--apply and --against need a run of Undrift" in capsys.readouterr().err
