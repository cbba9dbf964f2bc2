"""Our side of peers_speed.py: writes the case, then runs the step `federate`, a round each turn.

The data go through the steps `partition` and `preprocess`, as a user's do: pixels of 8 bits, a shard with many clients.
The step `federate` is unchanged, in its default runtime, with every row and log line of the round log. A turn is a
whole pass of its loop. Rounds with a validation or a checkpoint are left out, because the peers have none. Our round
also draws the orders of the examples, which the peers find in the case.
"""

import gc
import os
import sys
from collections.abc import Collection
from pathlib import Path
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("WRAPT_DISABLE_EXTENSIONS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from tasks import command
from tasks.clients import CLIENTS, read_client, read_preprocessed
from tasks.federate import federate, loop, schedule
from tasks.federate.runner import Runner, Stepped
from tasks.federate.state import ServerState
from tasks.models import build
from tasks.parameters import flatten
from tasks.partition import partition
from tasks.preprocess import preprocess
from tasks.settings import Settings, parse
from tests.benchmarks import speed_case
from tests.benchmarks.speed_case import BATCH, CLASSES, EXAMPLES, ORDERS, RATE, SIDE, Case, Turns
from tests.benchmarks.speed_models import MODELS

TURNS = Turns()

NEVER = 10**6
"""More rounds than any run has."""
HELD_OUT = 10 * CLASSES


def write_images(path: Path, num_clients: int) -> None:
    """Writes images of 8 bits, each a noisy picture of its class; a tenth of the labels is drawn anew.

    So the loss stays far from 0, where numbers become so small that some processors are slow at them.
    """
    rng = np.random.default_rng(0)
    prototypes, arrays = rng.random((CLASSES, SIDE, SIDE), np.float32), {}
    for part, num in (("train", num_clients * EXAMPLES), ("test", HELD_OUT)):
        y = rng.permutation(np.arange(num) % CLASSES)
        x = np.empty((num, SIDE, SIDE), np.uint8)
        for begin in range(0, num, 10_000):
            pictures = prototypes[y[begin : begin + 10_000]]
            x[begin : begin + 10_000] = 255 * (0.3 * pictures + 0.7 * rng.random(pictures.shape, np.float32))
        drawn = rng.random(num) < 0.1
        y[drawn] = rng.integers(0, CLASSES, int(drawn.sum()))
        arrays |= {f"x_{part}": x, f"y_{part}": y}
    np.savez(path, **arrays)


def settings_of(model: str, num_clients: int, raw: Path) -> Settings:
    """Returns the settings of the run."""
    return parse(
        {
            "data": {"kind": "npz", "path": str(raw)},
            "partition": {"kind": "iid", "num_clients": num_clients},
            "preprocess": {"normalize": "none"},
            "federate": {
                "model": MODELS[model],
                "rounds": NEVER,
                "evaluate_every": NEVER,
                "checkpoint_every": NEVER,
                "client": {"kind": "sgd", "learning_rate": RATE, "batch_size": BATCH},
            },
        }
    )


def write_case(folder: Path, settings: Settings, model: str) -> None:
    """Writes the case from data/clients."""
    stored = read_preprocessed(folder / CLIENTS).stored
    examples = [read_client(of_client) for of_client in stored.values()]

    def order(round_num: int, client: str) -> np.ndarray:
        return schedule.visits(EXAMPLES, 1, schedule.client_rng(settings.seed, round_num, client))

    case = Case(
        model,
        len(os.sched_getaffinity(0)),
        x=np.stack([x for x, _ in examples]),
        y=np.stack([y for _, y in examples]).astype(np.int64),
        orders=np.stack([np.stack([order(r, client) for client in stored]) for r in range(1, ORDERS + 1)]),
        initial=flatten(build(settings.federate.model, (SIDE, SIDE, 1), CLASSES, settings.seed)),
    )
    speed_case.write(folder, case)


class InTurns(Runner):
    """Waits before each round."""

    def step(self, state: ServerState, round_num: int, excluded: Collection[str] = ()) -> Stepped:
        if not TURNS.wait(lambda: state.params):
            raise SystemExit
        return super().step(state, round_num, excluded)


def main(folder: Path, model: str, num_clients: int) -> None:
    """Does what the module's docstring says."""
    command.prepare()
    gc.freeze()  # as `python -m tasks` does after its imports
    raw = folder / "raw.npz"
    write_images(raw, num_clients)
    settings = settings_of(model, num_clients, raw)
    for step in (partition, preprocess):
        step(settings, folder)
    write_case(folder, settings, model)
    with mock.patch.object(loop, "Runner", InTurns):
        federate(settings, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
