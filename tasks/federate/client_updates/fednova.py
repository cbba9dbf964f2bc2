"""FedNova: Wang 2020, arXiv 2007.07481."""

from tasks.local.client_update import ClientUpdate
from tasks.settings import ClientSettings


class FedNova(ClientUpdate):
    """Δ_k = −η Σ_t a_kt g_kt; the server adds τ_eff Σ p_k Δ_k / ‖a_k‖₁, with τ_eff = Σ p_k ‖a_k‖₁ (equation 6).

    So a client does not get more weight by more local steps. ‖a_k‖₁ is

    - K for plain SGD;
    - [K − ρ(1 − ρ^K)/(1 − ρ)]/(1 − ρ) with momentum ρ;
    - [1 − (1 − ημ)^K]/(ημ) with FedProx's pull μ.

    It is computed as the sum that K gradients of 1 add up to, which also covers momentum and pull together. Clipping
    of gradients does not change it.

    With equal work, every variant gives FedAvg's average Σ p_k Δ_k. This is the reason for our τ_eff. With a pull, the
    authors' code takes Σ p_k K_k instead, which gives a step of the same direction and another length.

    tasks/local/descent.py computes ‖a_k‖₁. tasks/local/update.py divides by it. tasks/federate/round.py multiplies by
    τ_eff, and lists the whole round.
    """

    normalized = True

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(settings)
        self.pull = settings.fednova_mu
