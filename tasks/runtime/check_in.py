"""The start of a run: every client checks in with a description of its data, or is named as broken."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from tasks.clients import Examples, Form, Preprocessed, Stored, read_hold_out, read_preprocessed, to_publish
from tasks.errors import DataError, SettingsError, listed
from tasks.local.description import Description, describe_today, read_descriptions
from tasks.runtime.carry import at_clients
from tasks.runtime.failed import Failed


@dataclass(frozen=True)
class CheckedIn:
    """The clients on which a run trains, and the hold-out data on which it is measured.

    Attributes:
        preprocessed: the content of preprocess.json.
        clients: the description of each usable client, N > 0.
        broken: the reason for each client of preprocess.json whose examples are missing, cannot be used, or are of
            another number.
        test: the hold-out examples, which belong to the server.
    """

    preprocessed: Preprocessed
    clients: Mapping[str, Description]
    broken: Mapping[str, str]
    test: Examples

    @property
    def form(self) -> Form:
        """The form of every client's arrays."""
        return self.preprocessed.form

    @property
    def stored(self) -> dict[str, Stored]:
        """Each usable client's examples."""
        return {client: self.preprocessed.stored[client] for client in self.clients}

    @cached_property
    def digest(self) -> str:
        """The md5 of every usable client's id and digest, followed by the bytes of the normalised hold-out data.

        Images of the same bytes with another normalisation have another digest, because the hold-out data have others.
        """
        digest = hashlib.md5(usedforsecurity=False)
        for client, description in self.clients.items():
            digest.update(f"{client}\0{description.digest}".encode())
        for array in self.test:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def without(self, exclude: Collection[str]) -> "CheckedIn":
        """Returns the same without the clients in `exclude`.

        Raises:
            SettingsError: `exclude` names an unknown client or all clients.
            DataError: no usable client is left.
        """
        left = set(_not_excluded(list(self.preprocessed.sizes), exclude))
        clients = {client: description for client, description in self.clients.items() if client in left}
        broken = {client: reason for client, reason in self.broken.items() if client in left}
        _check_usable(clients, broken)
        return replace(self, clients=clients, broken=broken)


def check_in(root: Path, exclude: Collection[str] = ()) -> CheckedIn:
    """Returns the clients of preprocess.json in `root`, without `exclude`, with descriptions of their present data.

    Raises:
        DataError: (1) no client can be used, (2) the hold-out data cannot be used, (3) there is a file,
            folder or client that preprocess.json does not name, or (4) preprocess.json is missing or incomplete.
        SettingsError: `exclude` names an unknown client or all clients.
    """
    preprocessed, written = read_preprocessed(root), read_descriptions(root)
    stored = {client: preprocessed.stored[client] for client in _not_excluded(list(preprocessed.sizes), exclude)}
    answers = at_clients(lambda examples: describe_today(examples, written.get(examples.client)), stored)
    clients = {client: answer for client, answer in answers.items() if isinstance(answer, Description)}
    broken = {
        client: to_publish(answer.reason, stored[client])
        for client, answer in answers.items()
        if isinstance(answer, Failed)
    }
    _check_usable(clients, broken)
    return CheckedIn(preprocessed, clients, broken, read_hold_out(preprocessed))


def _not_excluded(clients: Sequence[str], exclude: Collection[str]) -> list[str]:
    unknown = sorted(set(exclude) - set(clients))
    if unknown:
        raise SettingsError(
            f"federate.exclude names {listed(unknown)}, which the data does not have: {listed(clients)}"
        )
    left_out = set(exclude)
    left = [client for client in clients if client not in left_out]
    if not left:
        raise SettingsError(f"federate.exclude must leave a client, got all of them: {listed(clients)}")
    return left


def _check_usable(clients: Mapping[str, Description], broken: Mapping[str, str]) -> None:
    if not clients:
        raise DataError(
            f"no client can be used: {listed([f'{c}: {reason}' for c, reason in broken.items()], between='; ')}"
        )
