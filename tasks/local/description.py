"""The description of a client's data before the first round: the number of examples of each class, and a digest."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.clients import Examples, Form, Raw, Stored, check_arrays, check_values, digest_of, read_checked, read_raw
from tasks.errors import reading
from tasks.files import as_size, read_json, write_json

FILE = "descriptions.json"
"""Name of the file with all descriptions, in data/clients next to the shards."""


@dataclass(frozen=True)
class Description:
    """A client's data in numbers.

    Attributes:
        labels: (C,) number of examples of each class.
        digest: md5 of the stored bytes of x and then of y, in hexadecimal.
    """

    labels: tuple[int, ...]
    digest: str

    @property
    def num_examples(self) -> int:
        """N."""
        return sum(self.labels)


def describe(client: str, examples: Raw, form: Form) -> Description:
    """Returns the description of a client's examples, as they are stored.

    Raises:
        DataError: the examples do not have the form `form`, or are not finite.
    """
    check_arrays(client, examples, form)
    check_values(client, examples, form)
    return Description(tuple(np.bincount(examples[1], minlength=form.num_classes).tolist()), digest_of(examples))


def describe_today(stored: Stored, written: Description | None) -> Description:
    """Returns the description of the data that a client holds today.

    If the digest is the one in `written`, the description that the step preprocess wrote, then `written` is still
    right: preprocess checked and counted the same bytes.

    Raises:
        DataError: the examples cannot be used; see `read_raw_checked`.
    """
    examples, form = read_raw(stored), stored.form
    check_arrays(stored.client, examples, form, stored.num_examples)
    if written is not None and len(written.labels) == form.num_classes and written.digest == digest_of(examples):
        return written
    return describe(stored.client, examples, form)


def feature_variance(stored: Stored, public: Examples | None) -> float:
    """Returns the variance of all entries of a client's features and of the `public` examples' features together.

    Raises:
        DataError: the examples cannot be used; see `read_checked`.
    """
    x, _ = read_checked(stored)
    whole = x if public is None else np.concatenate([x, public[0]])
    return float(np.var(whole, dtype=np.float64))


def write_descriptions(root: Path, descriptions: Mapping[str, Description]) -> None:
    """Writes descriptions.json into `root`, the folder data/clients."""
    write_json(
        root / FILE,
        {
            client: {"labels": list(description.labels), "digest": description.digest}
            for client, description in descriptions.items()
        },
    )


def read_descriptions(root: Path) -> dict[str, Description]:
    """Returns the descriptions in descriptions.json in `root` by client; none if the file is missing.

    Raises:
        DataError: the file is damaged.
    """
    path = root / FILE
    if not path.exists():
        return {}
    content = read_json(path)
    with reading(f"{path} must hold labels and a digest of each client (run the step preprocess again)"):
        return {client: _description(of_client) for client, of_client in content.items()}


def _description(of_client: Any) -> Description:
    counts, digest = of_client["labels"], of_client["digest"]
    if any(type(count) is not int or count < 0 for count in counts) or not isinstance(digest, str):
        raise TypeError("labels that are no counts, or a digest that is no text")
    as_size(sum(counts))
    return Description(tuple(counts), digest)
