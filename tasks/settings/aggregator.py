"""`federate.aggregator`: how the updates become one."""

from typing import Literal

from tasks.settings.base import MOST_CLIENTS, Section, setting

PROTECTING = ("median", "trimmed_mean", "geometric_median", "krum", "multi_krum", "clipped_mean", "dp_mean")
"""The aggregators that bound what one client can do; what bypasses them would break the promise."""

WEIGHTED = ("mean", "geometric_median", "clipped_mean", "compressed_mean")
"""The aggregators that weight the clients by `weighting`; all others are defined with one vote a client."""


class AggregatorSettings(Section):
    """How the clients' updates become one."""

    kind: Literal[
        "mean",
        "median",
        "trimmed_mean",
        "geometric_median",
        "krum",
        "multi_krum",
        "clipped_mean",
        "dp_mean",
        "compressed_mean",
    ] = setting("mean", title="Kind", description="the rule that combines the updates")
    weighting: Literal["examples", "uniform", "inverse_variance"] = setting(
        "examples",
        title="Weighting",
        description="weight of a client: its examples, 1, or 1 / variance of its preprocessed features",
        used_by=WEIGHTED,
    )
    trim: float = setting(
        0.2,
        ge=0,
        lt=0.5,
        title="Trim",
        description="fraction of the clients left out at each end of every entry, rounded down to whole clients",
        used_by=("trimmed_mean",),
    )
    num_faulty: int = setting(
        1,
        ge=0,
        le=MOST_CLIENTS,
        title="Faulty clients",
        description="f, how many clients may send anything at all; a round needs at least 2f + 3",
        used_by=("krum", "multi_krum"),
    )
    num_selected: int = setting(
        0,
        ge=0,
        le=MOST_CLIENTS,
        title="Selected clients",
        description="m, how many of the best updates are averaged, at most all but num_faulty; 0: those",
        used_by=("multi_krum",),
    )
    clipping: Literal["fixed", "adaptive"] = setting(
        "fixed",
        title="Clipping",
        description="longest update: clip_norm, or from there towards a quantile of the updates' norms",
        used_by=("clipped_mean", "dp_mean"),
    )
    clip_norm: float = setting(
        1.0,
        gt=0,
        title="Clip norm",
        description="L2 norm to which longer updates are scaled; with adaptive clipping, in the first round",
        used_by=("clipped_mean", "dp_mean"),
    )
    clip_quantile: float = setting(
        0.5,
        gt=0,
        lt=1,
        title="Clip quantile",
        description="share of the updates that adaptive clipping leaves as they are",
        used_by=("clipped_mean", "dp_mean"),
    )
    zeroing: bool = setting(
        False,
        title="Zeroing",
        description="make updates zero whose largest entry is far beyond the others'",
        used_by=("clipped_mean",),
    )
    noise_multiplier: float = setting(
        1.0,
        gt=0,
        title="Noise multiplier",
        description="sd of the Gaussian noise on the sum of the updates, in units of the clip norm",
        used_by=("dp_mean",),
    )
    delta: float = setting(
        1e-5,
        gt=0,
        lt=1,
        title="Delta",
        description="of the (epsilon, delta) guarantee; below 1 / number of clients",
        used_by=("dp_mean",),
    )
    target_epsilon: float = setting(
        0.0,
        ge=0,
        title="Target epsilon",
        description="a run that would spend more is refused; 0: no limit",
        used_by=("dp_mean",),
    )
    quantization_bits: int = setting(
        8,
        ge=1,
        le=16,
        title="Bits",
        description="bits an entry of a quantised update",
        used_by=("compressed_mean",),
    )
