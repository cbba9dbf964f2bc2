"""`track`: what is logged to MLflow."""

from pydantic import model_validator

from tasks.settings.base import Section, setting


class TrackSettings(Section):
    """What is logged to MLflow."""

    register_as: str = setting(
        "",
        title="Register as",
        description="name of the global model in MLflow's model registry; the pruned model gets this name and -pruned; "
        "empty: no model is registered",
    )
    promote: bool = setting(
        False,
        title="Promote",
        description="true: the registered version gets the alias champion if (1) its hold-out loss is not worse than "
        "the champion's beyond noise, (2) the worst client's accuracy has not fallen, and (3) the diagnosis found "
        "nothing; else the version says why not",
    )

    @model_validator(mode="after")
    def _can_be_registered(self) -> "TrackSettings":
        if set(self.register_as) & set("/:") or self.register_as != self.register_as.strip():
            raise ValueError(f"register_as must hold no / or : and no space around it, got {self.register_as!r}")
        if self.promote and not self.register_as:
            raise ValueError("promote needs a registered model, got no register_as: set track.register_as to its name")
        return self
