"""The model before round 1: how steep the loss is there, and which of its layers no training can move."""

from functools import cached_property
from typing import Any

import numpy as np

from tasks.clients import Examples
from tasks.diagnose.standing.examine import StoredSites
from tasks.settings import Settings

_EXAMPLES = 2_000
"""Most hold-out examples of a gradient."""


class FirstModel:
    """The model before round 1. It is built only if something is asked of it: TensorFlow takes seconds to import."""

    def __init__(self, settings: Settings, sites: StoredSites) -> None:
        """`settings` of the run, and its clients."""
        self._settings, self._sites = settings, sites

    @cached_property
    def slope(self) -> float:
        """Length of the gradient of the hold-out loss, nats per unit of the parameters."""
        from tasks.local.probe import Probe
        from tasks.parameters import flatten

        return float(np.linalg.norm(Probe(self._model).gradient(flatten(self._model), self._hold_out)[1]))

    @cached_property
    def dead_layers(self) -> tuple[str, ...]:
        """The layers that no training can move, by name."""
        from tasks.diagnose.evidence.dead_layers import dead_layers

        return dead_layers(self._model, self._hold_out, self._settings.seed)

    @cached_property
    def _model(self) -> Any:
        from tasks.models import build

        form = self._sites.checked_in.form
        return build(self._settings.federate.model, form.input_shape, form.num_classes, self._settings.seed)

    @property
    def _hold_out(self) -> Examples:
        x, y = self._sites.test
        some = np.random.default_rng(0).permutation(len(y))[:_EXAMPLES]  # they may be sorted by label
        return x[some], y[some]
