"""What user-level differential privacy a run with `dp_mean` has, by dp-accounting's Rényi accountant.

A run is (ε, δ)-private if replacing all that one client holds, by anything else, changes the probability of any set of
models after its rounds by at most a factor e^ε, and δ. With that relation, in which the number of clients is no
secret, the clipped sum changes by up to 2C: the Gaussian mechanism has noise_multiplier/2 times its sensitivity as sd.
(Accountants that add or remove a client, whose sensitivity is C, give a smaller ε for the same noise.)

The guarantee is about the models, for whoever sees nothing else. It does not cover what is computed without noise:

- the losses, norms, cosines and failures of rounds.csv and clients.csv, MLflow's copies of them, and a diagnosis;
- with sampling: who took part, which clients.csv and the seed reveal, and then nothing is amplified;
- the statistics of `preprocess.normalize: global`, counts in data/partition, the hold-out data and its losses, and a
  choice of settings by them;
- a run that `guard: stop` ended early for one client's failure.

Nor is TensorFlow's generator of the noise made for cryptography, or its floats for exact Gaussian tails.
"""

from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache

import dp_accounting
import numpy as np
from dp_accounting import rdp
from numpy.typing import NDArray

from tasks.errors import SettingsError
from tasks.federate.schedule import clients_per_round
from tasks.settings import Settings

_RELATION = dp_accounting.NeighboringRelation.REPLACE_ONE


def epsilon(settings: Settings, num_clients: int) -> Callable[[int], float]:
    """Returns the function from a round of the whole run, 1 ≤ t, to the ε spent after it, at `delta`.

    The rounds of the step `prune` go on training, and spend too. ε grows about as √t. Adaptive clipping spends from the
    same budget (see `dp_mean`).

    Where each round draws m of n clients uniformly without replacement, privacy is amplified (Wang 2019, arXiv
    1808.00087, Theorem 27); where that bound is above the one for all clients, which holds too, the latter.
    """
    chosen, sample_size = settings.federate.aggregator, clients_per_round(settings.federate.sampling, num_clients)
    gaussian = dp_accounting.GaussianDpEvent(chosen.noise_multiplier / 2)
    one_round, orders = _rdp(gaussian)
    if sample_size < num_clients:
        sampled, _ = _rdp(dp_accounting.SampledWithoutReplacementDpEvent(num_clients, sample_size, gaussian))
        one_round = np.minimum(one_round, sampled)

    def spent(round_num: int) -> float:
        return float(rdp.compute_epsilon(orders, round_num * one_round, chosen.delta)[0])

    return spent


def check_privacy(settings: Settings, num_clients: int) -> None:
    """Refuses a run that promises nothing, spends more than `target_epsilon`, or clips by what cannot be noised.

    Raises:
        SettingsError: with what would be allowed.
    """
    chosen, taking_part = settings.federate.aggregator, clients_per_round(settings.federate.sampling, num_clients)
    if chosen.delta >= 1 / num_clients:
        # Publishing all that one client holds, drawn by lot, is (0, 1/n)-private.
        raise SettingsError(
            f"federate.aggregator.delta must be < 1 / {num_clients} clients = {1 / num_clients:g}, got {chosen.delta:g}"
        )
    # TFF noises the count with sd K/20, which counts as a multiplier of twice that.
    if chosen.clipping == "adaptive" and chosen.noise_multiplier >= taking_part / 10:
        raise SettingsError(
            f"federate.aggregator.noise_multiplier must be < {taking_part / 10:g} with adaptive clipping and "
            f"{taking_part} clients in a round, got {chosen.noise_multiplier:g}"
        )
    num_rounds, spent = settings.federate.rounds + settings.prune.rounds, epsilon(settings, num_clients)
    if chosen.target_epsilon and spent(num_rounds) > chosen.target_epsilon:
        lasts = bisect_right(range(1, num_rounds + 1), chosen.target_epsilon, key=spent)
        raise SettingsError(
            f"federate.aggregator.target_epsilon cannot be met: the {num_rounds} rounds of federate and prune spend "
            f"{spent(num_rounds):.4g} at noise_multiplier {chosen.noise_multiplier:g}, delta {chosen.delta:g} and "
            f"{taking_part} of {num_clients} clients a round; it must be 0 or at least that, or the rounds at most "
            f"{lasts}, or the noise more, got {chosen.target_epsilon:g}"
        )


@lru_cache(maxsize=8)
def _rdp(event: dp_accounting.DpEvent) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the Rényi divergences of one application, and their orders."""
    accountant = rdp.RdpAccountant(neighboring_relation=_RELATION)
    accountant.compose(event)
    return accountant.rdp, accountant.orders
