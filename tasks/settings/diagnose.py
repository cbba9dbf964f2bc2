"""`diagnose`: why the loss rose or is higher than it should be."""

from tasks.settings.base import Section, setting


class DiagnoseSettings(Section):
    """Whether the loss rose or is higher than it should be, and why."""

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
        "the end of the rise, or of the run's rounds if nothing rose; replays of remedies can take the same multiple "
        "of the run's rounds (each counts as at least 15); docs/diagnosis.md has the budget for two runs",
    )
