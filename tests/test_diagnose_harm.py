"""Updates that do harm, in a model of one parameter p whose hold-out loss is exp(p)."""

from types import SimpleNamespace

import numpy as np
import pytest

from tasks.diagnose.evidence.harm import harmful, influence, left_out_losses
from tasks.diagnose.evidence.sent import Captured

REPLAYS = SimpleNamespace(cohort=SimpleNamespace(test_x=None, test_y=None))
PROBE = SimpleNamespace(fit=lambda params, test: SimpleNamespace(loss=float(np.exp(params[0]))))


def sent(**updates):
    vectors = {client: np.array([value], np.float32) for client, value in updates.items()}
    return Captured(1, np.zeros(1, np.float32), vectors, dict.fromkeys(updates, 1.0), dict.fromkeys(updates, 1))


def test_influence_is_the_log_loss_with_the_client_less_without():
    captured = sent(a=-1.0, b=-4.0)
    # The mean is -2.5. Without a it is -4, without b it is -1.
    assert influence(REPLAYS, PROBE, captured, captured.updates) == {"a": pytest.approx(1.5), "b": pytest.approx(-1.5)}
    assert influence(REPLAYS, PROBE, captured, {}) == {}


def test_harm_is_more_than_that_of_the_median_honest_client():
    # The honest mean is -2. Without a or b it is -2.5, so their harm is 0.5. The harm of c is -1.
    honest = {"a": -1.0, "b": -1.0, "c": -4.0}
    # With x the mean is (-6 + x) / 4. At x = 0.4 it is -1.4, a harm of 0.6; at x = -0.4 it is -1.6, a harm of 0.4.
    assert harmful(REPLAYS, PROBE, sent(**honest, x=0.4), ["x"]) == ("x",)
    assert harmful(REPLAYS, PROBE, sent(**honest, x=-0.4), ["x"]) == ()


def test_an_update_that_helps_does_no_harm_even_if_honest_ones_help_more():
    # The honest mean is -3. Without b or c it is -2.5, so the median harm is -0.5.
    honest = {"a": -1.0, "b": -4.0, "c": -4.0}
    # x = -3.5 makes the mean -3.125, which is better than without x. x = -2 makes it -2.75.
    assert harmful(REPLAYS, PROBE, sent(**honest, x=-3.5), ["x"]) == ()
    assert harmful(REPLAYS, PROBE, sent(**honest, x=-2.0), ["x"]) == ("x",)


def test_suspects_are_judged_one_by_one_and_among_honest_clients():
    honest = {"a": -1.0, "b": -1.0, "c": -1.0}
    # In a mean with x, the harm of y would not show. So y is judged without x.
    assert harmful(REPLAYS, PROBE, sent(**honest, x=90.0, y=1.0), ["x", "y", "gone"]) == ("x", "y")
    assert harmful(REPLAYS, PROBE, sent(x=90.0), ["x"]) == ()


def test_leaving_out_by_hand():
    updates = {"a": np.array([1.0], np.float32), "b": np.array([4.0], np.float32)}
    together, without = left_out_losses(lambda p: float(p[0]), np.zeros(1, np.float32), updates, {"a": 3.0, "b": 1.0})
    assert together == pytest.approx(7 / 4)
    assert without == {"a": pytest.approx(4.0), "b": pytest.approx(1.0)}
