"""FedDyn: Acar 2021, arXiv 2111.04263."""

import tensorflow as tf

from tasks.local.client_update import ClientUpdate, Trained
from tasks.settings import ClientSettings


class FedDyn(ClientUpdate):
    """Each client minimises F_k(y) − ⟨c_k, y⟩ + α/2 ‖y − x‖² (Algorithm 1; c_k is its ∇L_k of the round before).

    c_k⁺ = c_k − α(y − x): the first-order condition of that minimum, in place of a gradient. The server's h is
    Σ p_k c_k, and x⁺ = mean of y_k − h/α. Where all y_k agree, h = 0, so the gradients sum to zero: the fixed point is
    the minimum of Σ p_k F_k, however long the local work. The paper's p_k is 1/m for m clients.

    The steps are in tasks/local/descent.py, c_k on the host in tasks/federate/runner.py, as SCAFFOLD's; the whole
    round: tasks/federate/round.py.
    """

    shared = kept = True

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(settings)
        self.pull = settings.alpha

    def constant(self, shared: tf.Tensor, kept: tf.Tensor | None) -> tf.Tensor:
        """−c_k."""
        del shared
        return tf.negative(kept)

    def next_kept(self, kept: tf.Tensor, trained: Trained) -> tf.Tensor:
        """c_k − αΔ."""
        return kept - self.settings.alpha * trained.update

    def server_update(self, update: tf.Tensor, shared: tf.Tensor) -> tf.Tensor:
        """Δ̄ − h/α."""
        return update - shared / self.settings.alpha
