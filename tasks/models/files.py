"""Models on disk, as H5 files.

A file gives nothing but numbers. Keras 2's own loader runs the code that a Lambda layer in the file brings along,
whatever `safe_mode` says, and HDF5 loops for ever over some damaged files; models arrive through shared caches. So
neither of them reads a file: the model is built by its name, and the file must have the bytes that `save_model` would
write for it, everywhere but where the weights are.
"""

from pathlib import Path

from tensorflow.keras import Model

from tasks.errors import DataError, reading
from tasks.files import replacing
from tasks.models.building import build
from tasks.models.layout import Layout

_MADE_BY = {"global.h5": "federate", "pruned.h5": "prune"}
"""The step that makes each model of a workspace."""


def save_model(model: Model, path: Path) -> None:
    """Writes `model` as H5, whose bytes are the same for the same parameters, unlike `.keras` and SavedModel."""
    content = Layout(model).content
    with replacing(path) as fresh:
        fresh.write_bytes(content)


def load_model(path: Path, name: str, input_shape: tuple[int, ...], num_classes: int) -> Model:
    """Returns the model `name` with the weights in the H5 file `path`, which may be other than finite.

    Raises:
        DataError: there is no such file, it is damaged, or it is of another model; the step that makes it is named.
        SettingsError: see `build`.
    """
    model, step = build(name, input_shape, num_classes, seed=0), _MADE_BY.get(path.name, "that makes it")
    layout = Layout(model)
    if not path.exists():
        raise DataError(f"{path} is missing: run the step {step} first")
    wanted = (
        f"{path} must be federate.model {name} for examples {tuple(input_shape)} and {num_classes} classes "
        f"(run the step {step} again)"
    )
    with reading(wanted):
        with path.open("rb") as opened:
            content = opened.read(2 * len(layout.content) + _LONGEST_CONFIG)
        values = layout.values(content)
        if values is None:
            raise DataError(f"{wanted}, got {layout.difference(content)}")
    for place, value in zip(layout.variables, values, strict=True):
        place.variable.assign(value)
    return model


_LONGEST_CONFIG = 1 << 20
"""Bytes by which the description of the layers may make a file longer; what is longer still is not read to its end."""
