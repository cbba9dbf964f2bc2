"""Builds a model by its name, with parameters drawn from a seed, and checks a user's own model."""

import math

import tensorflow as tf
from tensorflow.keras import Model, Sequential, layers

from tasks.errors import SettingsError
from tasks.models.builders import BUILDERS, Builder
from tasks.models.layout import Layout
from tasks.models.own import Say, check_compiled, check_layers, check_no_probabilities, giving_logits
from tasks.models.users_code import foreign, load_builder


def build(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    seed: int,
    width: float = 1.0,
    say: Say = lambda sentence: None,
) -> Model:
    """Returns the model `name` with parameters drawn from `seed`.

    Args:
        name: a key of BUILDERS, or `module:function` of a builder `(input_shape, num_classes) -> tf.keras.Model`.
        input_shape: shape of one example, without the batch.
        num_classes: C, the number of logits.
        seed: seed of the initialisers. The same seed gives the same bits.
        width: share of the hidden units. Below 1, the builder must take `width=`.
        say: called with each change of a user's own model, such as that its last softmax is left out.

    Raises:
        SettingsError: (1) there is no such model; (2) the builder raises or exits; (3) it returns no Keras model from
            float32 or integer examples to float32 logits (or to probabilities, if a softmax or sigmoid comes last,
            which is left out); (4) it returns another model the second time; (5) the model needs something that a round
            does not do (see own.py); (6) it cannot be saved as H5.
    """
    if name in BUILDERS:
        return _build(name, BUILDERS[name], input_shape, num_classes, seed, width, say)
    tf.keras.utils.set_random_seed(seed)
    builder = load_builder(name)
    first = _build(name, builder, input_shape, num_classes, seed, width, lambda sentence: None)
    again = _build(name, builder, input_shape, num_classes, seed, width, say)
    _check_same(name, first, again)
    check_no_probabilities(name, first)
    return again


def _build(
    name: str, builder: Builder, input_shape: tuple[int, ...], num_classes: int, seed: int, width: float, say: Say
) -> Model:
    tf.keras.utils.set_random_seed(seed)
    # Keras numbers unnamed layers over the whole process. Their names are in the file and in the run's identity.
    tf.keras.backend.reset_uids()
    wanted = f"federate.model {name} must give a model for examples {tuple(input_shape)} and {num_classes} classes"
    if width != 1:
        wanted += f" of width {width:g} (federate.width)"
    with foreign(wanted):
        model = builder(tuple(input_shape), num_classes, **({} if width == 1 else {"width": width}))
        if not isinstance(model, Model):
            raise SettingsError(f"federate.model {name} must return a tf.keras.Model, got {type(model).__name__}")
        if isinstance(model, Sequential) and not model.built:
            model.build((None, *input_shape))
        if model.inputs is None:  # a subclassed model: Keras saves it as H5 only as a layer of another model
            inputs = layers.Input(input_shape)
            model = Model(inputs, model(inputs), name=f"{model.name}_whole")
        _check_shapes(name, model, tuple(input_shape), num_classes)
        if name not in BUILDERS:
            check_layers(name, model)
            check_compiled(name, model, say)
            model = giving_logits(name, model, num_classes, say)
            _name_apart(model)
    return model


def _name_apart(model: Model) -> None:
    """Numbers the variables of one layer that have the same name, such as unnamed ones in a user's own layer.

    HDF5 refuses equal names. Keras finds variables in the file by their order, so it loads the numbered ones too.
    """
    for layer in model.layers:
        numbers: dict[str, int] = {}
        for variable in (*layer.trainable_weights, *layer.non_trainable_weights):
            number = numbers[variable.name] = numbers.get(variable.name, -1) + 1
            if number:
                variable._handle_name = f"{variable.name.removesuffix(':0')}_{number}:0"


def _check_shapes(name: str, model: Model, input_shape: tuple[int, ...], num_classes: int) -> None:
    if not model.trainable_weights:
        raise SettingsError(f"federate.model {name} must have trainable parameters, got none")
    if len(model.inputs) != 1 or tuple(model.input_shape) != (None, *input_shape):
        raise SettingsError(
            f"federate.model {name} must take examples (None, {', '.join(map(str, input_shape))}), "
            f"got {model.input_shape}"
        )
    allowed = [(None, num_classes), *([(None, 1)] if num_classes == 2 else [])]
    if len(model.outputs) != 1 or model.output_shape not in allowed:
        said = " or ".join(map(str, allowed))
        raise SettingsError(f"federate.model {name} must give logits {said}, got {model.output_shape}")
    types = {
        **({"examples": model.inputs[0].dtype} if model.inputs[0].dtype.is_floating else {}),
        "logits": model.outputs[0].dtype,
        **{f"the parameter {weight.name}": weight.dtype for weight in model.weights if weight.dtype.is_floating},
        **{
            f"the layer {layer.name}": tf.as_dtype(layer.compute_dtype)
            for layer in model._flatten_layers()
            if tf.as_dtype(layer.compute_dtype or "float32").is_floating
        },
    }
    for what, dtype in types.items():
        if dtype != tf.float32:
            raise SettingsError(f"federate.model {name} must compute in float32 throughout, got {what} in {dtype.name}")


def _check_same(name: str, first: Model, again: Model) -> None:
    """Refuses a model that cannot be saved, or that the builder does not build again with the same bits."""
    if again is first:
        raise SettingsError(f"federate.model {name} must make a new model in each call, got the same one again")
    with foreign(f"federate.model {name} must give a model that Keras can save as H5"):
        saved, layout = Layout(first).content, Layout(again)
    values = layout.values(saved)
    if values is None:
        raise SettingsError(
            f"federate.model {name} must build the same layers in each call, got other layers the second time"
        )
    for place, value in zip(layout.variables, values, strict=True):
        if place.variable.numpy().tobytes() != value.tobytes():
            raise SettingsError(
                f"federate.model {name} must draw its parameters from the run's seed, got other values of "
                f"{place.variable.name} the second time: leave them to Keras's initialisers"
            )


def num_params(model: Model) -> int:
    """Returns P, the number of trainable parameters."""
    return sum(math.prod(variable.shape) for variable in model.trainable_weights)
