"""Which loss rose, and what the logs show then."""

import numpy as np

from tasks.detection import find_increase
from tasks.diagnose.observe.rise import Rise, find_rise
from tasks.round_log.cells import Measurements
from tasks.round_log.read import ClientLog, RoundLog


def test_two_losses_that_rise_at_once_need_less_each() -> None:
    rounds, rng = np.arange(1, 31), np.random.default_rng(5)
    noise = {name: np.exp(0.1 * rng.standard_normal(30)) for name in ("val_loss", "train_loss")}
    share = {"val_loss": 0.3, "train_loss": 0.2}
    # Of each loss a step in round 18 that is a rise at half of the significance, and none at the loss's own share.
    unsure = {}
    for name, flat in noise.items():
        steps = [np.where(rounds >= 18, height, 1.0) * flat for height in np.arange(1.1, 3, 0.01)]
        unsure[name] = next(
            step
            for step in steps
            if find_increase(rounds, step, 0.005).detected
            and not find_increase(rounds, step, 0.01 * share[name]).detected
        )

    def rise_of(**losses: np.ndarray) -> Rise:
        given = np.ones(30, dtype=np.bool_)
        columns = {name: Measurements(values, given) for name, values in {**noise, **losses}.items()}
        none = np.zeros(1, dtype=np.bool_)
        clients = ClientLog(np.array([1]), ("00",), {"update_norm": np.ones(1)}, none, none)
        return find_rise(RoundLog(rounds, ("federate",) * 30, columns, None), clients, 0.01)

    for name, step in unsure.items():
        assert not rise_of(**{name: step}).detected
    both = rise_of(**unsure)
    assert both.detected
    assert (both.loss, both.round) == ("val_loss", 18)
    # Not so where the second one is over before the first begins.
    early = np.where(rounds <= 5, 3.0, 1.0) * noise["train_loss"]
    assert not rise_of(val_loss=unsure["val_loss"], train_loss=early).detected
