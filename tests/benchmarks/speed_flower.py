# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = ["flwr[simulation]==1.42.0", "numpy", "torch>=2.1,<2.14"]
# ///
"""Flower's federated averaging for peers_speed.py, in its simulation on Ray: one process for each core.

The clients are in PyTorch (speed_flower_client.py), with one thread each. A turn runs from one `configure_train` of
Flower's strategy to the next. As in a real federation, Flower serialises the model for each client and its answer, and
it looks for messages every 0.1 s. The other variants hand over arrays in memory.
"""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from speed_case import Case, Turns, read
from speed_flower_client import app
from speed_network import in_keras_layout, network

NEVER = 10**6
START = 600.0
"""Most seconds until all clients have answered."""


class InTurns(FedAvg):  # type: ignore[misc]
    """Waits before each round."""

    turns = Turns()

    def configure_train(self, server_round: int, arrays: ArrayRecord, *more: Any) -> Any:
        if not self.turns.wait(lambda: in_keras_layout([*arrays.to_torch_state_dict().values()])):
            raise SystemExit
        return super().configure_train(server_round, arrays, *more)


def main(folder: Path, case: Case) -> None:
    """Runs the rounds."""
    server = ServerApp()

    @server.main()
    def rounds(grid: Grid, context: Context) -> None:
        config = ConfigRecord({"folder": str(folder)})
        # Ray starts while this function runs. When every client has answered, it can be stopped for the others' turns.
        greeting = RecordDict({"config": config})
        nodes = grid.get_node_ids()
        while len(nodes) < case.num_clients:
            time.sleep(0.1)
            nodes = grid.get_node_ids()
        grid.send_and_receive([Message(greeting, node, "query") for node in nodes], timeout=START)
        InTurns(fraction_evaluate=0.0, min_available_nodes=case.num_clients).start(
            grid=grid,
            initial_arrays=ArrayRecord(network(case).state_dict()),
            num_rounds=NEVER,
            train_config=config,
        )

    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": case.cores, "_temp_dir": str(folder / "ray")},
    }
    run_simulation(server, app, case.num_clients, backend_config=backend)


if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.WARNING)
    main(Path(sys.argv[1]).resolve(), read(Path(sys.argv[1])))
