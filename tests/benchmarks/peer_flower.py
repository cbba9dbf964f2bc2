# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["flwr==1.41.0", "numpy"]
# ///
"""Flower's server strategies and aggregation rules against ours: `uv run` this file with the file of peer_ours.py.

Flower has no client training: the clients' SGD is ours in NumPy, in float64. If Flower departs from a paper, it is run
twice, as it is and mended:

- FedAdagrad, FedAdam and FedYogi start from v = 0; the paper (Reddi 2021, arXiv 2003.00295, Algorithm 2) has v ≥ τ².
  FedAdam also corrects a bias that the paper does not correct, with the power round + 1.
- Adaptive clipping multiplies C by exp(−0.2 (b − q)), with b the share of the updates that were clipped. In the paper
  (Andrew 2021, arXiv 1905.03871, equation 2) b is the share that was not clipped: if too many updates are clipped, C
  must grow, and Flower's C shrinks.
- Multi-Krum weights the selected updates by examples; Blanchard 2017 does not. So here each client reports one example.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.strategy import (
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    dp_adaptive_clipping,
)
from numpy.typing import NDArray
from peer_case import Case, Row, arguments, compare, flat
from peer_numpy import Tensors, local_sgd, start


def result(params: Tensors, num_examples: int) -> FitRes:
    """Returns a client's result as Flower has it."""
    return FitRes(Status(Code.OK, ""), ndarrays_to_parameters(params), num_examples, {})


def train(
    case: Case, strategy: Any, before: Callable[[Any, int], None] = lambda *_: None, weighted: bool = True
) -> NDArray[Any]:
    """Returns the global parameters after all rounds; `before` can change the strategy before each round."""
    params = start(case)
    for round_num, orders in enumerate(case.orders, start=1):
        before(strategy, round_num)
        # configure_fit would set this, but it also draws clients.
        strategy.current_round_params = params
        results = [
            (None, result(local_sgd(case, params, client, order), len(case.data[client][1]) if weighted else 1))
            for client, order in orders.items()
        ]
        params = parameters_to_ndarrays(strategy.aggregate_fit(round_num, results, [])[0])
    return flat(params)


def initial(case: Case) -> Any:
    """Returns the initial parameters in Flower's format."""
    return ndarrays_to_parameters(start(case))


def optimizers(cases: dict[str, Case]) -> Iterator[Row]:
    """Yields the strategies with a server optimiser."""
    section = "federate.server_optimizer"
    case = cases["fedavgm"]
    options = {"server_learning_rate": case[f"{section}.learning_rate"], "server_momentum": case[f"{section}.momentum"]}
    yield Row(case, train(case, FedAvgM(initial_parameters=initial(case), **options)))
    for name, kind in {"fedadagrad": FedAdagrad, "fedadam": FedAdam, "fedyogi": FedYogi}.items():
        case = cases[name]
        eta, tau = case[f"{section}.learning_rate"], case[f"{section}.epsilon"]
        beta_1, beta_2 = case[f"{section}.beta_1"], case[f"{section}.beta_2"]
        options = {"eta": eta, "tau": tau}
        if kind is not FedAdagrad:
            options |= {"beta_1": beta_1, "beta_2": beta_2}

        def as_in_the_paper(strategy: Any, round_num: int, case: Case = case) -> None:
            tau, power = case[f"{section}.epsilon"], round_num + 1.0
            if round_num == 1:
                strategy.v_t = [np.full(shape, tau**2) for shape in case.shapes]
            if isinstance(strategy, FedAdam):
                beta_1, beta_2 = case[f"{section}.beta_1"], case[f"{section}.beta_2"]
                strategy.eta = case[f"{section}.learning_rate"] * (1 - beta_1**power) / np.sqrt(1 - beta_2**power)

        yield Row(case, train(case, kind(initial_parameters=initial(case), **options)), "as it is", agrees=False)
        params = train(case, kind(initial_parameters=initial(case), **options), as_in_the_paper)
        yield Row(case, params, "v = τ² at first" + (", no bias correction" if kind is FedAdam else ""))


def aggregators(cases: dict[str, Case]) -> Iterator[Row]:
    """Yields the aggregation rules."""
    section = "federate.aggregator"
    case = cases["median"]
    yield Row(case, train(case, FedMedian(initial_parameters=initial(case))))
    case = cases["trimmed mean"]
    yield Row(case, train(case, FedTrimmedAvg(initial_parameters=initial(case), beta=case[f"{section}.trim"])))
    for name in ("krum", "multi-krum"):
        case = cases[name]
        keep = case[f"{section}.num_selected"] if name == "multi-krum" else 0
        options = {"num_malicious_clients": case[f"{section}.num_faulty"], "num_clients_to_keep": keep}
        yield Row(case, train(case, Krum(initial_parameters=initial(case), **options), weighted=False))
    case = cases["clipped mean"]
    inner, num = FedAvg(initial_parameters=initial(case)), len(case.clients)
    norm = case[f"{section}.clip_norm"]
    yield Row(case, train(case, DifferentialPrivacyServerSideFixedClipping(inner, 0.0, norm, num)))

    case = cases["clipped mean, adaptive"]
    norm, quantile = case[f"{section}.clip_norm"], case[f"{section}.clip_quantile"]

    def adaptive() -> NDArray[Any]:
        strategy = DifferentialPrivacyServerSideAdaptiveClipping(inner, 0.0, num, norm, quantile, 0.2, 0.0)
        return train(case, strategy)

    yield Row(case, adaptive(), "as it is", agrees=False)
    clip = dp_adaptive_clipping.adaptive_clip_inputs_inplace
    dp_adaptive_clipping.adaptive_clip_inputs_inplace = lambda update, norm: not clip(update, norm)
    yield Row(case, adaptive(), "b counts what was not clipped")


def rows(cases: dict[str, Case]) -> Iterator[Row]:
    """Yields Flower's results."""
    case = cases["fedavg"]
    yield Row(case, train(case, FedAvg(initial_parameters=initial(case))))
    yield from optimizers(cases)
    yield from aggregators(cases)


if __name__ == "__main__":
    logging.disable()
    sys.exit(compare("Flower 1.41.0", rows(arguments(__doc__))))
