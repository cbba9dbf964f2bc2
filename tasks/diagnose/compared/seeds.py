"""How another run ends with three seeds: measured once, and kept in its folder for the next comparison."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

from tasks.diagnose.compared.side import Side
from tasks.errors import UndriftError
from tasks.files import read_json, write_json

SEEDS_FILE = "reports/seeds.json"


def identity(side: Side) -> str:
    """Returns the md5 of all that the losses depend on: settings, raw data of the clients, hold-out data."""
    settings = side.settings.model_dump(mode="json", include={"seed", "preprocess", "federate"})
    del settings["federate"]["runtime"]
    of = json.dumps([settings, side.digests, side.hold_out_digest], sort_keys=True)
    return hashlib.md5(of.encode(), usedforsecurity=False).hexdigest()


def read_seeds(side: Side) -> tuple[float, ...] | None:
    """Returns the hold-out losses at the run's end by seed; None if they are not known of its present data."""
    with suppress(UndriftError, OSError, KeyError, TypeError, ValueError):
        content: Mapping[str, object] = read_json(side.workspace / SEEDS_FILE)
        losses = content["val_loss"]
        if content["identity"] == identity(side) and isinstance(losses, list):
            return tuple(float(loss) for loss in losses)
    return None


def keep_seeds(side: Side, losses: Sequence[float]) -> None:
    """Writes the hold-out losses at the run's end by seed; where its folder cannot be written to, nothing happens."""
    with suppress(OSError):
        write_json(side.workspace / SEEDS_FILE, {"identity": identity(side), "val_loss": list(losses)})
