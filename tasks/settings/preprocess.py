"""`preprocess`: what a client does to its own data before the first round."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from tasks.settings.base import Integer, Section, setting


def _size(value: Any) -> Any:
    if value is None:
        return ()
    if isinstance(value, int) and not isinstance(value, bool):
        return () if value == 0 else (value, value)
    return tuple(value) if isinstance(value, list) else value


class AugmentSettings(Section):
    """Random changes of a batch of images, drawn anew for every step of every round."""

    flip: bool = setting(False, title="Flip", description="mirror each image left to right with probability 1/2")
    brightness: float = setting(
        0.0,
        ge=0,
        le=1,
        title="Brightness",
        description="shift of each image's pixels ~ U(-b, b), a fraction of the full range; 0: none",
    )


class PreprocessSettings(Section):
    """What a client does to its own data before the first round."""

    resize: Annotated[tuple[Annotated[Integer, Field(ge=1)], ...], BeforeValidator(_size)] = setting(
        (),
        max_length=2,
        title="Resize",
        description="height and width of the images, pixels; empty: as they are; one number: square",
    )
    normalize: Literal["none", "global", "client"] = setting(
        "global",
        title="Normalise",
        description="to mean 0 and sd 1: by sums over all clients, by each client's own statistics, or not at all",
    )
    augment: AugmentSettings = setting(AugmentSettings(), title="Augment", description="random changes while training")

    @model_validator(mode="after")
    def _both_sides(self) -> "PreprocessSettings":
        if len(self.resize) == 1:
            raise ValueError(f"resize must be empty, one number or [height, width], got {list(self.resize)}")
        return self
