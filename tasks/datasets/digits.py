"""`digits`: the 1,797 handwritten digits of 8×8 pixels that are part of scikit-learn."""

from pathlib import Path

import numpy as np

from tasks.datasets.examples import Source, unfitted
from tasks.datasets.resize import Size, resized
from tasks.settings import DataSettings


def read(settings: DataSettings, path: Path, seed: int, size: Size, scratch: Path) -> Source:
    """Returns x (1797, 8, 8, 1), or of `size`, in [0, 1]; the data's range 0 to 16 is divided by 16. No test set."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = resized((data.images[..., np.newaxis] / 16).astype(np.float32), size)
    return Source(data.target.astype(np.int32), unfitted(x), classes=tuple(str(name) for name in data.target_names))
