"""One image file of any format and mode: its size and mode, and its pixels as numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tasks.arrays import Features
from tasks.datasets.checks import check_memory
from tasks.errors import DataError, reading

if TYPE_CHECKING:
    from PIL import Image

# Only these decoders are tried, for any file name: Pillow's EPS decoder would start Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
FULL_SCALE = {"1", "L", "LA", "RGB", "RGBA", "I;16"}
"""Pillow's modes that are kept if all images have the same one."""
CHANNELS = {"LA": 2, "RGB": 3, "RGBA": 4, "colour": 3}
"""Number of channels by the result of `target`; all others have one."""
DEEP = {"I;16", "I;16B", "I;16L", "I"}
"""Modes with 16 bits per pixel. `I` is one only in PPM, for which Pillow scales to 65535."""

Sort = Literal["grey", "colour", "numbers"]
"""`numbers` are 32-bit integers or floats, for which the value of white is unknown."""
SORTS: dict[str, Sort] = {
    **dict.fromkeys(("1", "L", "LA", "La", "I;16", "I;16B", "I;16L"), "grey"),
    **dict.fromkeys(("RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "P", "PA"), "colour"),
    **dict.fromkeys(("I", "F"), "numbers"),
}
"""Pillow's modes that are read, and the sort of each. A palette of greys only is grey (see `_sort`)."""


@dataclass(frozen=True, slots=True)
class Header:
    """An image before it is decoded: (height, width), Pillow's mode, the sort, and whether it has transparency."""

    size: tuple[int, int]
    mode: str
    sort: Sort
    transparent: bool

    @property
    def is_bytes(self) -> bool:
        """Whether a value has at most 8 bits."""
        return self.mode not in DEEP and self.sort != "numbers"


def header(path: Path) -> Header:
    """Returns the header of the image at `path`.

    Raises:
        DataError: the file is no image of FORMATS, its mode is not read, or it has several frames.
    """
    with reading(_whole(path)), _opened(path) as image:
        # A camera's MPO is a JPEG whose first frame is the photograph; previews or a second view follow.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        mode = image.mode
        size, transparent = (image.height, image.width), image.has_transparency_data and mode not in DEEP
        sort = _sort(image)
    if frames != 1:
        raise DataError(f"{path} must be one image, got {frames} frames: save each frame as a file of its own")
    if sort is None:
        raise DataError(f"{path} must be an image of mode {', '.join(SORTS)}, got mode {mode}: save it as RGB")
    return Header(size, mode, sort, transparent)


def target(headers: Sequence[Header], paths: Sequence[Path]) -> str:
    """Returns the form of all images: their mode if it is the same and in FULL_SCALE, or else a `Sort`.

    Raises:
        DataError: some images are `numbers` and others are not.
    """
    mode = headers[0].mode
    if mode in FULL_SCALE and all(each.mode == mode for each in headers):
        return mode
    sorts = {each.sort for each in headers}
    if "numbers" in sorts and len(sorts) > 1:
        at = next(at for at, each in enumerate(headers) if each.sort == "numbers")
        other = next(each.mode for each in headers if each.sort != "numbers")
        raise DataError(
            f"{paths[at]} must have 8 or 16 bits a channel as images of mode {other} do, got mode {headers[at].mode}, "
            "32-bit numbers: save all images with 8 or 16 bits a channel, or all with 32"
        )
    if sorts == {"grey"}:
        return "grey"
    return "numbers" if "numbers" in sorts else "colour"


def pixels(path: Path, wanted: str) -> Features:
    """Returns the image at `path` as (H, W, C): 1 and 8 bits as uint8, 16 bits in [0, 1], `numbers` unchanged.

    `wanted` is the result of `target`. For `grey` (C = 1) and `colour` (C = 3), transparent areas become white. Images
    of 1 bit become 0 and 255.

    Raises:
        DataError: the file is damaged, or has a number that is not finite.
    """
    with reading(_whole(path)), _opened(path) as image:
        # 5 bytes: a byte and a float32. An image within Pillow's own limit of pixels can be too large for this machine.
        check_memory(5 * image.width * image.height * CHANNELS.get(wanted, 1), str(path))
        x = _values(image, wanted)
    if wanted == "numbers" and not np.isfinite(x).all():
        raise DataError(f"{path} must hold finite numbers, got nan or infinity")
    if x.ndim == 2:
        x = x[..., np.newaxis]
    match wanted:
        case "grey":
            return x[..., :1]
        case "colour" if x.shape[2] == 1:  # 16 bits, which are grey
            return x.repeat(3, axis=2)
        case _:
            return x


def _opened(path: Path) -> "Image.Image":
    from PIL import Image

    try:
        return Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as exc:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise DataError(
            f"{path} must be a whole image of at most {limit} pixels, got more: save it smaller, or in pieces"
        ) from exc


def _whole(path: Path) -> str:
    return f"{path} must be a whole image ({', '.join(FORMATS)})"


def _sort(image: "Image.Image") -> Sort | None:
    if image.mode == "I" and image.format == "PPM":
        return "grey"
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette()).reshape(-1, 3)
        return "grey" if (palette == palette[:, :1]).all() else "colour"
    return SORTS.get(image.mode)


def _values(image: "Image.Image", wanted: str) -> Features:
    if wanted == "numbers":
        return np.asarray(image).astype(np.float32)
    if image.mode in DEEP:
        return np.asarray(image).astype(np.float32) / np.float32(65535)
    raw = np.asarray(image if wanted in FULL_SCALE else _on_white(image))
    return raw.astype(np.uint8) * np.uint8(255) if raw.dtype == np.bool_ else raw.astype(np.uint8, copy=False)


def _on_white(image: "Image.Image") -> "Image.Image":
    """Returns the image as RGB on white. Pillow's own conversion shows the hidden colour of transparent areas."""
    from PIL import Image

    if image.has_transparency_data:
        if image.mode in ("La", "RGBa"):  # the colours are multiplied by alpha
            image = image.convert(image.mode.upper())
        whole = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
    return image.convert("RGB")
