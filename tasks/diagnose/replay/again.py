"""A run whose log has no round, run again to see how it ends."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.clients import CLIENTS
from tasks.errors import GuardStop, NoClientLeft
from tasks.federate import federate
from tasks.settings import Settings


class _GoesOn(Exception):
    """The run did not end."""


def ended_again(settings: Settings, workspace: Path, into: Path) -> bool:
    """Runs round 1 of a run again, in the folder `into`; returns whether the run ended in it.

    If it did, `into`/reports has its round log.
    """

    def stop(_row: Mapping[str, Any], _done: int, _total: int) -> None:
        raise _GoesOn

    (into / CLIENTS).parent.mkdir(parents=True)
    (into / CLIENTS).symlink_to((workspace / CLIENTS).resolve(), target_is_directory=True)
    try:
        federate(settings, into, stop)
    except (GuardStop, NoClientLeft):
        return True
    except _GoesOn:
        pass
    return False
