import math
from itertools import pairwise

import dp_accounting
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from tasks.errors import SettingsError
from tasks.federate.aggregators import check
from tasks.federate.privacy import epsilon


def private(settings_of, **dotted):
    chosen = {"federate.aggregator.kind": "dp_mean", "federate.rounds": 30, "prune.rounds": 10}
    names = {
        "noise": "federate.aggregator.noise_multiplier",
        "delta": "federate.aggregator.delta",
        "target": "federate.aggregator.target_epsilon",
        "clipping": "federate.aggregator.clipping",
    }
    if "sampled" in dotted:
        chosen |= {
            "federate.sampling.kind": "uniform",
            "federate.sampling.clients_per_round": dotted.pop("sampled"),
        }
    return settings_of(chosen | {names[name]: value for name, value in dotted.items()})


def renyi_epsilon(rounds, sigma, delta):
    """ε of t Gaussian mechanisms of sd sigma · sensitivity, by hand, minimised over orders a > 1.

    The Rényi divergence of N(0, σ²) and N(1, σ²) is a/(2σ²) (Mironov 2017, Proposition 7), and t mechanisms have t
    times this divergence. ε = r + log(1 − 1/a) − log(δa)/(a − 1) (Canonne 2020, Proposition 12).
    """
    a = np.concatenate([np.linspace(1.02, 50, 200_000), np.linspace(50, 2000, 20_000)])
    return float((rounds * a / (2 * sigma**2) + np.log1p(-1 / a) - np.log(delta * a) / (a - 1)).min())


def exact_epsilon(rounds, sigma, delta):
    """The smallest ε of t Gaussian mechanisms, which are one of sd sigma/√t (Balle & Wang 2018, Theorem 8)."""
    s = sigma / math.sqrt(rounds)

    def excess(eps):
        return norm.cdf(1 / (2 * s) - eps * s) - math.exp(eps) * norm.cdf(-1 / (2 * s) - eps * s) - delta

    return brentq(excess, 0, 500)


@pytest.mark.parametrize("noise", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("rounds", [1, 10, 40])
def test_epsilon_of_all_clients_is_the_closed_form_at_half_the_noise(settings_of, noise, rounds):
    # Replacing a client moves the clipped sum by 2C. The unit of the noise multiplier is C.
    found = epsilon(private(settings_of, noise=noise), 10)(rounds)
    assert found == pytest.approx(renyi_epsilon(rounds, noise / 2, 1e-5), rel=0.01)
    # The conversion from Rényi divergences gives more than the ε that is spent, never less.
    assert exact_epsilon(rounds, noise / 2, 1e-5) <= found <= 1.3 * exact_epsilon(rounds, noise / 2, 1e-5)


def test_epsilon_of_all_clients_does_not_depend_on_their_number(settings_of):
    settings = private(settings_of)
    assert epsilon(settings, 10)(5) == epsilon(settings, 1000)(5)


def test_epsilon_grows_with_rounds_and_falls_with_noise_and_delta(settings_of):
    spent = epsilon(private(settings_of), 10)
    values = [spent(t) for t in range(1, 41)]
    assert all(a < b for a, b in pairwise(values))
    assert epsilon(private(settings_of, noise=2.0), 10)(5) < spent(5)
    assert (
        epsilon(private(settings_of, delta=1e-3), 10)(5) < spent(5) < epsilon(private(settings_of, delta=1e-8), 10)(5)
    )


def test_sampling_amplifies(settings_of):
    everyone, tenth = (epsilon(private(settings_of, noise=2.0, **s), 100) for s in ({}, {"sampled": 10}))
    fewer = epsilon(private(settings_of, noise=2.0, sampled=2), 100)
    for t in (1, 10, 40):
        assert fewer(t) < tenth(t) < everyone(t)
    # Amplification by sampling of a single (ε, δ) release is log(1 + q (e^ε − 1)) at δq (Balle 2018, Theorem 9, which
    # is tight). A Rényi bound can be looser, but not below it.
    bound = math.log1p(0.1 * math.expm1(exact_epsilon(1, 1.0, 1e-5 / 0.1)))
    assert bound <= tenth(1) <= 3 * bound


def test_sampled_epsilon_is_that_of_the_accountant_for_replacing_one_of_n(settings_of):
    accountant = dp_accounting.rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    event = dp_accounting.SampledWithoutReplacementDpEvent(50, 5, dp_accounting.GaussianDpEvent(3.0 / 2))
    accountant.compose(event, 20)
    found = epsilon(private(settings_of, noise=3.0, sampled=5), 50)(20)
    assert found == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)


@pytest.mark.parametrize("sampled", [9, 10, 15])
def test_sampling_nearly_all_never_costs_more_than_sampling_all(settings_of, sampled):
    found = epsilon(private(settings_of, noise=2.0, sampled=sampled), 10)
    everyone = epsilon(private(settings_of, noise=2.0), 10)
    for t in (1, 40):
        assert found(t) <= everyone(t) * (1 + 1e-12)
    if sampled >= 10:
        assert found(7) == everyone(7)


def test_a_target_that_cannot_be_met_is_refused_with_what_would_do(settings_of):
    spent = epsilon(private(settings_of, noise=10.0), 10)
    # 30 rounds of federate and 10 of prune.
    check(private(settings_of, noise=10.0, target=spent(40) + 0.01), 10, 1000)
    with pytest.raises(SettingsError) as caught:
        check(private(settings_of, noise=10.0, target=spent(25) + 1e-6), 10, 1000)
    assert str(caught.value) == (
        f"federate.aggregator.target_epsilon must be 0 or >= {spent(40):.4g}, got {spent(25) + 1e-6:g}: the 40 rounds "
        "of federate and prune spend this much at noise_multiplier 10, delta 1e-05 and 10 of 10 clients a round; raise "
        "target_epsilon, run at most 25 rounds, or raise noise_multiplier"
    )


def test_a_delta_that_promises_nothing_is_refused(settings_of):
    dotted = {"federate.aggregator.kind": "dp_mean", "federate.aggregator.delta": 0.05}
    check(settings_of(dotted), 19, 1000)
    with pytest.raises(SettingsError) as caught:
        check(settings_of(dotted), 20, 1000)
    assert str(caught.value) == "federate.aggregator.delta must be < 1 / 20 clients = 0.05, got 0.05"


def test_no_target_is_no_limit(settings_of):
    check(private(settings_of, noise=0.01), 10, 1000)


def test_adaptive_clipping_whose_count_cannot_be_noised_enough_is_refused(settings_of):
    check(private(settings_of, noise=0.99, clipping="adaptive"), 10, 1000)
    with pytest.raises(SettingsError) as caught:
        check(private(settings_of, noise=1.0, clipping="adaptive"), 10, 1000)
    assert str(caught.value) == (
        "federate.aggregator.noise_multiplier must be < 1 with adaptive clipping and 10 clients in a round, got 1"
    )


@pytest.mark.parametrize(
    ("dotted", "says"),
    [
        ({"federate.sampling.kind": "by_examples"}, "federate.sampling.kind must be all or uniform with "),
        ({"federate.guard": "rollback"}, "federate.guard must be stop or continue with "),
    ],
)
def test_what_breaks_the_guarantee_is_refused(settings_of, dotted, says):
    settings_of(dotted)
    with pytest.raises(SettingsError) as caught:
        settings_of({"federate.aggregator.kind": "dp_mean", **dotted})
    assert str(caught.value).startswith(says + "aggregator.kind dp_mean, because ")
    assert "\n" not in str(caught.value)
