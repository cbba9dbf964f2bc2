"""data/clients as the steps after `preprocess` find it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.clients.ids import client_sizes
from tasks.clients.reading import Examples, mean_and_sd, read_checked, read_raw_checked
from tasks.clients.shards import TEST, Form, Stored, find
from tasks.errors import reading
from tasks.files import as_size, read_json

CLIENTS = Path("data/clients")
"""The folder of the preprocessed data in a workspace."""


@dataclass(frozen=True)
class Preprocessed:
    """The content of data/clients.

    Attributes:
        form: form of every client's arrays.
        sizes: number of examples by client, sorted by id.
        stored: each client's examples, sorted by id.
        test: the hold-out data.
        content: the whole preprocess.json.
    """

    form: Form
    sizes: Mapping[str, int]
    stored: Mapping[str, Stored]
    test: Stored
    content: Mapping[str, Any]


def read_preprocessed(root: Path) -> Preprocessed:
    """Returns the content of preprocess.json in the folder `root`, and where each client's examples are.

    Raises:
        DataError: (1) the file is missing or incomplete, or (2) there is a file, folder or client that it does not
            name, such as the folders of earlier versions.
    """
    path = root / "preprocess.json"
    content = read_json(path)
    form = form_of(content, path)
    sizes = client_sizes(content, path, "preprocess")
    found = find(root, sizes, form, lambda client: statistics_of(content, client), "preprocess")
    return Preprocessed(form, sizes, {client: found[client] for client in sizes}, found[TEST], content)


def form_of(content: Any, path: Path) -> Form:
    """Returns the form of the clients' arrays, from `content`, the content of the preprocess.json at `path`.

    Raises:
        DataError: `content` has no input_shape or no num_classes.
    """
    with reading(f"{path} must say input_shape and num_classes (run the step preprocess again)"):
        return Form(tuple(map(as_size, content["input_shape"])), as_size(content["num_classes"]))


def statistics_of(content: Mapping[str, Any], client: str) -> Any:
    """Returns the mean and sd of a client (or `test`) in the content of preprocess.json; None if it has none.

    `statistics` has them under `of_all` if all clients share them, and otherwise under `by_client` and the id.
    """
    statistics = content.get("statistics")
    if not isinstance(statistics, dict):
        return None
    by_client = statistics.get("by_client")
    return by_client.get(client) if isinstance(by_client, dict) else statistics.get("of_all")


def read_hold_out(preprocessed: Preprocessed) -> Examples:
    """Returns the hold-out examples, which only the server has.

    Raises:
        DataError: see `read_checked`.
    """
    return read_checked(preprocessed.test)


def typical_example(preprocessed: Preprocessed) -> NDArray[np.float32] | NDArray[np.uint8]:
    """Returns the mean hold-out example before it was normalised, of the type of the raw data; pixels are rounded.

    Raises:
        DataError: see `read_hold_out`.
    """
    x, _ = read_raw_checked(preprocessed.test)
    mean: NDArray[np.float64] = x.mean(axis=0, dtype=np.float64)
    if x.dtype == np.uint8:
        pixels: NDArray[np.uint8] = np.rint(mean).astype(np.uint8)
        return pixels
    if preprocessed.content.get("normalize") == "none":
        return mean.astype(np.float32)
    centre, sd = mean_and_sd(preprocessed.test.statistics, TEST, mean.shape[-1])
    features: NDArray[np.float32] = (mean * sd + centre).astype(np.float32)
    return features
