"""Vectors of clients in a scratch file."""

import numpy as np
import pytest

from tasks.diagnose.evidence.vectors import Vectors


def test_vectors_are_read_back_bit_by_bit_in_the_order_in_which_they_were_added() -> None:
    rng, vectors = np.random.default_rng(0), Vectors()
    written = {client: rng.standard_normal(size) for client, size in (("b", 5), ("a", 0), ("c", 100_000))}
    for client, vector in written.items():
        vectors.add(client, vector)
    assert (list(vectors), len(vectors), "a" in vectors, "d" in vectors) == (["b", "a", "c"], 3, True, False)
    for client, vector in written.items():
        assert vectors[client].tobytes() == vector.tobytes()
    with pytest.raises(KeyError):
        vectors["d"]
