"""The clients' SGD in NumPy, float64, for the peers that have no client training."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from peer_case import Case

Tensors = list[NDArray[np.float64]]


def gradient(params: Tensors, x: NDArray[Any], y: NDArray[np.int64]) -> Tensors:
    """Returns the gradient of the mean cross-entropy of linear layers with tanh between them."""
    inputs = [x]
    for w, b in zip(params[:-2:2], params[1:-2:2], strict=True):
        inputs.append(np.tanh(inputs[-1] @ w + b))
    logits = inputs[-1] @ params[-2] + params[-1]
    error = np.exp(logits - logits.max(1, keepdims=True))
    error /= error.sum(1, keepdims=True)
    error[np.arange(len(y)), y] -= 1
    error /= len(y)
    found: Tensors = []
    for w, layer in zip(params[-2::-2], inputs[::-1], strict=True):
        found = [layer.T @ error, error.sum(0), *found]
        error = (error @ w.T) * (1 - layer**2)
    return found


def start(case: Case) -> Tensors:
    """Returns the initial parameters."""
    return [tensor.astype(np.float64) for tensor in case.tensors(case.initial)]


def local_sgd(case: Case, params: Tensors, client: str, order: NDArray[np.int32]) -> Tensors:
    """Returns a client's parameters after its steps."""
    rate = case["federate.client.learning_rate"]
    for x, y in case.batches(client, order):
        params = [p - rate * g for p, g in zip(params, gradient(params, x, y), strict=True)]
    return params
