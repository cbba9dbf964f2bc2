"""Flower's client for peers_speed.py, in PyTorch. Ray's workers import this module by its name."""

from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from speed_case import EXAMPLES, read
from speed_network import Data, network, train

app = ClientApp()


@lru_cache
def loaded(folder: str) -> tuple[torch.nn.Module, Data]:
    """Returns the model and the clients' data; a worker makes them once."""
    case = read(Path(folder))
    return network(case), Data(case)


@app.query()
def greeted(message: Message, context: Context) -> Message:
    """Loads what the rounds need, and answers."""
    loaded(message.content["config"]["folder"])
    return Message(content=RecordDict(), reply_to=message)


@app.train()
def trained(message: Message, context: Context) -> Message:
    """Returns the model after a client's local training."""
    torch.set_num_threads(1)
    config = message.content["config"]
    model, data = loaded(config["folder"])
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    train(model, data.batches(int(context.node_config["partition-id"]), config["server-round"]))
    content = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": EXAMPLES})}
    return Message(content=RecordDict(content), reply_to=message)
