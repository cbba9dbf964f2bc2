"""The noise of a loss curve, whose scale and correlation neither a steady descent nor a rise disturbs.

The model of a loss curve without a rise is z_t = m_t + e_t over its N losses in order, with m never increasing and z
the logarithm of the loss: federated noise grows with the loss, an exponential decay becomes a line, and a rise is a
ratio. (Losses that are not all positive are taken as they are.) The noise e is stationary, with a lag-1 correlation
up to 0.6 and tails up to Student's t with 5 degrees of freedom. On the plain loss, a prototype of the test found a step
of 10 sd in 30 rounds in 15-37 % instead of 43-72 %: there, the curvature of the descent passes for noise.
"""

import math
from dataclasses import dataclass

import numpy as np

from tasks.arrays import Floats

FEWEST = 8
"""Fewest losses that are tested: six second differences are too few for a noise scale."""
LONG = 60
"""Losses from which on the curve itself says much about the correlation of its noise."""
_RESOLUTION = 1e-6
"""Least noise scale: a loss is a mean of float32 values, and a change below a millionth is rounding."""
_PRIOR, _PRIOR_ROUNDS = 0.3, 6
"""A usual correlation, and how many losses it weighs beside the correlation of the curve."""
SMALLER_HALF = 0.3247
"""Mean of the smaller half of the sizes of standard normal numbers."""


@dataclass(frozen=True)
class Noise:
    """Noise of a curve.

    Attributes:
        scale: mean of the smaller half of the absolute second differences, in units of the series.
        correlation: lag-1 correlation, 0 to 0.6, from 60 losses on to 0.8.
    """

    scale: float
    correlation: float

    @property
    def sd(self) -> float:
        """Standard deviation around the level, were the noise Gaussian.

        The smaller half of |x| of a standard normal x has the mean (φ(0) - φ(q)) / 0.25 = 0.3247 with q its quartile,
        and second differences have sd · sqrt(6 - 8 ρ + 2 ρ²).
        """
        return self.scale / (SMALLER_HALF * math.sqrt(6 - 8 * self.correlation + 2 * self.correlation**2))


def smaller_half(sizes: Floats, least: int) -> Floats:
    """Returns the mean of the smaller half of each row, of at least `least`; (draws, S) to (draws,)."""
    half = max(least, sizes.shape[1] // 2)
    return np.partition(sizes, half - 1, axis=1)[:, :half].mean(axis=1)  # type: ignore[no-any-return]


def series(losses: Floats) -> Floats:
    """Returns what is tested: the logarithm of losses that are all positive, else the losses themselves."""
    return np.log(losses) if bool((losses > 0).all()) else losses


def roughness(curves: Floats, lag: int) -> Floats:
    """Mean of the smaller half of |z_{t+lag} - 2 z_t + z_{t-lag}| by curve; (draws, N) to (draws,).

    A straight descent adds nothing, and a rise, a spike or a steep start only reach the half that is left out.
    """
    n = curves.shape[1]
    bends = np.abs(curves[:, 2 * lag :] - 2 * curves[:, lag : n - lag] + curves[:, : n - 2 * lag])
    return smaller_half(bends, 2)


def noise_of(z: Floats) -> Noise:
    """Returns the noise of one series (N,).

    The correlation is the ρ of an AR(1) whose second differences at lag k have the variance σ² (6 - 8 ρ^k + 2 ρ^2k)
    that best fits the observed ratio of lag 2 to lag 1 (from 60 losses on of lag 3 too, least squares of logarithms).
    It is drawn towards 0.3 with the weight of 6 losses, since a short curve hardly tells, and ends at 0.6 (from 60
    losses on 0.8): beyond, correlated noise cannot be told from a slow climb, and is taken for one.
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
