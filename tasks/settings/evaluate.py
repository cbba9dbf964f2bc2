"""`evaluate`: the final scores of the models."""

from tasks.settings.base import Section, setting


class EvaluateSettings(Section):
    """The final scores of the models."""

    batch_size: int = setting(
        256, ge=1, title="Batch size", description="examples that are predicted at the same time; more need more memory"
    )
    baselines: bool = setting(
        False,
        title="Baselines",
        description="true: also train a model on all data in one place, and one for each client alone, and say for "
        "which clients the federation pays; takes about two to three times as long as the training",
    )
