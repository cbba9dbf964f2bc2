"""The examples of a data source, before and after a part is held out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.clients import TEST


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
class SourceFeatures:
    """The features of all N examples, and how they came about.

    Attributes:
        x: as in `Labelled`.
        names: of the F columns of a table, else empty.
        fitted: what was fitted to the examples that are not held out, as JSON; empty where nothing was.
        filled: how many missing cells of each example were filled, (N,); None where none may be missing.
    """

    x: NDArray[np.float32]
    names: tuple[str, ...] = ()
    fitted: Mapping[str, Any] = field(default_factory=dict)
    filled: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Skipped:
    """What was left out, by whose it is: a client's id, `test` for the data's own test set, empty where nobody knows.

    Attributes:
        records: how many records there are.
        left_out: how many of them cannot be read; only where there are any.
        clients: the clients of whom nothing can be read, sorted.
    """

    records: Mapping[str, int]
    left_out: Mapping[str, int]
    clients: tuple[str, ...]

    def described(self) -> dict[str, Any]:
        """Returns what partition.json says of it."""
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
    """What a kind of data source returns: labels first, and features once it is decided what is held out.

    Attributes:
        y: int32 (N,), from 0 to len(classes) - 1.
        features: returns the features of all N examples, given which of them are held out, (N,): a fill or a scale is
            fitted to the others only. It is called once.
        classes: as in `RawExamples`.
        clients: as in `RawExamples`, of all N.
        groups: the group of each example, such as its patient, (N,); None where the data has no groups.
        test: the data's own test set; None where a part of the N examples is to be held out.
        skipped: the records that could not be read; None where each must be (`data.skip_unreadable`).
    """

    y: NDArray[np.int32]
    features: Callable[[NDArray[np.bool_]], SourceFeatures]
    classes: tuple[str, ...]
    clients: NDArray[np.str_] | None = None
    groups: NDArray[np.str_] | None = None
    test: Labelled | None = None
    skipped: Skipped | None = None


def unfitted(x: NDArray[np.float32]) -> Callable[[NDArray[np.bool_]], SourceFeatures]:
    """Returns the `features` of a source whose features `x` are the same whatever is held out."""
    return lambda held: SourceFeatures(x)


@dataclass(frozen=True, eq=False)
class RawExamples:
    """The raw data of a run: N training examples and M held-out ones, of the same classes.

    Attributes:
        x: float32, C order: tables (N, F), images (N, H, W, C) with a channel axis also where C is 1. All finite;
            images of 8-bit files or arrays are in [0, 1].
        y: int32 (N,), from 0 to len(classes) - 1; every class has a training example.
        classes: the name of each label, at least two.
        clients: the id of each example's client, text (N,), where the data says whose it is; else None. Ids can name
            folders (`tasks.clients.check_client_id`).
        test_x: float32 (M, ...), M >= 1: the source's own test set, or the part that was held out.
        test_y: int32 (M,); not every class need occur.
        feature_names: of the F columns of a table, else empty.
        fitted: what was fitted to the training examples, as JSON; empty where nothing was.
        filled: how many missing cells of each training example were filled, (N,); None where none may be missing.
        test_filled: the same of the held-out examples, (M,).
        skipped: as in `Source`.
        held_out: which clients and how many groups are held out, for partition.json; empty for single examples.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int32]
    classes: tuple[str, ...]
    clients: NDArray[np.str_] | None
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int32]
    feature_names: tuple[str, ...] = ()
    fitted: Mapping[str, Any] = field(default_factory=dict)
    filled: NDArray[np.int64] | None = None
    test_filled: NDArray[np.int64] | None = None
    skipped: Skipped | None = None
    held_out: Mapping[str, Any] = field(default_factory=dict)
