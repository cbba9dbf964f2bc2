"""When the first step of a run started: an MLflow run is created later, under DVC only after the last step."""

import os
import time
from pathlib import Path


def started(begun: float | None = None) -> int:
    """Returns the start of a run in milliseconds since 1970.

    It is `begun`, in seconds, if that is known; in a stage of DVC, when `dvc repro` or `dvc exp run` began; else now.
    """
    return int(1000 * (begun or _begun_by_dvc() or time.time()))


def _begun_by_dvc() -> float | None:
    """Returns when the DVC process that runs this stage began; None if DVC does not run it."""
    if "DVC_STAGE" not in os.environ:  # DVC sets it for each stage's command
        return None
    import psutil

    try:
        for parent in psutil.Process().parents():
            names = [Path(argument).name for argument in parent.cmdline()[:3]]
            if "dvc" in names or "dvc.exe" in names:
                return float(parent.create_time())
    except psutil.Error:  # such as a process of another user
        pass
    return None
