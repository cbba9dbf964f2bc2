"""How the clients' updates become one: `tff.aggregators` factories on flat updates (P,)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_federated as tff
from numpy.typing import NDArray

from tasks.errors import DataError
from tasks.settings import AggregatorSettings


@dataclass(frozen=True)
class Combined:
    """What a rule makes of the updates."""

    update: NDArray[np.float32]
    """(P,)"""
    influence: NDArray[np.float64] | None
    """(K,) share of each client in `update`, summing to 1; None where the rule works entry by entry."""


Rule = Callable[[Sequence[NDArray[np.float32]], NDArray[np.float64]], Combined]
"""(K updates (P,), weights (K,)) -> Combined, for the kinds that need every update at once."""


def mean(settings: AggregatorSettings) -> Any:
    """Σ w_k Δ_k / Σ w_k (McMahan 2017, Algorithm 1); 0 if every weight is 0."""
    del settings  # The weights come with the clients.
    return tff.aggregators.MeanFactory(no_nan_division=True)


FACTORIES: dict[str, Callable[[AggregatorSettings], Any]] = {"mean": mean}


RULES: dict[str, Callable[[AggregatorSettings], Rule]] = {}


def aggregator(settings: AggregatorSettings) -> Any:
    """Returns the factory or the rule of `settings`."""
    return (FACTORIES | RULES)[settings.kind](settings)


def weighting_of(settings: AggregatorSettings) -> str:
    """Returns how the clients are weighted."""
    return settings.weighting


def client_weights(weighting: str, data: Mapping[str, NDArray[np.float32]]) -> dict[str, float]:
    """Returns each client's weight in the average, before it is divided by their sum.

    Args:
        weighting: `examples` (N_k: FedAvg), `uniform` (1), or `inverse_variance` (1 / the variance of all entries of
            the client's preprocessed features: a client with spread-out data counts less).
        data: each client's features (N, ...).

    Raises:
        DataError: `inverse_variance`, and a client whose features are all equal: its weight would be infinite.
    """
    match weighting:
        case "examples":
            return {client: float(len(x)) for client, x in data.items()}
        case "uniform":
            return dict.fromkeys(data, 1.0)
        case "inverse_variance":
            return {client: _inverse_variance(client, x) for client, x in data.items()}
    raise ValueError(f"unknown weighting {weighting!r}")


def _inverse_variance(client: str, x: NDArray[np.float32]) -> float:
    variance = float(np.var(x, dtype=np.float64))
    if variance == 0:
        raise DataError(
            f"federate.aggregator.weighting inverse_variance: the features of client {client} have zero variance, "
            "so its weight would be infinite: leave the client out, or use examples or uniform"
        )
    return 1 / variance
