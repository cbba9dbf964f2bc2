"""The examples of a data source, before and after the hold-out data are chosen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.clients import TEST
from tasks.datasets.spool import SourceArray


@dataclass(frozen=True, eq=False)
class Labelled:
    """N examples and their labels.

    Attributes:
        x: tables (N, F), images (N, H, W, C), also with C = 1; finite. Images of 8 bits are uint8, and all other
            features float32 (`tasks.arrays.as_float32`). `x[indices]` is an array in C order; x itself can be larger
            than the memory (`tasks.datasets.spool`).
        y: int32 (N,), from 0 to the number of classes - 1.
    """

    x: SourceArray
    y: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class SourceFeatures:
    """The features of all N examples, and how they were made.

    Attributes:
        x: as in `Labelled`.
        names: names of a table's F features; empty for other data.
        fitted: fit to the training examples, as JSON; empty if nothing was fitted.
        filled: number of missing cells of each example that were filled, (N,); None if no cell can be missing.
        held_digest: of the hold-out rows before anything was fitted; empty if nothing was fitted.
    """

    x: SourceArray
    names: tuple[str, ...] = ()
    fitted: Mapping[str, Any] = field(default_factory=dict)
    filled: NDArray[np.int64] | None = None
    held_digest: str = ""


@dataclass(frozen=True)
class Skipped:
    """The records that were left out, by owner: a client's id, `test` for the data's test set, or '' if unknown.

    Attributes:
        records: number of records.
        left_out: number of records that cannot be read; only owners with such records.
        clients: sorted clients without any readable record.
    """

    records: Mapping[str, int]
    left_out: Mapping[str, int]
    clients: tuple[str, ...]

    def described(self) -> dict[str, Any]:
        """Returns `unreadable` of partition.json."""
        clients = {
            client: {"num_records": self.records[client], "num_left_out": count}
            for client, count in self.left_out.items()
            if client not in ("", TEST)
        }
        return {
            "num_records": sum(self.records.values()),
            "num_left_out": sum(self.left_out.values()),
            "clients": clients,
            "test": {"num_records": self.records.get(TEST, 0), "num_left_out": self.left_out.get(TEST, 0)},
            "clients_left_out": list(self.clients),
        }


@dataclass(frozen=True, eq=False)
class Source:
    """The content of a data source: labels, and features as soon as the hold-out data are known.

    Attributes:
        y: int32 (N,), from 0 to len(classes) - 1.
        features: (which of the N examples are held out, (N,)) -> features of all N examples. The training examples
            alone decide what is fitted. It is called once.
        classes: as in `RawExamples`.
        clients: as in `RawExamples`, for all N examples.
        groups: group of each example, such as its patient, (N,); None if the data have no groups.
        test: the data's own test set; None if a part of the N examples will be held out.
        skipped: the records that cannot be read; None if such a record is an error (`data.skip_unreadable`).
    """

    y: NDArray[np.int32]
    features: Callable[[NDArray[np.bool_]], SourceFeatures]
    classes: tuple[str, ...]
    clients: NDArray[np.str_] | None = None
    groups: NDArray[np.str_] | None = None
    test: Labelled | None = None
    skipped: Skipped | None = None


def unfitted(x: SourceArray) -> Callable[[NDArray[np.bool_]], SourceFeatures]:
    """Returns `features` of a source whose features `x` do not depend on the hold-out data."""
    return lambda held: SourceFeatures(x)


@dataclass(frozen=True, eq=False)
class RawExamples:
    """The raw data of a run: N training examples and M hold-out examples, of the same classes.

    Attributes:
        x: as in `Labelled`, (N, ...).
        y: int32 (N,), from 0 to len(classes) - 1; each class has a training example.
        classes: name of each label, at least two.
        clients: id of each example's client, text (N,); None if the data name no clients. Each id can name a folder
            (`tasks.clients.check_client_id`).
        test_x: as x, (M, ...), M >= 1: the source's test set, or the examples that were held out.
        test_y: int32 (M,); classes can be missing.
        feature_names: names of a table's F features; empty for other data.
        fitted: fit to the training examples, as JSON; empty if nothing was fitted.
        filled: number of missing cells of each training example that were filled, (N,); None if none can be missing.
        test_filled: the same for the hold-out examples, (M,).
        test_digest: of the raw hold-out examples and their classes. It does not change if other training examples give
            another mean for missing cells, or another category.
        skipped: as in `Source`.
        held_out: hold-out clients and numbers of groups, for partition.json; empty if single examples are held out.
    """

    x: SourceArray
    y: NDArray[np.int32]
    classes: tuple[str, ...]
    clients: NDArray[np.str_] | None
    test_x: SourceArray
    test_y: NDArray[np.int32]
    feature_names: tuple[str, ...] = ()
    fitted: Mapping[str, Any] = field(default_factory=dict)
    filled: NDArray[np.int64] | None = None
    test_filled: NDArray[np.int64] | None = None
    test_digest: str = ""
    skipped: Skipped | None = None
    held_out: Mapping[str, Any] = field(default_factory=dict)
