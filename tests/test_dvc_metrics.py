"""DVC itself reads the verdict: `dvc metrics diff` and `dvc exp show` in a repository with two diagnosed runs."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from diagnosis_logs import Row, client_rows, losses_of, round_rows, write

from tasks.diagnose import diagnose
from tasks.settings import parse

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
STAGE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["diagnose"]
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org")
METRICS = "reports/diagnosis_metrics.json"


def dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def logs(folder: Path, rounds: list[Row], clients: list[Row]) -> None:
    diagnose(parse({}), write(folder, rounds, clients))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HEAD has the diagnosis of a run whose loss doubled from round 19 on, the workspace that of one without a rise."""
    folder = tmp_path_factory.mktemp("metrics")
    subprocess.run([*GIT, "init", "-q", "-b", "main"], cwd=folder, check=True)
    (folder / ".dvc").mkdir()
    for name in (".dvc/config", ".dvcignore", ".gitignore", "params.yaml"):
        shutil.copy(ROOT / name, folder / name)
    stage = {**STAGE, "deps": ["reports/clients.csv", "reports/rounds.csv"]}  # without the code and the clients' data
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"diagnose": stage}}))
    logs(folder, round_rows(losses_of(0, onset=19, height=2)), client_rows(0, drifted=["03"]))
    dvc(folder, "commit", "--force", "diagnose")
    subprocess.run([*GIT, "add", "-A"], cwd=folder, check=True)
    subprocess.run([*GIT, "commit", "-q", "-m", "a rise"], cwd=folder, check=True)
    logs(folder, round_rows(losses_of(3)), client_rows(3))
    dvc(folder, "commit", "--force", "diagnose")
    return folder


def test_metrics_diff_has_the_verdict_its_round_and_loss(repository: Path) -> None:
    changed = json.loads(dvc(repository, "metrics", "diff", "--all", "--json"))[METRICS]
    assert changed["diagnosis.verdict"] == {"old": "none", "new": "none"}  # logs alone prove no cause
    assert changed["diagnosis.question"] == {"old": "rise", "new": "rise"}
    # The value that is not known now is "-" in the table.
    assert changed["diagnosis.round"] == {"old": 19, "new": None}
    before, after = (changed[f"diagnosis.{name}"]["old"] for name in ("reference", "loss"))
    assert after == pytest.approx(2 * before, rel=0.2)


def test_exp_show_has_the_columns_under_their_short_names(repository: Path) -> None:
    rows = csv.DictReader(io.StringIO(dvc(repository, "exp", "show", "--csv")))
    (committed,) = (row for row in rows if row["rev"] == "main")
    assert (committed["diagnosis.verdict"], committed["diagnosis.round"]) == ("none", "19")
    assert float(committed["diagnosis.loss"]) > float(committed["diagnosis.reference"]) > 0
