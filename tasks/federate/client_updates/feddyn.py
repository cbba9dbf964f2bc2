"""FedDyn: Acar 2021, arXiv 2111.04263."""

import tensorflow as tf

from tasks.local.client_update import ClientUpdate, Trained
from tasks.settings import ClientSettings


class FedDyn(ClientUpdate):
    """Each client minimises F_k(y) − ⟨c_k, y⟩ + α/2 ‖y − x‖² (Algorithm 1).

    c_k is the paper's ∇L_k of the client's previous round. c_k⁺ = c_k − α(y − x): by the first-order condition of the
    minimum, this is ∇F_k(y), so no further gradient is computed. The server's h is Σ p_k c_k, and x⁺ = mean of
    y_k − h/α. At a fixed point every y_k is x, so h = 0: Σ p_k ∇F_k(x) = 0. The fixed point is therefore the minimum of
    Σ p_k F_k, for any amount of local work. The paper's p_k is 1/m for m clients.

    The steps are in tasks/local/descent.py. c_k is kept on the host by tasks/federate/runner.py, as for SCAFFOLD. The
    whole round: tasks/federate/round.py.
    """

    shared = kept = True

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(settings)
        self.pull = settings.alpha

    def constant(self, shared: tf.Tensor, kept: tf.Tensor | None) -> tf.Tensor:
        """Returns −c_k."""
        del shared
        return tf.negative(kept)

    def next_kept(self, kept: tf.Tensor, trained: Trained) -> tf.Tensor:
        """Returns c_k − αΔ."""
        return kept - self.settings.alpha * trained.update

    def server_update(self, update: tf.Tensor, shared: tf.Tensor) -> tf.Tensor:
        """Returns Δ̄ − h/α."""
        return update - shared / self.settings.alpha
