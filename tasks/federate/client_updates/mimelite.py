"""MimeLite: Karimireddy 2021, arXiv 2008.03606."""

import tensorflow as tf

from tasks.local.client_update import ClientUpdate


class MimeLite(ClientUpdate):
    """The server's momentum m, held still through the local steps: y ← y − η(g + βm) (Algorithm 3, SGD with momentum).

    After the round m ← βm + the weighted mean of the clients' full gradients at x, which costs one pass over their
    data. The paper's form is (1 − β)g + βm, which is this one with the learning rate divided by 1 − β: ours is that
    of heavy-ball momentum everywhere else. The full gradient is that of the examples as they are, not augmented.
    It is `full_gradient` in tasks/local/descent.py; the whole round: tasks/federate/round.py.
    """

    shared = needs_full_gradient = True
    local_momentum = False

    def constant(self, shared: tf.Tensor, kept: tf.Tensor | None) -> tf.Tensor:
        """βm."""
        del kept
        return self.settings.momentum * shared

    def next_shared(self, shared: tf.Tensor, message: tf.Tensor) -> tf.Tensor:
        """βm + the mean of the full gradients."""
        return self.settings.momentum * shared + message
