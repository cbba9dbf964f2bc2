"""The processes of scale.py: each makes data, or runs one step of the pipeline and measures itself.

    python scale_child.py clients FILE CLIENTS EXAMPLES
    python scale_child.py images FOLDER IMAGES SIDE COPIES
    python scale_child.py step STEP REPORT

A step runs in the current folder with the `tasks` that Python finds. It can be another version of them, so this file
uses only what every version has. The step is called as `python -m tasks STEP` calls it; `federate` gets a callback in
addition, which notes when each round ends. REPORT becomes a JSON object:

- memory: the largest resident set of the process, in bytes;
- ends: by round, the clock's seconds when it ended; empty for other steps than `federate`.
"""

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

CLASSES = 10
SHAPE = (28, 28)


def perceptron_55k(input_shape: tuple[int, ...], num_classes: int) -> Any:
    """A hidden layer of 70 units: 55,660 parameters for 28x28 pixels and 10 classes."""
    return _perceptron(input_shape, num_classes, 70)


def perceptron_1m(input_shape: tuple[int, ...], num_classes: int) -> Any:
    """A hidden layer of 1,510 units: 1,200,460 parameters for 28x28 pixels and 10 classes."""
    return _perceptron(input_shape, num_classes, 1510)


def _perceptron(input_shape: tuple[int, ...], num_classes: int, units: int) -> Any:
    # TensorFlow is imported only here, because `partition` and `preprocess` do not load it.
    from tensorflow.keras import Sequential, layers

    return Sequential(
        [
            layers.Input(input_shape),
            layers.Flatten(),
            layers.Dense(units, activation="relu", name="hidden"),
            layers.Dense(num_classes, name="logits"),
        ]
    )


def write_clients(path: Path, num_clients: int, examples: int, held_out: int = 1000) -> None:
    """Writes an .npz of 8-bit images, each a noisy picture of its class, with hold-out images of their own.

    The number of hold-out images does not depend on the number of clients, so neither does their memory.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    prototypes = rng.random((CLASSES, *SHAPE), np.float32)
    arrays = {}
    for part, num in (("train", num_clients * examples), ("test", held_out)):
        y = rng.integers(0, CLASSES, num)
        x = np.empty((num, *SHAPE), np.uint8)
        for begin in range(0, num, 10_000):
            labels = y[begin : begin + 10_000]
            noise = rng.random((len(labels), *SHAPE), np.float32)
            x[begin : begin + 10_000] = 255 * (0.3 * prototypes[labels] + 0.7 * noise)
        arrays |= {f"x_{part}": x, f"y_{part}": y}
    np.savez(path, **arrays)


def write_images(folder: Path, num_images: int, side: int, copies: int) -> None:
    """Writes `num_images` JPEG files in a folder for each class; each different one is linked `copies` times."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (CLASSES, 8, 8, 3), dtype=np.uint8)
    prototypes = [np.asarray(Image.fromarray(each).resize((side, side)), np.float32) for each in small]
    for k in range(CLASSES):
        (folder / f"class_{k}").mkdir(parents=True)
    for number in range(-(-num_images // copies)):
        k = number % CLASSES
        pixels = 0.6 * prototypes[k] + rng.uniform(0, 0.4 * 255, (side, side, 3))
        first = folder / f"class_{k}" / f"{number:05}_00.jpg"
        Image.fromarray(pixels.astype(np.uint8)).save(first)
        for copy in range(1, min(copies, num_images - number * copies)):
            os.link(first, first.with_name(f"{number:05}_{copy:02}.jpg"))


def run_step(step: str, report: Path) -> int:
    """Runs a step in the current folder and writes `report`; returns the exit status."""
    from tasks import command
    from tasks.settings import load

    ends: dict[int, float] = {}

    def watch(row: Any, *more: object) -> None:
        ends[int(row["round"])] = time.perf_counter()

    def action() -> None:
        folder = Path()
        settings = load(folder / "params.yaml")
        with command.loading():
            function = getattr(importlib.import_module(f"tasks.{step}"), step)
        function(settings, folder, *([watch] if step == "federate" else []))

    command.prepare()
    status = command.run(action)
    unit = 1 if sys.platform == "darwin" else 1024
    memory = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report.write_text(json.dumps({"memory": memory, "ends": ends}))
    return status


def main(kind: str, *rest: str) -> int:
    """Does what the module's docstring says; returns the exit status."""
    if kind == "clients":
        write_clients(Path(rest[0]), *map(int, rest[1:]))
    elif kind == "images":
        write_images(Path(rest[0]), *map(int, rest[1:]))
    else:
        return run_step(rest[0], Path(rest[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
