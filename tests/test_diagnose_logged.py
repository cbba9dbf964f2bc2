"""What clients.csv says of a client before a rise."""

import numpy as np
import pytest

from tasks.diagnose.evidence.logged import usual_losses
from tasks.round_log.read import ClientLog


def test_usual_loss_is_that_of_the_client_at_the_level_before_the_rise():
    """All losses fall alike, client 0's twice the others'; it was last drawn 12 rounds before the rise."""
    rows = [(r, c) for r in range(1, 21) for c in range(6) if c or r <= 8]
    losses = np.array([(4 if c == 0 else 2) * np.exp(-0.15 * r) for r, c in rows])
    no = np.zeros(len(rows), bool)
    log = ClientLog(np.array([r for r, _ in rows]), tuple(str(c) for _, c in rows), {"loss_before": losses}, no, no)
    usual = usual_losses(log, first=21)
    # The median of the last five rounds is round 18's: 2 e^(-2.7) = 0.134, and twice that. What is added before the
    # logarithm bends that by a few per cent.
    assert usual["1"] == pytest.approx(2 * np.exp(-2.7), rel=0.05)
    assert usual["0"] == pytest.approx(4 * np.exp(-2.7), rel=0.15)
