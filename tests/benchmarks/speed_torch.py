# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = ["numpy", "torch>=2.1,<2.14"]
# ///
"""A loop in PyTorch for peers_speed.py, as one writes it without a framework; the second argument is its threads.

One model, one optimizer, loops over clients and batches, and a weighted sum. It has no federation and no statistics,
not even a loss.
"""

import sys
from pathlib import Path

import torch
from speed_case import EXAMPLES, Case, Turns, read
from speed_network import Data, in_keras_layout, network, train


def main(case: Case, threads: int) -> None:
    """Runs the rounds."""
    turns = Turns()
    torch.set_num_threads(threads)
    model, data = network(case), Data(case)
    params = list(model.parameters())
    start = [param.detach().clone() for param in params]
    while turns.wait(lambda start=start: in_keras_layout(start)):
        total = [torch.zeros_like(param) for param in start]
        num_examples = 0
        for client in range(case.num_clients):
            with torch.no_grad():
                torch._foreach_copy_(params, start)
            train(model, data.batches(client, turns.round_num))
            with torch.no_grad():
                torch._foreach_add_(total, params, alpha=EXAMPLES)
            num_examples += EXAMPLES
        start = [sum_ / num_examples for sum_ in total]


if __name__ == "__main__":
    main(read(Path(sys.argv[1])), int(sys.argv[2]))
