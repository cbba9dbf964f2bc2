"""`diagnose`: why the loss rose."""

from tasks.settings.base import Section, setting


class DiagnoseSettings(Section):
    """Whether the loss rose, in which round, and why."""

    significance: float = setting(
        0.01,
        gt=0,
        lt=1,
        title="Significance",
        description="probability of a false alarm: a rise is reported although the loss varies by noise alone",
    )
    budget: float = setting(
        3.0,
        gt=0,
        title="Budget",
        description="rounds that the replays for causes can take, as a multiple of the rounds from their start to "
        "the end of the rise; replays of remedies can take the same multiple of the run's rounds (both are counted as "
        "at least 15)",
    )
