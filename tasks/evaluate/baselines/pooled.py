"""All clients' examples in one place: a simulation may move them, a federation could not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.clients import CLIENTS, TEST, Stored, read_checked, read_raw, writing
from tasks.errors import DataError
from tasks.federate.cohort import Cohort
from tasks.files import write_json
from tasks.local import faults
from tasks.memory import available
from tasks.settings import FaultSettings

_COPIES = 3
"""Copies of the pooled examples in memory at a time: the clients' arrays, the pooled one, and the one read back."""


def pool(
    cohort: Cohort, test: Stored, content: Mapping[str, Any], simulated: FaultSettings, seed: int, folder: Path
) -> str:
    """Writes the examples of all clients of `cohort` into `folder` as the data of one client; returns its id.

    It has the id of the first client, so the pooled model of one client is the client's own model, in the same bits.

    Args:
        cohort: the clients.
        test: the hold-out data.
        content: the content of their preprocess.json.
        simulated: the fault of their data, if there is one.
        seed: of the run.
        folder: a workspace.

    Raises:
        DataError: the examples do not fit into memory, or cannot be read.
    """
    number = sum(int(info.labels.sum()) for info in cohort.clients.values())
    needed, there = _COPIES * 4 * number * int(np.prod(cohort.input_shape)), available()
    if needed > there:
        raise DataError(f"all data in one place need {needed:,} bytes, and there are {there:,} bytes of memory")
    sites = [
        faults.with_fault(simulated, seed, 1, client, read_checked(info.stored), cohort.num_classes)
        for client, info in cohort.clients.items()
    ]
    x, y = (np.concatenate(arrays) for arrays in zip(*sites, strict=True))
    sites.clear()
    name = next(iter(cohort.clients))
    with writing(folder / CLIENTS, [name]) as write:
        write(name, x, y)
        write(TEST, *read_raw(test))
    write_json(folder / CLIENTS / "preprocess.json", {**content, "clients": {name: len(y)}})
    return name
