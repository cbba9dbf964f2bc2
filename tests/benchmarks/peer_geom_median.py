# /// script
# requires-python = ">=3.11"
# dependencies = ["geom-median==0.1.0", "numpy"]
# ///
"""The geometric median of RFA's authors against ours: `uv run` this file with the file of peer_ours.py.

geom-median 0.1.0 (Pillutla 2022) stops after 100 iterations by default; here it can make as many as it needs. The
clients' SGD is ours in NumPy, in float64.
"""

import sys
from collections.abc import Iterator

import numpy as np
from geom_median.numpy import compute_geometric_median
from peer_case import Case, Row, arguments, compare, flat
from peer_numpy import local_sgd, start


def rows(cases: dict[str, Case]) -> Iterator[Row]:
    """Yields the package's result."""
    case = cases["geometric median"]
    params = start(case)
    for orders in case.orders:
        locals_ = [local_sgd(case, params, client, order) for client, order in orders.items()]
        weights = np.array([len(case.data[client][1]) for client in orders], np.float64)
        params = compute_geometric_median(locals_, weights, eps=1e-12, maxiter=10_000, ftol=1e-15).median
    yield Row(case, flat(params))


if __name__ == "__main__":
    sys.exit(compare("geom-median 0.1.0", rows(arguments(__doc__))))
