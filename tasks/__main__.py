"""`python -m tasks STEP` runs one step of the pipeline in the current folder; dvc.yaml calls it."""

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

try:
    from tasks import command, end_of_run, lock, timings
    from tasks.errors import UndriftError
    from tasks.settings import STEPS, load
except ModuleNotFoundError as missing:
    sys.exit(f"error: {sys.executable} lacks {missing.name}: activate the environment first (. .venv/bin/activate)")

PURPOSE = {
    "partition": "resize raw images, divide the data over clients, measure the skew",
    "preprocess": "normalise each client's data",
    "federate": "train the model over federated rounds",
    "prune": "prune the model in further rounds, export it",
    "evaluate": "score both models: global, per class, per client",
    "diagnose": "find whether the loss rose or is too high, since when, through which clients, and why",
}


def run_step(step: str, folder: Path) -> None:
    """Runs `step` in the workspace `folder` with the settings in its params.yaml, and records its seconds.

    Only this step's package is imported, and only after the settings and the folder's lock were checked. So a wrong
    setting, or another process that runs a step in the folder, is an error at once.

    Raises:
        UndriftError: wrong settings or data, or a run that could not be finished.
    """
    settings = load(folder / "params.yaml")
    start = time.monotonic()
    with lock.held(folder, step):
        with command.loading():
            function = getattr(importlib.import_module(f"tasks.{step}"), step)
        function(settings, folder)
        timings.record(folder, step, time.monotonic() - start)


def explained(step: str, error: UndriftError, folder: Path) -> Sequence[str]:
    """Diagnoses the run in `folder` if `error` ended it in `step`; returns the answer in a few lines, else none."""
    answer = end_of_run.diagnosed(step, error, folder)
    return () if answer is None else end_of_run.lines(answer)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    listing = "\n".join(f"  {step:<11} {PURPOSE[step]}" for step in STEPS)
    parser = command.Parser(
        prog="python -m tasks",
        description="Run one step of the pipeline in the current folder, with the settings in its params.yaml.",
        epilog=f"steps, in the order of the pipeline:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("step", choices=STEPS, metavar="STEP", help="one of the steps below")
    step = parser.parse_args(arguments).step
    command.prepare()
    command.end_with_parent()
    return command.run(lambda: run_step(step, Path()), lambda error: explained(step, error, Path()))


if __name__ == "__main__":
    sys.exit(main())
