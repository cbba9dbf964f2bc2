"""The aggregators: they combine the clients' updates into one.

`FACTORIES` need only sums over the clients, which `tff.aggregators` computes. `RULES` need every update at once
(robust.py).
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tasks.errors import DataError, SettingsError
from tasks.federate.privacy import check_privacy
from tasks.federate.robust import Rule, geometric_median, median, multi_krum, num_trimmed, trimmed_mean
from tasks.federate.schedule import clients_per_round
from tasks.local.tff_names import Traced
from tasks.memory import available
from tasks.settings import WEIGHTED, AggregatorSettings, Settings

Factory = Any
"""A `tff.aggregators.WeightedAggregationFactory`: TFF has no types for mypy."""

Estimate = Any
"""A `tff.templates.EstimationProcess`."""

# Learning rate of the adaptive clipping norm, which changes by a factor of at most exp(0.2) a round (Andrew 2021,
# section 3.1).
_CLIP_LEARNING_RATE = 0.2


def mean(settings: AggregatorSettings, num_clients: int) -> Factory:
    """Σ w_k Δ_k / Σ w_k (McMahan 2017, Algorithm 1); 0 if every weight is 0."""
    del settings, num_clients  # The weights come with the clients' updates.
    return tff.aggregators.MeanFactory(no_nan_division=True)


def clipped_mean(settings: AggregatorSettings, num_clients: int) -> Factory:
    """The mean of Δ_k · min(1, C / ‖Δ_k‖): a client moves the result by at most C times its share of the weight.

    With fixed clipping, C is `clip_norm`. With adaptive clipping, C begins at `clip_norm` and follows the q-quantile of
    the updates' lengths, with q = `clip_quantile`: after each round C ← C · exp(−0.2 (b − q)), where b is the fraction
    of updates that are at most C long (Andrew 2021, arXiv 1905.03871, equation 2, without noise). Updates of length 0
    are not counted: the updates of failed clients, and zeroed updates, say nothing about the lengths of the others.

    With `zeroing`, an update counts as zero if its largest absolute entry is above 2x + 1. x follows the 98 % quantile
    of the largest entries. It begins at 10 and changes by a factor of at most 10 a round, as in
    `tff.learning.robust_aggregator`. A zeroed update keeps its weight, so it pulls the mean towards zero. A client that
    sends huge updates in every round moves the quantile too.
    """
    factory = tff.aggregators.clipping_factory(_clip_norm(settings), mean(settings, num_clients))
    return tff.aggregators.zeroing_factory(_zeroing_norm(), factory) if settings.zeroing else factory


def dp_mean(settings: AggregatorSettings, num_clients: int) -> Factory:
    """(Σ Δ_k · min(1, C / ‖Δ_k‖) + noise) / K, without weights (DP-FedAvg: McMahan 2018, arXiv 1710.06963).

    The noise in every entry is Gaussian with sd `noise_multiplier` · C. K is the fixed number of clients in a round: a
    failed client counts as an update of zero. With adaptive clipping, the number of updates within C gets noise too, of
    sd K/20. TFF therefore raises the noise on the sum, so that both noises together give the privacy that
    `noise_multiplier` gives alone (Andrew 2021, Theorem 1). privacy.py says what this guarantees.

    The noise does not follow `seed`, so two runs differ. The reason: anyone who reads the seed in params.yaml could
    subtract the noise again.
    """
    noise, norm, expected = settings.noise_multiplier, settings.clip_norm, float(num_clients)
    private = tff.aggregators.DifferentiallyPrivateFactory
    if settings.clipping == "fixed":
        factory = private.gaussian_fixed(noise, expected, norm)
    else:
        factory = private.gaussian_adaptive(noise, expected, norm, settings.clip_quantile, _CLIP_LEARNING_RATE)
    return tff.aggregators.as_weighted_aggregator(factory)


def compressed_mean(settings: AggregatorSettings, num_clients: int) -> Factory:
    """The mean of the quantised updates: 2^b levels between the smallest and the largest entry of each update.

    b is `quantization_bits`. w_k Δ_k is quantised, and each of its entries moves by at most half a level,
    (max − min) / (2^b − 1) / 2. Entries are rounded to the nearest level: TFF's random rounding is unbiased, but cannot
    be seeded. All layers of the model share one range.
    """
    del num_clients
    quantised = tff.aggregators.EncodedSumFactory.quantize_above_threshold(
        settings.quantization_bits, threshold=0, stochastic=False
    )
    return tff.aggregators.MeanFactory(value_sum_factory=quantised, no_nan_division=True)


def _clip_norm(settings: AggregatorSettings) -> float | Estimate:
    if settings.clipping == "fixed":
        return settings.clip_norm
    return _quantile(settings.clip_norm, settings.clip_quantile, _CLIP_LEARNING_RATE)


def _zeroing_norm() -> Estimate:
    return _quantile(10.0, 0.98, float(np.log(10)), multiplier=2.0, increment=1.0)


def _quantile(initial: float, target: float, rate: float, multiplier: float = 1.0, increment: float = 0.0) -> Estimate:
    """Returns a process that estimates x, the `target` quantile of the values > 0.

    It reports multiplier · x + increment. x begins at `initial`. After each round x ← x · exp(−rate (b − target)),
    where b is the fraction of the values > 0 that are ≤ x. A round without a value > 0 leaves x as it is.

    TFF's `PrivateQuantileEstimationProcess` counts zeros too, and a failed client's value is 0. With 3 failed of 10
    clients, TFF estimated a median norm of 2.94; the median norm of the other 7 was 3.99.
    """
    number = tff.TensorType(np.float32)

    @tff.tensorflow.computation
    def begin() -> Traced:
        return tf.constant(initial, tf.float32)

    @tff.tensorflow.computation(number, number)
    def count(value: Traced, estimate: Traced) -> Traced:
        counted = tf.cast(value > 0, tf.float32)
        return OrderedDict(all=counted, below=counted * tf.cast(value <= estimate, tf.float32))

    @tff.tensorflow.computation(number, OrderedDict(all=number, below=number))
    def move(estimate: Traced, counts: Traced) -> Traced:
        moved = estimate * tf.exp(-rate * (counts["below"] / tf.maximum(counts["all"], 1.0) - target))
        return tf.where(counts["all"] > 0, moved, estimate)

    @tff.tensorflow.computation(number)
    def scale(estimate: Traced) -> Traced:
        return multiplier * estimate + increment

    state, values = tff.FederatedType(number, tff.SERVER), tff.FederatedType(number, tff.CLIENTS)

    @tff.federated_computation
    def initialize() -> Traced:
        return tff.federated_eval(begin, tff.SERVER)

    @tff.federated_computation(state, values)
    def following(estimate: Traced, value: Traced) -> Traced:
        counts = tff.federated_map(count, (value, tff.federated_broadcast(estimate)))
        return tff.federated_map(move, (estimate, tff.federated_sum(counts)))

    @tff.federated_computation(state)
    def report(estimate: Traced) -> Traced:
        return tff.federated_map(scale, estimate)

    return tff.templates.EstimationProcess(initialize, following, report)


FACTORIES: dict[str, Callable[[AggregatorSettings, int], Factory]] = {
    "mean": mean,
    "clipped_mean": clipped_mean,
    "dp_mean": dp_mean,
    "compressed_mean": compressed_mean,
}
"""kind -> (settings, clients in a round) -> `tff.aggregators.WeightedAggregationFactory` on flat updates (P,)."""

RULES: dict[str, Callable[[AggregatorSettings], Rule]] = {
    "median": lambda s: median,
    "trimmed_mean": lambda s: partial(trimmed_mean, trim=s.trim),
    "geometric_median": lambda s: geometric_median,
    "krum": lambda s: partial(multi_krum, num_faulty=s.num_faulty, num_selected=1),
    "multi_krum": lambda s: partial(multi_krum, num_faulty=s.num_faulty, num_selected=s.num_selected),
}


_PAIRWISE = ("geometric_median", "krum", "multi_krum")
"""Rules that compare all pairs of updates; three matrices (K, K) of them exist at a time."""


def aggregator(settings: AggregatorSettings, num_clients: int) -> Factory | Rule:
    """Returns the factory or the rule that `settings.kind` names, for rounds of `num_clients` clients."""
    if settings.kind in RULES:
        return RULES[settings.kind](settings)
    return FACTORIES[settings.kind](settings, num_clients)


def weighting_of(settings: AggregatorSettings) -> str:
    """Returns how the clients are weighted: `uniform` if the kind is defined without weights, else `weighting`."""
    return settings.weighting if settings.kind in WEIGHTED else "uniform"


def check(settings: Settings, num_clients: int, num_params: int) -> None:
    """Checks, before the first round, that the aggregator can work with `num_clients` clients and P parameters.

    Raises:
        SettingsError: (1) a round has too few clients for the settings, (2) the aggregator needs all updates at once,
            and they do not fit into memory, or (3) see `check_privacy`.
    """
    chosen, taking_part = settings.federate.aggregator, clients_per_round(settings.federate.sampling, num_clients)
    _check_memory(settings, num_clients, num_params)
    match chosen.kind:
        case "trimmed_mean":
            _check_trim(chosen, taking_part)
        case "krum" | "multi_krum":
            _check_krum(chosen, taking_part)
        case "dp_mean":
            check_privacy(settings, num_clients)


def bytes_at_once(settings: Settings, num_clients: int, num_params: int) -> int:
    """Returns the bytes that the aggregator holds of a round's updates at once; 0 if it adds them up as they come."""
    kind, taking_part = settings.federate.aggregator.kind, clients_per_round(settings.federate.sampling, num_clients)
    if kind not in RULES:
        return 0
    return 4 * taking_part * num_params + (3 * 8 * taking_part**2 if kind in _PAIRWISE else 0)


def _check_memory(settings: Settings, num_clients: int, num_params: int) -> None:
    kind, taking_part = settings.federate.aggregator.kind, clients_per_round(settings.federate.sampling, num_clients)
    needed, there = bytes_at_once(settings, num_clients, num_params), available()
    if needed > there:
        raise SettingsError(
            f"federate.aggregator.kind {kind} needs the updates of all clients of a round at once, {taking_part} of "
            f"{num_params} parameters: {needed:,} bytes, and there are {there:,} bytes of memory: choose a kind that "
            f"adds them up ({', '.join(FACTORIES)}), or draw fewer clients a round (federate.sampling)"
        )


def _check_trim(settings: AggregatorSettings, num_clients: int) -> None:
    # `trim` is below 0.5, so at least one client is always left.
    if settings.trim and not num_trimmed(num_clients, settings.trim):
        allowed = f"0, or >= 1/{num_clients} and < 0.5" if num_clients > 2 else "0"
        raise SettingsError(
            f"federate.aggregator.trim must be {allowed}, got {settings.trim}: with {num_clients} clients in a round, "
            "this trims no client"
        )


def _check_krum(settings: AggregatorSettings, num_clients: int) -> None:
    most = (num_clients - 3) // 2
    if settings.num_faulty > most:
        allowed = f"must be <= {most}" if most >= 0 else "at least 3 are needed"
        raise SettingsError(
            f"federate.aggregator.num_faulty is too large for the {num_clients} clients in a round: "
            f"{settings.kind} needs 2 * num_faulty + 3 clients: {allowed}, got {settings.num_faulty}"
        )
    if settings.num_selected > num_clients - settings.num_faulty:
        raise SettingsError(
            f"federate.aggregator.num_selected must be <= {num_clients - settings.num_faulty}, the {num_clients} "
            f"clients in a round minus num_faulty ({settings.num_faulty}): with more, a faulty client is always "
            f"selected, got {settings.num_selected}"
        )


def client_weights(
    weighting: str, num_examples: Mapping[str, int], variances: Callable[[], Mapping[str, float]]
) -> dict[str, float]:
    """Returns each client's weight in the average, before it is divided by their sum.

    Args:
        weighting: `examples` (N_k: FedAvg), `uniform` (1), or `inverse_variance` (1 / the variance of all entries of
            the client's preprocessed features; a client whose features vary more counts less).
        num_examples: each client's N_k.
        variances: a function that returns the variances, computed by the clients; called only for `inverse_variance`.

    Raises:
        DataError: with `inverse_variance`, all features of a client are equal: its weight would be infinite.
    """
    match weighting:
        case "examples":
            return {client: float(size) for client, size in num_examples.items()}
        case "uniform":
            return dict.fromkeys(num_examples, 1.0)
        case "inverse_variance":
            return {client: _inverse(client, variance) for client, variance in variances().items()}
    raise ValueError(f"unknown weighting {weighting!r}")


def _inverse(client: str, variance: float) -> float:
    if variance == 0:
        raise DataError(
            f"federate.aggregator.weighting inverse_variance: the features of client {client} have zero variance, "
            "so its weight would be infinite: leave the client out, or use examples or uniform"
        )
    return 1 / variance
