"""The computations of rounds, traced once for all replays that share them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing TensorFlow takes seconds, and most diagnoses need no replay
    from tasks.federate.round import Round

_KEPT = 32
"""Most computations that are kept; the oldest one is forgotten first."""


class ComputationCache:
    """Computations of rounds, by what they depend on.

    To trace one takes seconds. They do not depend on the clients' data, so that one cache serves many diagnoses.
    """

    def __init__(self) -> None:
        self._by_key: dict[str, Round] = {}

    def get(self, key: str, build: "Callable[[], Round]") -> "Round":
        """Returns the computations of `key`; calls `build` if there are none yet."""
        if key not in self._by_key:
            while len(self._by_key) >= _KEPT:
                del self._by_key[next(iter(self._by_key))]
            self._by_key[key] = build()
        return self._by_key[key]
