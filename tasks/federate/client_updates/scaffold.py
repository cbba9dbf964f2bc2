"""SCAFFOLD: Karimireddy 2020, arXiv 1910.06378."""

import tensorflow as tf

from tasks.local.client_update import ClientUpdate, Trained
from tasks.settings import ClientSettings


class Scaffold(ClientUpdate):
    """Control variates c_k (each client's) and c (the server's) take the drift out of each local step.

    With x the global and y the local parameters, g the gradient on a batch, K local steps at learning rate η
    (Algorithm 1):

        step      y ← y − η(g − c_k + c)                                    `constant` is c − c_k
        option I  c_k⁺ = ∇F_k(x), one more pass over the client's data      `next_kept`
        option II c_k⁺ = c_k − c + (x − y)/(Kη)                             `next_kept`
        server    c ← c + Σ_{k∈S} p_k (c_k⁺ − c_k)                          `next_shared` of the base class
        model     x ← x + η_g · mean of Δ_k over k∈S, with Δ_k = y_k − x    aggregator and server optimiser

    The line `model` is for the default aggregator and server optimiser. η_g is
    `federate.server_optimizer.learning_rate`. The paper's mean gives each client the same weight. Our mean weights a
    client by its number of examples, unless `federate.aggregator.weighting` says otherwise.

    c and c_k begin at 0. Without momentum and clipping, option II is the mean of g over the K steps. It is computed as
    this mean (`mean_gradient` in tasks/local/descent.py), which is right with momentum and clipping too. The paper's
    p_k is 1/N. Here p_k is the client's share of all clients' weight, so that c stays Σ p_k c_k, and the fixed point is
    the minimum of Σ p_k F_k, as for FedAvg.

    The other parts:

    - The whole round, as a list: tasks/federate/round.py.
    - The client's side: tasks/local/update.py calls these methods, and tasks/local/descent.py makes the steps.
    - c_k on the host: tasks/federate/runner.py. It starts at 0 in `fresh`, goes to the client in `_inputs`, and is
      stored in `step`.
    - p_k: `share` of tasks/federate/cohort.py. tasks/local/update.py multiplies c_k⁺ − c_k by it. If clients leave for
      good, tasks/federate/runner.py makes the other shares sum to 1 again, and `settled` computes c from them.
    """

    shared = kept = True

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(settings)
        self.needs_full_gradient = settings.option == "I"
        self.needs_mean_gradient = settings.option == "II"

    def constant(self, shared: tf.Tensor, kept: tf.Tensor | None) -> tf.Tensor:
        """Returns c − c_k."""
        return shared - kept

    def next_kept(self, kept: tf.Tensor, trained: Trained) -> tf.Tensor:
        """Returns ∇F_k(x) (option I), or the mean of g over the steps (option II)."""
        return trained.full_gradient if self.needs_full_gradient else trained.mean_gradient
