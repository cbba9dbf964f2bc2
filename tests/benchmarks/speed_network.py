"""The models of speed_case.py in PyTorch, in its own layout, and a client's local training."""

import numpy as np
import torch
from numpy.typing import NDArray
from speed_case import RATE, Case, Vector, flat
from torch import nn


def network(case: Case) -> nn.Sequential:
    """Returns the model with the initial parameters."""
    made = nn.Sequential(nn.Flatten(), nn.Linear(784, 62))
    if case.model == "cnn":
        made = nn.Sequential(
            *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, 62)),
        )
    with torch.no_grad():
        for param, tensor in zip(made.parameters(), _reordered(case.tensors(), forth=True), strict=True):
            param.copy_(torch.from_numpy(np.ascontiguousarray(tensor)))
    return made


def in_keras_layout(params: list[torch.Tensor]) -> Vector:
    """Returns the parameters as (P,) in Keras's layout."""
    return flat(_reordered([param.detach().numpy() for param in params], forth=False))


def _reordered(tensors: list[NDArray[np.float32]], forth: bool) -> list[NDArray[np.float32]]:
    """Returns tensors in PyTorch's layout, or back in Keras's.

    A kernel is (height, width, in, out) in Keras and (out, in, height, width) in PyTorch; a dense layer is (in, out)
    and (out, in). The inputs of the first dense layer are (height, width, channel) in Keras and (channel, height,
    width) in PyTorch.
    """
    found, channels = [], 0
    for tensor in tensors:
        if tensor.ndim == 4:
            channels = tensor.shape[3] if forth else tensor.shape[0]
            tensor = tensor.transpose(3, 2, 0, 1) if forth else tensor.transpose(2, 3, 1, 0)
        elif tensor.ndim == 2:
            tensor = tensor if forth else tensor.T
            if channels:
                split = (-1, channels) if forth else (channels, -1)
                tensor = tensor.reshape(*split, tensor.shape[1]).swapaxes(0, 1).reshape(tensor.shape)
                channels = 0
            tensor = tensor.T if forth else tensor
        found.append(tensor)
    return found


class Data:
    """The clients' data as tensors."""

    def __init__(self, case: Case) -> None:
        self._case, self._y = case, torch.from_numpy(case.y)
        self._x = torch.from_numpy(case.x).reshape(*case.y.shape, 1, *case.x.shape[2:4])

    def of(self, client: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns all examples of a client, (N, 1, 28, 28) and (N,)."""
        return self._x[client], self._y[client]

    def batches(self, client: int, round_num: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Returns our batches of a client's round."""
        x, y = self.of(client)
        indices = map(torch.from_numpy, self._case.batches(client, round_num))
        return [(x[batch], y[batch]) for batch in indices]


def train(model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Trains `model` for one epoch, as PyTorch's tutorials do."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
