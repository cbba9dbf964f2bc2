"""`diagnose`: why the loss went up."""

from tasks.settings.base import Section, setting


class DiagnoseSettings(Section):
    """Did the loss rise, when, who drifted, and why."""

    significance: float = setting(
        0.01, gt=0, lt=1, title="Significance", description="probability of calling a rise where there is only noise"
    )
    budget: float = setting(
        3.0,
        gt=0,
        title="Budget",
        description="rounds that the replays may take, over those that they explain (at least 15)",
    )
