"""The public examples of `federate.shared_fraction`. Only here does the server read the clients' examples, all at once.

The setting simulates a public data set: it is drawn from the clients. In a real federation it comes from elsewhere.
"""

from collections.abc import Iterable

import numpy as np

from tasks.clients import Examples, Stored, read_checked
from tasks.errors import SettingsError

# First word of the seed of the draw; schedule.py has 1 to 3, local/faults.py 5.
_PUBLIC = 4


def public_examples(stored: Iterable[Stored], fraction: float, seed: int) -> Examples:
    """Returns round(fraction · N) of the N training examples of all clients (Zhao 2018, arXiv 1806.00582).

    Each label gets the same number of examples, up to a difference of one. A label with fewer gives all of them.

    Raises:
        SettingsError: `fraction` is too small for one example of each label.
        DataError: a client's examples cannot be used.
    """
    clients = [read_checked(of_client) for of_client in stored]
    x, y = np.concatenate([own for own, _ in clients]), np.concatenate([own for _, own in clients])
    present = np.unique(y)
    size = round(fraction * len(y))
    if size < len(present):
        raise SettingsError(
            f"federate.shared_fraction must give at least one example of each of the {len(present)} labels "
            f"({len(present) / len(y):.3g} or more), got {fraction:g} of {len(y)} examples"
        )
    order = np.random.default_rng([_PUBLIC, seed]).permutation(len(y))
    # The first of every label, then the second of every label, and so on.
    rank = np.empty(len(y), np.int64)
    for label in present:
        mine = order[y[order] == label]
        rank[mine] = np.arange(len(mine))
    chosen = order[np.lexsort((y[order], rank[order]))][:size]
    return x[chosen], y[chosen]
