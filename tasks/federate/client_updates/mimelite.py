"""MimeLite: Karimireddy 2021, arXiv 2008.03606."""

import tensorflow as tf

from tasks.local.client_update import ClientUpdate


class MimeLite(ClientUpdate):
    """Local steps with the server's momentum m: y ← y − η(g + βm) (Algorithm 3, SGD with momentum).

    m is fixed during the local steps. After the round m ← βm + the weighted mean of the clients' full gradients at x,
    which cost one pass over the clients' data. The paper's step is (1 − β)g + βm. With its learning rate divided by
    1 − β, it is the same as ours. Ours is the usual heavy-ball momentum, as everywhere else. The full gradient is
    computed on the examples without augmentation (`full_gradient` in tasks/local/descent.py). The whole round:
    tasks/federate/round.py.
    """

    shared = needs_full_gradient = True
    local_momentum = False

    def constant(self, shared: tf.Tensor, kept: tf.Tensor | None) -> tf.Tensor:
        """Returns βm."""
        del kept
        return self.settings.momentum * shared

    def next_shared(self, shared: tf.Tensor, message: tf.Tensor) -> tf.Tensor:
        """Returns βm + the mean of the full gradients."""
        return self.settings.momentum * shared + message
