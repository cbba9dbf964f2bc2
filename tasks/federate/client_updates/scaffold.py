"""SCAFFOLD: Karimireddy 2020, arXiv 1910.06378."""

from typing import Any

import tensorflow as tf

from tasks.local.client_update import ClientUpdate, Trained
from tasks.settings import ClientSettings


class Scaffold(ClientUpdate):
    """Control variates c_k and c take the drift out of each step: y ← y − η(g − c_k + c) (Algorithm 1).

    Option I: c_k⁺ is the full gradient at x, one pass more. Option II: c_k⁺ = c_k − c + (x − y)/(Kη), which is the
    mean of the gradients along the way; it is computed as that mean, which also holds with momentum and clipping.
    Then c ← c + Σ_{k∈S} p_k (c_k⁺ − c_k). The paper's p_k is 1/N; with clients of unequal weight, p_k is the weight's
    share, so that c stays Σ p_k c_k and the fixed point is the minimum of Σ p_k F_k, as FedAvg means it.
    """

    shared = kept = True

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(settings)
        self.full_gradient = settings.option == "I"
        self.mean_gradient = settings.option == "II"

    def constant(self, shared: tf.Tensor, kept: tf.Tensor | None) -> tf.Tensor:
        """Returns c − c_k."""
        return shared - kept

    def next_kept(self, kept: tf.Tensor, trained: Trained) -> Any:
        """The gradient at x, or the mean gradient along the way."""
        return trained.full_gradient if self.full_gradient else trained.mean_gradient
