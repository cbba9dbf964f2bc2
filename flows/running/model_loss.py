"""The loss of the model of one run on the hold-out data of another, without a round of training."""

from contextlib import suppress

from tasks.clients import TEST, read_raw
from tasks.diagnose.compared.side import Side
from tasks.errors import UndriftError


def loss_of_model(of: Side, on: Side) -> float | None:
    """Returns the loss of the global model of `of` on the hold-out data of `on`, nats per example.

    None if it is not known: a file of the run is gone, the data have another form, or a logit is not finite.
    """
    from tasks.evaluate.metrics import cross_entropies
    from tasks.models import load_model, logits_of  # TensorFlow takes seconds to import
    from tasks.predict import Predictor, recipe_of

    if of.kind_of_data != on.kind_of_data:
        return None
    with suppress(UndriftError):
        recipe = recipe_of(of.settings, of.workspace)
        path = of.workspace / "models/global.h5"
        model = load_model(path, recipe.model, recipe.input_shape, len(recipe.classes))
        predictor = Predictor(recipe, logits_of(model, 256))
        x, y = read_raw(on.stored[TEST])
        losses = cross_entropies(y, predictor.logits(predictor.prepared(x)))
        return None if losses is None else float(losses.mean())
    return None
