"""Raw data as people bring them, with common irregularities. Each function writes data and returns their settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Write = Callable[[Path], dict[str, Any]]
"""Writes raw data into a folder, and returns the settings that use it."""

PATIENTS, SITES = 30, ("north", "south", "west")
WORK = ("private", "public", "self-employed")
SHORT = {
    "partition.min_examples": 1,
    "federate.rounds": 2,
    "federate.client.batch_size": 16,
    "prune.rounds": 2,
    "prune.begin_round": 1,
    "prune.end_round": 2,
}


def table(folder: Path) -> dict[str, Any]:
    """Three rows of each of 30 patients, who are at three sites; patient p came on the p-th day of 2021."""
    rng = np.random.default_rng(1)
    rows = ["id;patient;site;age;smoker;work;came;label"]
    for patient in range(PATIENTS):
        came = np.datetime64("2021-01-01") + patient
        year, month, day = str(came).split("-")
        for visit in range(3):
            age, smokes = rng.integers(200, 900) / 10, rng.random() < 0.4
            ill = age + 30 * smokes + 5 * rng.normal() > 60
            cells = [
                *(f"{1000 + 3 * patient + visit}", f"p{patient}", SITES[patient % 3]),
                "" if (patient, visit) in AGES_MISSING else f"{age:.1f}".replace(".", ","),
                "yes" if smokes else "no",
                "?" if (patient, visit) in WORK_MISSING else WORK[int(rng.integers(3))],
                *(f"{day}.{month}.{year}", "ill" if ill else "well"),
            ]
            rows.append(";".join(cells).replace(";?;", ";;"))
    (folder / "visits.csv").write_text("\n".join([*rows, ""]))
    return {
        "data.kind": "table",
        "data.path": "visits.csv",
        "data.client_column": "site",
        "data.group_column": "patient",
        "data.drop_columns": ["id"],
        "data.missing": "median",
        "partition.kind": "natural",
        "federate.model": "ordinary_models:tabular",
    }


AGES_MISSING, WORK_MISSING = {(0, 1), (7, 0), (7, 2), (20, 1)}, {(3, 0), (12, 2)}

MODES, SIZES = ("L", "RGB", "RGBA", "P", "CMYK"), ((8, 8), (9, 8), (8, 11))
IMAGES = 60
UNREADABLE = {4: "east", 9: "east", 31: "west"}
"""Image: its client. Of these, 4 is no image, 9 is not there, and 31 has no label."""


def images(folder: Path) -> dict[str, Any]:
    """Sixty images, bright at the top or at the bottom, in five modes and three sizes, of two clients."""
    rng, rows = np.random.default_rng(2), ["path,label,client"]
    (folder / "pictures").mkdir()
    for n in range(IMAGES):
        height, width = SIZES[n % 3]
        grey = rng.integers(0, 120, (height, width))
        top = rng.random() < 0.5
        grey[: height // 2] += 120 * top
        grey[height // 2 :] += 120 * (not top)
        image = Image.fromarray(grey.astype(np.uint8)).convert("RGB").convert(MODES[n % 5])
        name = f"{n}.{'tif' if image.mode == 'CMYK' else 'png'}"
        image.save(folder / "pictures" / name)
        label = "" if n == 31 else ("top" if top else "bottom")
        rows.append(f"{name},{label},{'east' if n % 5 == 4 else 'west' if n % 2 else 'south'}")
    (folder / "pictures/4.tif").write_bytes(b"no image")
    (folder / "pictures/9.tif").unlink()
    (folder / "pictures/labels.csv").write_text("\n".join([*rows, ""]))
    return {
        "data.kind": "images",
        "data.path": "pictures",
        "data.skip_unreadable": True,
        "preprocess.resize": 8,
        "preprocess.augment.flip": True,
        "partition.kind": "natural",
        "federate.model": "ordinary_models:pretrained",
    }


def squares(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns images (N, 6, 6) of bytes whose row `label` is bright."""
    x = rng.integers(0, 100, (len(labels), 6, 6))
    x[np.arange(len(labels)), labels] += 100
    return x.astype(np.uint8)


def sentences(folder: Path) -> dict[str, Any]:
    """Sentences of twelve words out of sixty at five clinics, labelled by text; the last two are the hold-out set."""
    rng, topics = np.random.default_rng(4), np.array(["anaemia", "burns", "cough"])
    (folder / "clinics").mkdir()
    for number in range(5):
        topic, own = rng.integers(0, 3, 20 + number), rng.random((20 + number, 12)) < 0.6
        x = np.where(own, 20 * topic[:, None] + rng.integers(0, 20, own.shape), rng.integers(0, 60, own.shape))
        np.savez(folder / "clinics" / f"clinic-{number}.npz", x=x, y=topics[topic])
    return {
        "data.kind": "clients",
        "data.path": "clinics",
        "data.hold_out_clients": ["clinic-3", "clinic-4"],
        "preprocess.normalize": "none",
        "partition.kind": "natural",
        "federate.model": "ordinary_models:words",
    }


def arrays(classes: int, label: Callable[[np.ndarray], np.ndarray]) -> Write:
    """Returns a function that writes an .npz of uint8 images with a bright row `y`, and the labels `label(y)`."""

    def write(folder: Path) -> dict[str, Any]:
        rng = np.random.default_rng(3)
        y = rng.permutation(np.arange(90) % classes)
        x = rng.integers(0, 100, (90, 6, 6))
        x[np.arange(90), y] += 100
        np.savez(folder / "arrays.npz", x_train=x.astype(np.uint8), y_train=label(y))
        return {
            "data.kind": "npz",
            "data.path": "arrays.npz",
            "partition.kind": "iid",
            "partition.num_clients": 3,
            "federate.model": "ordinary_models:dense",
        }

    return write


def rows(column: str, cell: Callable[[int], str], separator: str = ",", **chosen: Any) -> Write:
    """Returns a function that writes a table of 60 rows with `cell(n)` in `column`; `chosen` are settings of `data`."""

    def write(folder: Path) -> dict[str, Any]:
        rng = np.random.default_rng(6)
        lines = [(cell(n), f"{rng.normal() + n % 2:.3f}", f"{n % 2}") for n in range(60)]
        text = "\n".join(separator.join(line) for line in [(column, "value", "label"), *lines])
        (folder / "rows.csv").write_text(text)
        return {
            "data.kind": "table",
            "data.path": "rows.csv",
            "partition.kind": "iid",
            "partition.num_clients": 3,
            "federate.model": "logistic",
            **{f"data.{name}": value for name, value in chosen.items()},
        }

    return write
