"""A saved Keras model as a function from examples to logits."""

from pathlib import Path

from tasks.arrays import LogitsOf
from tasks.clients import Form
from tasks.scrub import scrubbing


def load_logits(path: Path, name: str, form: Form, batch_size: int) -> LogitsOf:
    """Returns the model `name` with the weights in the H5 file `path`, computing `batch_size` examples at a time.

    Raises:
        DataError: the file is missing, is damaged, or holds another model.
        SettingsError: there is no model `name`, or it cannot be built.
    """
    # Here, because TensorFlow takes 4 s, and metrics and pictures need none.
    from tasks.models import load_model, logits_of

    predicted = logits_of(load_model(path, name, form.input_shape, form.num_classes), batch_size)
    return lambda x: scrubbing(f"{path} failed on the data", lambda: predicted(x))
