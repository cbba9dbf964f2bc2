"""`python -m tasks STEP`: one step of the pipeline in the current folder, as dvc.yaml calls it."""

import argparse
import importlib
import sys
import time
from pathlib import Path

try:
    from tasks import command, lock, timings
    from tasks.settings import STEPS, load
except ModuleNotFoundError as missing:
    sys.exit(f"error: {sys.executable} lacks {missing.name}: put the environment first (. .venv/bin/activate)")

PURPOSE = {
    "partition": "resize raw images, divide the data over clients, measure the skew",
    "preprocess": "normalise each client's data",
    "federate": "train the model over federated rounds",
    "prune": "prune the model in further rounds, export it",
    "evaluate": "score both models: global, per class, per client",
    "diagnose": "did the loss rise, when, through whom, and why",
}


def run_step(step: str, folder: Path) -> None:
    """Runs `step` in the workspace `folder` by its params.yaml, and records its seconds.

    Only this step's package is imported, after the settings were found good: a wrong setting is answered at once. So
    is a folder in which another process runs a step.

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


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    listing = "\n".join(f"  {step:<11} {PURPOSE[step]}" for step in STEPS)
    parser = command.Parser(
        prog="python -m tasks",
        description="Run one step of the pipeline in the current folder, with the settings in its params.yaml.",
        epilog=f"steps, in the order of the pipeline:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("step", choices=STEPS, metavar="STEP", help="one of those below")
    step = parser.parse_args(arguments).step
    command.prepare()
    command.end_with_parent()
    return command.run(lambda: run_step(step, Path()))


if __name__ == "__main__":
    sys.exit(main())
