"""The interface of a client update: what it adds to each gradient of local SGD, and what is kept between rounds.

Notation: x are the global parameters at the start of the round, y the client's parameters, Δ = y − x. g is the
(clipped) gradient of the client's loss on a batch, weight decay included. K is the number of steps, η the learning
rate. Every formula here is for one parameter tensor, entry by entry. `pull` · (y − x) and `constant` are added to g
before each step. tasks/federate/round.py lists the whole round, step by step.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf

from tasks.settings import ClientSettings

NamedTensors = Mapping[str, tf.Tensor]
"""A structure of tensors while a computation is traced, such as the input of a client."""


@dataclass(frozen=True)
class Trained:
    """One parameter tensor of a client after its steps."""

    update: tf.Tensor
    """Δ."""
    mean_gradient: tf.Tensor | None
    """Mean of g over the K steps, if the algorithm needs it."""
    full_gradient: tf.Tensor | None
    """Gradient of the loss over all of the client's data at x, weight decay included, if the algorithm needs it."""


class ClientUpdate:
    """FedAvg's local SGD (McMahan 2017, Algorithm 1). The other client updates override what differs."""

    shared = False
    """Whether the server keeps a vector s (P,), 0 at first, and broadcasts it with the parameters."""
    kept = False
    """Whether each client keeps a vector c_k (P,), 0 at first, from one of its rounds to the next."""
    needs_mean_gradient = False
    """Whether `Trained.mean_gradient` is computed."""
    needs_full_gradient = False
    """Whether `Trained.full_gradient` is computed. It costs one more pass over the client's data."""
    local_momentum = True
    """Whether the local steps use `federate.client.momentum`."""
    normalized = False
    """Whether the server averages Δ_k / ‖a_k‖₁; see fednova.py."""
    pull = 0.0
    """Factor of (y − x) in the direction of each step."""

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings

    def constant(self, shared: tf.Tensor, kept: tf.Tensor | None) -> tf.Tensor:
        """Returns the term that is added to every gradient of the round. Called only if `shared` or `kept` is true."""
        raise NotImplementedError

    def next_kept(self, kept: tf.Tensor, trained: Trained) -> tf.Tensor:
        """Returns the client's vector after the round. Called only if `kept` is true."""
        raise NotImplementedError

    def next_shared(self, shared: tf.Tensor, message: tf.Tensor) -> tf.Tensor:
        """Returns the server's vector after the round.

        If clients keep a vector, `message` is Σ_k p_k (c_k⁺ − c_k) over the round's clients, and p_k is the client's
        share of the weight of *all* clients. Otherwise `message` is the weighted mean of the clients' full gradients.
        """
        return shared + message

    def server_update(self, update: tf.Tensor, shared: tf.Tensor) -> tf.Tensor:
        """Returns the input of the server optimiser, from the combined update and the next s."""
        del shared
        return update
