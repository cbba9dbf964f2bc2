"""`federate.aggregator`: how the clients' updates are combined."""

from typing import Literal

from tasks.settings.base import MOST_CLIENTS, Section, setting

PROTECTING = ("median", "trimmed_mean", "geometric_median", "krum", "multi_krum", "clipped_mean", "dp_mean")
"""The aggregators that bound the effect of one client. What a client sends in addition is not bounded."""

WEIGHTED = ("mean", "geometric_median", "clipped_mean", "compressed_mean")
"""The aggregators that use `weighting`. All others give each client the same weight, by their definition."""


class AggregatorSettings(Section):
    """How the clients' updates are combined."""

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
    ] = setting("mean", title="Kind", description="rule that combines the clients' updates")
    weighting: Literal["examples", "uniform", "inverse_variance"] = setting(
        "examples",
        title="Weighting",
        description="weight of a client: examples, its number of examples; uniform, 1; inverse_variance, 1 / variance "
        "of its preprocessed features",
        used_by=WEIGHTED,
    )
    trim: float = setting(
        0.2,
        ge=0,
        lt=0.5,
        title="Trim",
        description="for each parameter, the fraction of the clients that is left out at each end, rounded down to "
        "whole clients; 0: the unweighted mean",
        used_by=("trimmed_mean",),
    )
    num_faulty: int = setting(
        1,
        ge=0,
        le=MOST_CLIENTS,
        title="Faulty clients",
        description="f, the number of clients that can send arbitrary updates; a round needs at least 2f + 3 clients",
        used_by=("krum", "multi_krum"),
    )
    num_selected: int = setting(
        0,
        ge=0,
        le=MOST_CLIENTS,
        title="Selected clients",
        description="m, the number of best-scored updates that are averaged; at most K - num_faulty for K clients per "
        "round; 0: K - num_faulty",
        used_by=("multi_krum",),
    )
    clipping: Literal["fixed", "adaptive"] = setting(
        "fixed",
        title="Clipping",
        description="largest norm of an update: fixed, clip_norm; adaptive, it starts at clip_norm and moves to the "
        "clip_quantile of the updates' norms",
        used_by=("clipped_mean", "dp_mean"),
    )
    clip_norm: float = setting(
        1.0,
        gt=0,
        title="Clip norm",
        description="longer updates are scaled down to this L2 norm; with adaptive clipping, in the first round only",
        used_by=("clipped_mean", "dp_mean"),
    )
    clip_quantile: float = setting(
        0.5,
        gt=0,
        lt=1,
        title="Clip quantile",
        description="fraction of the updates that adaptive clipping leaves unchanged",
        used_by=("clipped_mean", "dp_mean"),
    )
    zeroing: bool = setting(
        False,
        title="Zeroing",
        description="true: an update counts as zero if its largest entry is far larger than the other updates' entries",
        used_by=("clipped_mean",),
    )
    noise_multiplier: float = setting(
        1.0,
        gt=0,
        title="Noise multiplier",
        description="sd of the Gaussian noise on the sum of the updates, as a multiple of the clip norm",
        used_by=("dp_mean",),
    )
    delta: float = setting(
        1e-5,
        gt=0,
        lt=1,
        title="Delta",
        description="delta of the (epsilon, delta) guarantee; it must be below 1 / number of clients",
        used_by=("dp_mean",),
    )
    target_epsilon: float = setting(
        0.0,
        ge=0,
        title="Target epsilon",
        description="largest epsilon of a run, including the rounds of prune; a run that would spend more is refused; "
        "0: no limit",
        used_by=("dp_mean",),
    )
    quantization_bits: int = setting(
        8,
        ge=1,
        le=16,
        title="Quantisation bits",
        description="bits for each entry of an update",
        used_by=("compressed_mean",),
    )
