"""Our flat parameters as a PyTorch model, for the peers that are written in PyTorch."""

from collections.abc import Iterator, Sequence

import torch
from peer_case import Batch, Case, Vector, flat

# On two busy cores pfl took more than 200 s with PyTorch's default, and 94 s with one thread.
torch.set_num_threads(1)


class Network(torch.nn.Module):
    """Linear layers with tanh between them, from a case's initial parameters, in our order and shapes."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        tensors = [torch.from_numpy(tensor.copy()) for tensor in case.tensors(case.initial)]
        self.tensors = torch.nn.ParameterList(tensors)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(0, len(self.tensors), 2):
            x = (torch.tanh(x) if i else x) @ self.tensors[i] + self.tensors[i + 1]
        return x

    def flat(self) -> Vector:
        return flat([tensor.detach() for tensor in self.tensors])


class Batches:
    """A client's batches of a round in our order, of all epochs; for the peer they are one epoch."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in batches]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)
