"""Several rises in one run."""

import numpy as np

from tasks.diagnose.limits import limits_of_logs
from tasks.diagnose.observe.observation import observe
from tasks.diagnose.observe.rise import find_rise
from tasks.round_log.cells import Measurements
from tasks.round_log.read import ClientLog, RoundLog

ROUNDS = np.arange(1, 31)
NONE = np.zeros(1, dtype=np.bool_)
SILENT = ClientLog(np.array([1]), ("00",), {"update_norm": np.ones(1)}, NONE, NONE)


def noise(seed: int) -> np.ndarray:
    return np.exp(0.03 * np.random.default_rng(seed).standard_normal(30))


def log_of(**losses: np.ndarray) -> RoundLog:
    every = np.ones(30, np.bool_)
    columns = {name: Measurements(values, every) for name, values in losses.items()}
    return RoundLog(ROUNDS, ("federate",) * 30, columns, None)


def test_a_lasting_rise_is_explained_and_an_earlier_spike_is_an_event() -> None:
    # Excess: ln 8 = 2.1 in round 7, and 18 ln 2 = 12.5 in rounds 13 to 30.
    losses = np.where(ROUNDS == 7, 8.0, np.where(ROUNDS >= 13, 2.0, 1.0)) * noise(1)
    rise = find_rise(log_of(val_loss=losses), SILENT, 0.01)
    assert (rise.round, rise.until) == (13, 30)
    (event,) = rise.events
    assert (event.round, event.until, event.loss, event.phase, event.clients) == (7, 7, "val_loss", "federate", ())
    observation = observe(log_of(val_loss=losses), SILENT, 0.01)
    assert "Another rise: val_loss rose in round 7, from" in " ".join(
        limits_of_logs(observation, log_of(val_loss=losses), SILENT)
    )


def test_the_slow_end_of_a_rise_is_no_other_rise() -> None:
    since = np.maximum(0, ROUNDS - 10)
    losses = np.where(ROUNDS >= 10, 1 + 20 * np.exp(-since / 3), 1.0) * noise(2)
    assert find_rise(log_of(val_loss=losses), SILENT, 0.01).events == ()


def test_both_losses_are_named_whichever_is_explained() -> None:
    step = np.where(ROUNDS >= 16, 3.0, 1.0)
    both = find_rise(log_of(val_loss=step * noise(3), train_loss=step * noise(4)), SILENT, 0.01)
    assert (both.loss, [(event.loss, event.round) for event in both.events]) == ("val_loss", [("train_loss", 16)])
    log = log_of(val_loss=noise(3), train_loss=0.18 * step * noise(4))
    one = observe(log, SILENT, 0.01)
    assert (one.rise.loss, one.rise.events) == ("train_loss", ())
    assert "(val_loss) did not rise beyond its noise (" in " ".join(limits_of_logs(one, log, SILENT))


def test_a_rise_that_the_column_does_not_show_is_no_rise() -> None:
    # Every client's loss doubles, but the column falls on: a report could only say that it rose from 2 to 1.
    rows = [(t, f"{k:02}") for t in ROUNDS.tolist() for k in range(4)]
    own = np.array([2.0 if t >= 16 else 1.0 for t, _ in rows])
    own *= np.exp(0.03 * np.random.default_rng(0).standard_normal(len(rows)))
    none = np.zeros(len(rows), dtype=np.bool_)
    clients = ClientLog(np.array([t for t, _ in rows]), tuple(c for _, c in rows), {"loss_before": own}, none, none)
    falling = np.exp(-ROUNDS / 10)
    rise = find_rise(log_of(train_loss=falling), clients, 0.01)
    assert not rise.detected
