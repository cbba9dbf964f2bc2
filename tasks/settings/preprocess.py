"""`preprocess`: how a client prepares its own data before the first round."""

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
    """Random changes of the images of a batch, drawn anew in every local step."""

    flip: bool = setting(
        False, title="Flip", description="true: each image is mirrored left to right with probability 1/2"
    )
    brightness: float = setting(
        0.0,
        ge=0,
        le=1,
        title="Brightness",
        description="largest value that is added to or taken from all pixels of an image, as a fraction of the full "
        "range; drawn uniformly for each image; 0: none",
    )


class PreprocessSettings(Section):
    """How a client prepares its own data before the first round."""

    resize: Annotated[tuple[Annotated[Integer, Field(ge=1)], ...], BeforeValidator(_size)] = setting(
        (),
        max_length=2,
        title="Resize",
        description="height and width of the images, in pixels; one number: square; empty: images are not resized; "
        "pixels of 8-bit images are rounded to whole numbers from 0 to 255",
    )
    normalize: Literal["none", "global", "client"] = setting(
        "global",
        title="Normalise",
        description="global: each feature or channel gets mean 0 and sd 1 over all clients, computed from the "
        "clients' counts, means and squared deviations; client: over each client's own data; none: unchanged",
    )
    augment: AugmentSettings = setting(
        AugmentSettings(), title="Augment", description="random changes of the images during training"
    )

    @model_validator(mode="after")
    def _both_sides(self) -> "PreprocessSettings":
        if len(self.resize) == 1:
            raise ValueError(f"resize must be empty, one number or [height, width], got {list(self.resize)}")
        return self
