"""One of two runs that are compared: its settings, and its clients' raw data as the step `partition` left them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.clients import TEST, Form, Stored, client_sizes, digest_of, find, read_raw
from tasks.errors import InputError, advising, reading
from tasks.files import as_size, read_json
from tasks.settings import Settings

PARTITION = "data/partition"


@dataclass(frozen=True)
class Side:
    """One of two runs.

    Attributes:
        name: how the user named it.
        settings: of it.
        workspace: its folder.
        content: its partition.json.
    """

    name: str
    settings: Settings
    workspace: Path
    content: Mapping[str, Any]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The number of raw examples by client, sorted by id."""
        return client_sizes(dict(self.content), self._record, "partition")

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digest of each client's raw data, by client."""
        with reading(f"{self._record} must hold a digest of each client (run the step partition again)"):
            return {client: str(self.content["clients"][client]["digest"]) for client in self.sizes}

    @cached_property
    def form(self) -> Form:
        """The form of its examples."""
        with reading(f"{self._record} must hold classes and input_shape (run the step partition again)"):
            shape = tuple(map(as_size, self.content["input_shape"]))
            return Form(shape, len(self.content["classes"]), "partition.json")

    @cached_property
    def stored(self) -> dict[str, Stored]:
        """Each client's raw examples, and `test`, the hold-out data."""
        return find(self.workspace / PARTITION, self.sizes, self.form, lambda _: None, "partition")

    @cached_property
    def hold_out_digest(self) -> str:
        """The digest of the raw hold-out data."""
        return digest_of(read_raw(self.stored[TEST]))

    @property
    def kind_of_data(self) -> tuple[Any, ...]:
        """What two runs must have in common for one to train on the other's data."""
        return self.form.input_shape, tuple(self.content["classes"]), self.content.get("images")

    @property
    def _record(self) -> Path:
        return self.workspace / PARTITION / "partition.json"


def side_of(name: str, settings: Settings, workspace: Path | None) -> Side:
    """Returns one of two runs.

    Raises:
        InputError: its raw data are not in its folder.
        DataError: they are damaged.
    """
    path = None if workspace is None else workspace / PARTITION / "partition.json"
    if workspace is None or path is None or not path.is_file():
        if workspace is None:
            raise InputError(
                f"{name} cannot be compared, because the folder of the run, with params.yaml and {PARTITION}, is not "
                "here: name that folder, or run it again"
            )
        raise InputError(
            f"{name} cannot be compared, because {path} is missing: run it again, or restore it with `dvc pull` in its "
            "folder"
        )
    with advising("run the step partition again"):
        content = read_json(path)
        if not isinstance(content, dict):
            raise InputError(f"{path} must hold an object")
    return Side(name, settings, workspace, content)
