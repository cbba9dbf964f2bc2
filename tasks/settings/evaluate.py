"""`evaluate`: the final numbers."""

from tasks.settings.base import Section, setting


class EvaluateSettings(Section):
    """The final numbers."""

    batch_size: int = setting(256, ge=1, title="Batch size", description="examples predicted at a time")
