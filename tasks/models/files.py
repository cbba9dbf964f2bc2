"""Models on disk, as H5 files.

Models arrive through shared caches, so only numbers are read from a file. Keras 2's own loader runs the code of a
Lambda layer in the file, whatever `safe_mode` is, and HDF5 loops for ever on some damaged files. So neither of them
reads a file. The model is built by its name, and outside of the weights the file must have exactly the bytes that
`save_model` would write for it.
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
    """Writes `model` as H5. Unlike `.keras` and SavedModel, equal parameters give equal bytes."""
    content = Layout(model).content
    with replacing(path) as fresh:
        fresh.write_bytes(content)


def load_model(path: Path, name: str, input_shape: tuple[int, ...], num_classes: int) -> Model:
    """Returns the model `name` with the weights in the H5 file `path`. The weights can be NaN or infinite.

    Raises:
        DataError: the file is missing, damaged, or of another model. The error names the step that writes it.
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
"""Bytes that are read of a file, in addition to twice the length of the model's own file: another description of the
layers can make a file longer."""
