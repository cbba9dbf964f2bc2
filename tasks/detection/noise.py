"""The noise of a loss curve: its scale and correlation, which a steady descent or a rise hardly changes.

A loss curve of N losses without a rise is modelled as z_t = m_t + e_t. z is the logarithm of the loss (the loss itself
if some loss is not positive), the level m never increases, and the noise e is stationary, with a lag-1 correlation up
to 0.6 and tails no heavier than Student's t with 5 degrees of freedom.

Reasons for the logarithm: the noise of federated training grows with the loss, an exponential decay becomes a line, and
a rise is a ratio. A prototype of the test found a step of 10 standard deviations in 30 rounds in 43-72 % of the curves
with the logarithm, but in 15-37 % without it, because the curvature of the descent then counts as noise.
"""

import math
from dataclasses import dataclass

import numpy as np

from tasks.arrays import Floats

FEWEST = 6
"""Fewest losses that are tested. Five losses have a single second difference at lag 2, too few for a noise scale."""
LONG = 60
"""Number of losses from which on a curve shows the correlation of its noise well enough to allow up to 0.8."""
_RESOLUTION = 1e-6
"""Least noise scale, times max(1, largest |z|). A loss is a mean of float32 values: a smaller change is rounding."""
_PRIOR, _PRIOR_ROUNDS = 0.3, 6
"""A usual correlation, and its weight, in losses, in the average with the correlation that the curve shows."""
SMALLER_HALF = 0.3247
"""Mean of the smaller half of |x| for standard normal x: (φ(0) - φ(q)) / 0.25 with q its upper quartile."""


@dataclass(frozen=True)
class Noise:
    """The noise of a curve.

    Attributes:
        scale: mean of the smaller half of the absolute second differences, in units of the series.
        correlation: lag-1 correlation, 0 to 0.6 (to 0.8 from 60 losses on).
    """

    scale: float
    correlation: float

    @property
    def sd(self) -> float:
        """Standard deviation around the level, if the noise is Gaussian.

        Second differences of AR(1) noise have the standard deviation sd · sqrt(6 - 8 ρ + 2 ρ²), and the smaller half of
        their absolute values has the mean `SMALLER_HALF` times that.
        """
        return self.scale / (SMALLER_HALF * math.sqrt(6 - 8 * self.correlation + 2 * self.correlation**2))


def smaller_half(sizes: Floats, least: int) -> Floats:
    """Returns the mean (draws,) of the smaller half of each row of `sizes` (draws, S), at least of `least` entries."""
    half = max(least, sizes.shape[1] // 2)
    return np.partition(sizes, half - 1, axis=1)[:, :half].mean(axis=1)  # type: ignore[no-any-return]


def series(losses: Floats) -> Floats:
    """Returns the series to test: the logarithm of the losses if all are positive, else the losses themselves."""
    return np.log(losses) if bool((losses > 0).all()) else losses


def roughness(curves: Floats, lag: int) -> Floats:
    """Returns the mean (draws,) of the smaller half of |z_{t+lag} - 2 z_t + z_{t-lag}| of each curve (draws, N).

    A straight descent adds nothing. A rise, a spike or a steep start makes a few differences large, and these fall into
    the half that is left out.
    """
    n = curves.shape[1]
    bends = np.abs(curves[:, 2 * lag :] - 2 * curves[:, lag : n - lag] + curves[:, : n - 2 * lag])
    return smaller_half(bends, 2)


def noise_of(z: Floats) -> Noise:
    """Returns the noise of one series (N,).

    The second differences of an AR(1) at lag k have the variance σ² (6 - 8 ρ^k + 2 ρ^2k). The correlation is found in
    three steps:

    1. ρ is fitted to the observed ratio of lag 2 to lag 1 (from 60 losses on also of lag 3 to lag 1, by least squares
       of the logarithms).
    2. A short curve says little about ρ. So ρ is averaged with 0.3, which has the weight of 6 losses.
    3. ρ is at most 0.6 (0.8 from 60 losses on). Noise with a higher correlation cannot be distinguished from a slow
       climb; the test can claim it as a rise.

    A curve whose roughness is 0 at some lag gets the highest correlation.
    """
    n, curve = len(z), z[None, :]
    most = 0.8 if n >= LONG else 0.6
    rough = {lag: float(roughness(curve, lag)[0]) for lag in ((1, 2, 3) if n >= LONG else (1, 2))}
    floor = _RESOLUTION * max(1.0, float(np.abs(z).max()))
    if min(rough.values()) <= 0:
        return Noise(max(rough[1], floor), most)
    rho = np.linspace(0, 0.95, 96)
    variance = {lag: 6 - 8 * rho**lag + 2 * rho ** (2 * lag) for lag in rough}
    misfit = sum(
        (np.log(variance[lag] / variance[1]) - 2 * np.log(rough[lag] / rough[1])) ** 2 for lag in rough if lag > 1
    )
    fitted = float(rho[int(np.argmin(misfit))])
    drawn = (n * fitted + _PRIOR_ROUNDS * _PRIOR) / (n + _PRIOR_ROUNDS)
    return Noise(max(rough[1], floor), min(most, drawn))
