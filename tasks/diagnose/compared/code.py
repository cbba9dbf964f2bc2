"""The code of another run: does it differ, where is it, and what does it make of this run's data?"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from tasks.diagnose.verdict import SEED_STEP
from tasks.errors import RunError
from tasks.files import read_rows
from tasks.settings import Settings, with_settings

_STEPS = ("preprocess", "federate")


@dataclass(frozen=True)
class OtherCode:
    """The code of the run with which a run is compared.

    Attributes:
        names: of the files and folders that differ; empty if none does.
        folder: that holds `tasks` as that run had it; None if it is gone, or if its environment was another one.
        says: what is not known of the code, or why it is not tried, a sentence; empty if there is nothing to say.
    """

    names: tuple[str, ...] = ()
    folder: Path | None = None
    says: str = ""


SAME_CODE = OtherCode()


def trained_by(code: Path, settings: Settings, data: Path, seed: int) -> dict[int, float]:
    """Returns the hold-out loss by round of a run by other code, in a process of its own.

    Args:
        code: the folder that holds `tasks`.
        settings: of the run.
        data: the folder that holds data/partition.
        seed: 0 draws what the run drew. Another seed also gives the model other first weights, because the other code
            may know no other way.

    Raises:
        RunError: the other code fails, for example because it does not know a setting.
    """
    settings = with_settings(settings, {"federate.evaluate_every": 1, "federate.guard": "continue"})
    settings = with_settings(settings, {"seed": settings.seed + seed * SEED_STEP})
    with tempfile.TemporaryDirectory() as holder:
        folder = Path(holder)
        (folder / "data").mkdir()
        (folder / "data/partition").symlink_to((data / "data/partition").resolve(), target_is_directory=True)
        (folder / "tasks").symlink_to((code / "tasks").resolve(), target_is_directory=True)
        params = settings.model_dump(mode="json")
        del params["federate"]["runtime"]  # Dask's workers run this code, and the other code may not know them
        (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        for step in _STEPS:
            done = subprocess.run(
                [sys.executable, "-m", "tasks", step],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                last = done.stderr.strip().splitlines()[-1:] or ["no message"]
                raise RunError(f"the other run's code fails in {step}: {last[0]}")
        rows = read_rows(folder / "reports/rounds.csv")
    return {int(row["round"]): float(row["val_loss"]) for row in rows}
