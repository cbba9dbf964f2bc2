"""FedNova: Wang 2020, arXiv 2007.07481."""

from tasks.local.client_update import ClientUpdate
from tasks.settings import ClientSettings


class FedNova(ClientUpdate):
    """Δ_k = −η Σ_t a_kt g_kt; the server adds τ_eff Σ p_k Δ_k / ‖a_k‖₁, with τ_eff = Σ p_k ‖a_k‖₁ (equation 6).

    So a client that makes more steps has no more weight. ‖a_k‖₁ is K for plain SGD, [K − ρ(1 − ρ^K)/(1 − ρ)]/(1 − ρ)
    with momentum ρ, and [1 − (1 − ημ)^K]/(ημ) with FedProx's pull: the sum of what K gradients of 1 add up to, which
    is how it is computed, for both together too. With equal work it is FedAvg, in every variant: the reason for this
    τ_eff, where the authors' code takes Σ p_k K_k with a pull, another length of the same step. Clipping does not
    enter it.

    tasks/local/descent.py computes ‖a_k‖₁, tasks/local/update.py divides by it, and tasks/federate/round.py, which
    lists the whole round, multiplies by τ_eff.
    """

    normalized = True

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(settings)
        self.pull = settings.fednova_mu
