"""The examples of a data source, before and after a part is held out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Labelled:
    """N examples and their labels.

    Attributes:
        x: float32, C order: tables (N, F), images (N, H, W, C) with a channel axis also where C is 1. All finite.
        y: int32 (N,), from 0 to the number of classes - 1.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Source:
    """What a kind of data source returns: as `Examples`, but `test` is None where the data has no test set."""

    train: Labelled
    classes: tuple[str, ...]
    clients: NDArray[np.str_] | None = None
    test: Labelled | None = None


@dataclass(frozen=True, eq=False)
class Examples:
    """The raw data of a run: N training examples and M held-out ones, of the same classes.

    Attributes:
        x: float32, C order: tables (N, F), images (N, H, W, C) with a channel axis also where C is 1. All finite;
            images of 8-bit files or arrays are in [0, 1].
        y: int32 (N,), from 0 to len(classes) - 1; every class has a training example.
        classes: the name of each label, at least two.
        clients: the id of each example's client, text (N,), where the data says whose it is; else None. Ids can name
            folders (`tasks.files.check_client_id`).
        test_x: float32 (M, ...), M >= 1: the source's own test set, or the part that was held out.
        test_y: int32 (M,); not every class need occur.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int32]
    classes: tuple[str, ...]
    clients: NDArray[np.str_] | None
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int32]
