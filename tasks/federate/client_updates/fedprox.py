"""FedProx: Li 2020, arXiv 1812.06127."""

from tasks.local.client_update import ClientUpdate
from tasks.settings import ClientSettings


class FedProx(ClientUpdate):
    """Each client minimises F_k(y) + μ/2 ‖y − x‖² (Algorithm 2): μ(y − x) is added to each gradient.

    μ = 0 is FedAvg. μ → ∞ keeps the client's model at x. With SGD, ημ must be below 2, or the pull itself diverges.
    tasks/local/descent.py adds the pull. The whole round: tasks/federate/round.py.
    """

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(settings)
        self.pull = settings.mu
