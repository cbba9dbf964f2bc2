"""The healthy runs: their settings, and their data where these are not built into Undrift."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PART = {"federate.sampling.kind": "uniform", "federate.sampling.clients_per_round": 6}
PART = {"partition.num_clients": 20, **_PART}
"""20 clients, of which 6 take part in a round."""
PART_OF_SYNTHETIC = {"data.num_clients": 20, **_PART}

_LINEAR: dict[str, Any] = {"federate.model": "logistic"}
_LARGE = {"federate.client.learning_rate": 0.01}
"""The rule for the healthy rate: 0.05, or 0.01 if an example has more than 100 numbers. A gradient step changes the
logits in proportion to the squared length of the example. At 0.05, clients of X-rays with one class pull the model to
and fro, and the healthy loss doubles from round to round."""
_NPZ = {"data.kind": "npz"}

BASES: dict[str, dict[str, Any]] = {
    "digits": {},
    "digits_part": PART,
    "digits_logistic": _LINEAR,
    "chest": {**_NPZ, **_LINEAR, **_LARGE, "partition.min_examples": 2},
    "chest_cnn": {**_NPZ, **_LARGE, "federate.model": "cnn", "partition.min_examples": 2},
    "synthetic": {"data.kind": "synthetic", "data.num_clients": 10, **_LINEAR},
    # 142 rows for training: 5 clients, so that each has about 28.
    "wine": {**_NPZ, "partition.num_clients": 5, "partition.min_examples": 3},
    "breast_cancer": {**_NPZ, **_LINEAR, "partition.min_examples": 3},
    "colour": {**_NPZ, **_LARGE, "partition.min_examples": 3},
}
"""Settings of the healthy runs by name; the case sets `partition`."""

LEFT_OUT = ("breast_cancer", "colour")
"""The bases that are left out of all tuning: their runs are only looked at in the final report."""
OF_CHEST = ("chest", "chest_cnn")
LARGE = tuple(base for base in BASES if _LARGE.items() <= BASES[base].items())
LINEAR = tuple(base for base in BASES if BASES[base].get("federate.model") == "logistic")
TWO_CLASSES = ("chest", "chest_cnn", "breast_cancer")
OF_TRACEFL = ("digits", "chest", "colour")
"""10 clients, with enough examples at Dirichlet 0.3. One base of each kind of picture."""
PICTURES = ("digits", "digits_part", "digits_logistic", "chest", "chest_cnn", "colour")

CHEST_EXAMPLES = {"chest": 1500, "chest_cnn": 600}
"""Chest X-rays that are used; a fifth of them is held out. Fewer for `cnn`, whose rounds take longer."""
_SIDE = 16
"""Height and width of a patch of `colour`, in pixels."""


def data_of(base: str, folder: Path, chest: Path | None) -> dict[str, Any]:
    """Returns the settings of the base's data; writes the data into `folder` unless they are there.

    Raises:
        SystemExit: the base needs the file of the chest X-rays.
    """
    if BASES[base].get("data.kind") != "npz":
        return {}
    path = (folder / f"{base}.npz").resolve()
    if not path.is_file():
        x, y = _chest(base, chest) if base in OF_CHEST else _READ[base]()
        # Pixels from 0 to 1, not bytes: changed examples are float32, and clients and hold-out data need one type.
        np.savez(path, x_train=np.float32(x) / 255 if x.dtype == np.uint8 else x, y_train=y)
    return {"data.path": str(path)}


def _chest(base: str, chest: Path | None) -> tuple[NDArray[Any], NDArray[Any]]:
    if chest is None:
        raise SystemExit("the cases of the chest X-rays need --chest FILE")
    with np.load(chest) as arrays:
        x, y = arrays["train_images"], arrays["train_labels"].ravel()
    kept = np.random.default_rng(0).permutation(len(y))[: CHEST_EXAMPLES[base]]
    return x[kept], y[kept]


def _wine() -> tuple[NDArray[Any], NDArray[Any]]:
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    return x.astype(np.float32), y.astype(np.int32)


def _breast_cancer() -> tuple[NDArray[Any], NDArray[Any]]:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return x.astype(np.float32), y.astype(np.int32)


def _colour() -> tuple[NDArray[Any], NDArray[Any]]:
    """Patches of scikit-learn's two photographs; a class is the upper or the lower half of one of them."""
    from sklearn.datasets import load_sample_images

    patches, labels = [], []
    for photograph, image in enumerate(load_sample_images().images):
        middle = image.shape[0] // 2
        for half, part in enumerate((image[:middle], image[middle:])):
            # They do not overlap, so that no pixel is in the training data and in the hold-out data.
            rows, columns = (range(0, length - _SIDE + 1, _SIDE) for length in part.shape[:2])
            found = [part[top : top + _SIDE, left : left + _SIDE] for top in rows for left in columns]
            patches += found
            labels += [2 * photograph + half] * len(found)
    return np.array(patches, np.uint8), np.array(labels, np.int32)


_READ = {"wine": _wine, "breast_cancer": _breast_cancer, "colour": _colour}
