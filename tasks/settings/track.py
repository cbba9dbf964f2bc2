"""`track`: what MLflow gets."""

from pydantic import model_validator

from tasks.settings.base import Section, setting


class TrackSettings(Section):
    """What MLflow gets."""

    register_as: str = setting(
        "", title="Register as", description="name in MLflow's model registry for the models; empty: not registered"
    )

    @model_validator(mode="after")
    def _can_be_registered(self) -> "TrackSettings":
        if set(self.register_as) & set("/:") or self.register_as != self.register_as.strip():
            raise ValueError(f"register_as must hold no / or : and no space around it, got {self.register_as!r}")
        return self
