"""The code of two runs: whether it differs, where it is, and what it makes of the data."""

import shutil
from pathlib import Path

import pytest
import yaml

from flows.workspace.compared_code import LOCK, other_code
from flows.workspace.dvc_hashes import dvc_hash
from tasks.diagnose.compared.code import trained_by
from tasks.errors import RunError
from tasks.federate import federate
from tasks.files import read_rows
from tasks.partition import partition
from tasks.preprocess import preprocess

HERE = Path(__file__).parent.parent


@pytest.fixture
def run_folder(tmp_path):
    """(name, content of tasks/model.py) -> the folder of a run, with dvc.lock and the lock of its environment."""

    def make(name, code="fit = 1\n"):
        folder = tmp_path / name
        (folder / "tasks").mkdir(parents=True)
        (folder / "tasks/model.py").write_text(code)
        (folder / LOCK).write_text("numpy==1.25.2\n")
        dep = {"path": "tasks/model.py", "md5": dvc_hash(folder / "tasks/model.py")}
        data = {"path": "data/clients", "md5": name}
        stages = {
            "preprocess": {"deps": [], "outs": [{"path": "data/clients", "md5": name}]},
            "federate": {"deps": [data, dep], "outs": []},
        }
        (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
        return folder

    return make


def test_the_same_code_is_no_difference_whatever_the_data(run_folder, tmp_path):
    found = other_code(run_folder("b"), run_folder("a"), tmp_path, "a")
    assert (found.names, found.folder, found.says) == ((), None, "")


def test_other_code_can_be_tried_from_its_own_copy_in_the_same_environment(run_folder):
    this, other = run_folder("b", "fit = 2\n"), run_folder("a")
    found = other_code(this, other, this, "a")
    assert (found.names, found.folder, found.says) == (("tasks/model.py",), other, "")


def test_code_that_is_gone_or_of_an_unknown_environment_is_not_tried(run_folder):
    this, other = run_folder("b", "fit = 2\n"), run_folder("a")
    (other / LOCK).unlink()
    found = other_code(this, other, this, "a")
    assert found.folder is None
    assert found.says.endswith("and was not tried: the environment of that run is not known.")
    (other / "tasks/model.py").write_text("fit = 3\n")
    found = other_code(this, other, this, "a")
    assert found.folder is None
    assert "was not tried: tasks/model.py is gone, or is not that of this run." in found.says
    (other / "dvc.lock").unlink()
    assert other_code(this, other, this, "a").says == "The code was not compared: a has no dvc.lock."


@pytest.mark.slow
def test_the_code_of_another_run_trains_in_a_process_of_its_own(settings_of, tmp_path):
    settings = settings_of({"federate.rounds": 2, "federate.model": "logistic"})
    for step in (partition, preprocess, federate):
        step(settings, tmp_path)
    logged = [float(row["val_loss"]) for row in read_rows(tmp_path / "reports/rounds.csv")]
    other = tmp_path / "other"
    shutil.copytree(HERE / "tasks", other / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    assert list(trained_by(other, settings, tmp_path, 0).values()) == logged
    # The other code does not train at all: the loss of the first model, ln 10 for logits of about 0, stays.
    path = other / "tasks/federate/schedule.py"
    path.write_text(path.read_text() + "\n\ndef learning_rate_factor(schedule, step, steps):\n    return 0.0\n")
    losses = list(trained_by(other, settings, tmp_path, 0).values())
    assert losses[0] == losses[1] > logged[1]
    path.write_text("raise SystemExit('broken')\n")
    with pytest.raises(RunError, match=r"the other run's code fails in \w+: "):
        trained_by(other, settings, tmp_path, 0)
