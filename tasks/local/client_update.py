"""What a client update is: local SGD with a term that is added to each gradient, and what client and server remember.

Notation: x are the global parameters that the round started from, y the client's own, g the (clipped) gradient of its
loss on a batch, weight decay included; K its steps, η its learning rate; Δ = y − x. Everything here is a formula for
one tensor of parameters, entry by entry. `pull` · (y − x) and `constant` are added to g before each step. The whole
round, step by step: tasks/federate/round.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import tensorflow as tf

from tasks.settings import ClientSettings

NamedTensors = Mapping[str, tf.Tensor]
"""A structure of tensors while a computation is traced, such as what the host sends a client."""


@dataclass(frozen=True)
class Trained:
    """One parameter tensor of a client after its steps."""

    update: tf.Tensor
    """Δ."""
    mean_gradient: tf.Tensor | None
    """Mean of g over the K steps, if the algorithm needs it."""
    full_gradient: tf.Tensor | None
    """Gradient of the loss over all the client's data at x, weight decay included, if the algorithm needs it."""


class ClientUpdate:
    """FedAvg's local SGD (McMahan 2017, Algorithm 1); the others change what they name."""

    shared = False
    """The server keeps a vector s (P,), at first 0, and broadcasts it with the parameters."""
    kept = False
    """Each client keeps a vector c_k (P,), at first 0, from one of its rounds to the next."""
    needs_mean_gradient = False
    """`Trained.mean_gradient` is computed."""
    needs_full_gradient = False
    """`Trained.full_gradient` is computed, which costs one more pass over the client's data."""
    local_momentum = True
    normalized = False
    """The server averages Δ_k / ‖a_k‖₁: see fednova.py."""
    pull = 0.0
    """Factor of (y − x) in each step's direction."""

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings

    def constant(self, shared: tf.Tensor, kept: tf.Tensor | None) -> tf.Tensor:
        """Returns what is added to every gradient of the round; called only where `shared` or `kept`."""
        raise NotImplementedError

    def next_kept(self, kept: tf.Tensor, trained: Trained) -> tf.Tensor:
        """Returns the client's vector after the round; called only where `kept`."""
        raise NotImplementedError

    def next_shared(self, shared: tf.Tensor, message: tf.Tensor) -> tf.Tensor:
        """Returns the server's vector after the round.

        `message` is Σ_k p_k (c_k⁺ − c_k) over the round's clients, p_k their share of *all* clients' weight, where
        clients keep a vector; else the weighted mean of their full gradients.
        """
        return shared + message

    def server_update(self, update: tf.Tensor, shared: tf.Tensor) -> tf.Tensor:
        """Returns what the server optimiser gets, from the combined update and the next s."""
        del shared
        return update
