"""The user-level differential privacy of a run with `dp_mean`, by dp-accounting's Rényi accountant.

A run is (ε, δ)-private if the following holds for every set of models after its rounds. All data of one client are
replaced by any other data. This changes the probability p of the set to at most e^ε p + δ.

In this relation the number of clients is no secret, and the clipped sum changes by up to 2C. So the sd of the Gaussian
mechanism is noise_multiplier/2 times its sensitivity. (Accountants that add or remove a client have a sensitivity of C,
and give a smaller ε for the same noise.)

The guarantee is about the models, and protects against readers who see only the models. It does not cover numbers
without noise:

- the losses, norms, cosines and failures of rounds.csv and clients.csv, MLflow's copies of them, and a diagnosis;
- with sampling: who took part. clients.csv and the seed reveal it, and then nothing is amplified;
- the statistics of `preprocess.normalize: global`, counts in data/partition, the hold-out data and its losses, and a
  choice of settings by them;
- the early end of a run by `guard: stop` because one client failed.

Two more limits: TensorFlow's random generator is not made for cryptography, and its floats do not give exact Gaussian
tails.
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
    """Returns the function from a round t ≥ 1 of the whole run to the ε that is spent after it, at `delta`.

    The rounds of the step `prune` train too, so they also spend. ε grows about as √t. Adaptive clipping spends from the
    same budget (see `dp_mean`).

    If each round draws m of n clients uniformly without replacement, privacy is amplified (Wang 2019, arXiv 1808.00087,
    Theorem 27). The bound without amplification holds too, so the smaller of the two is taken at each Rényi order.
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
    """Checks that a run with `dp_mean` can give its guarantee.

    Raises:
        SettingsError: (1) `delta` is so large that nothing is guaranteed, (2) adaptive clipping cannot have this much
            noise, or (3) the run would spend more than `target_epsilon`. The message says what is allowed.
    """
    chosen, taking_part = settings.federate.aggregator, clients_per_round(settings.federate.sampling, num_clients)
    if chosen.delta >= 1 / num_clients:
        # With delta = 1/n, even publishing all data of one randomly drawn client is private: it is (0, 1/n)-private.
        raise SettingsError(
            f"federate.aggregator.delta must be < 1 / {num_clients} clients = {1 / num_clients:g}, got {chosen.delta:g}"
        )
    # TFF adds noise of sd K/20 to the count. As a noise multiplier this is K/10: the count's sensitivity is 1/2.
    if chosen.clipping == "adaptive" and chosen.noise_multiplier >= taking_part / 10:
        raise SettingsError(
            f"federate.aggregator.noise_multiplier must be < {taking_part / 10:g} with adaptive clipping and "
            f"{taking_part} clients in a round, got {chosen.noise_multiplier:g}"
        )
    num_rounds, spent = settings.federate.rounds + settings.prune.rounds, epsilon(settings, num_clients)
    if chosen.target_epsilon and spent(num_rounds) > chosen.target_epsilon:
        lasts = bisect_right(range(1, num_rounds + 1), chosen.target_epsilon, key=spent)
        raise SettingsError(
            f"federate.aggregator.target_epsilon must be 0 or >= {spent(num_rounds):.4g}, got "
            f"{chosen.target_epsilon:g}: the {num_rounds} rounds of federate and prune spend this much at "
            f"noise_multiplier {chosen.noise_multiplier:g}, delta {chosen.delta:g} and {taking_part} of {num_clients} "
            f"clients a round; raise target_epsilon, run at most {lasts} rounds, or raise noise_multiplier"
        )


@lru_cache(maxsize=8)
def _rdp(event: dp_accounting.DpEvent) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the Rényi divergences of one application of `event`, and their orders."""
    accountant = rdp.RdpAccountant(neighboring_relation=_RELATION)
    accountant.compose(event)
    return accountant.rdp, accountant.orders
