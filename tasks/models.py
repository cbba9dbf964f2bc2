"""Keras 2 models by name, what the federated round needs of one, and their H5 files.

Every model maps a batch (B, *input_shape) float32 to logits (B, C) float32.

A file gives nothing but numbers. Keras 2's own loader runs the code that a Lambda layer in the file brings along,
whatever `safe_mode` says, and HDF5 loops for ever over some damaged files; models arrive through shared caches. So
neither of them reads a file: the model is built by its name, and the file must have the bytes that `save_model` would
write for it, everywhere but where the weights are.
"""

import importlib
import json
import math
import re
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.keras import Model, Sequential, layers

from tasks.errors import DataError, SettingsError, UndriftError, one_line, reading
from tasks.files import replacing
from tasks.own_models import Say, check_compiled, check_layers, check_no_probabilities, giving_logits
from tasks.signals import number_of

Builder = Callable[..., Model]
"""(input_shape, num_classes), and `width=` for models that clients may train with fewer hidden units."""


def logistic(input_shape: tuple[int, ...], num_classes: int, width: float = 1.0) -> Model:
    """Multinomial logistic regression: one linear layer, which has no width."""
    del width
    return Sequential([layers.Input(input_shape), layers.Flatten(), layers.Dense(num_classes, name="logits")])


def mlp(input_shape: tuple[int, ...], num_classes: int, width: float = 1.0) -> Model:
    """McMahan 2017's 2NN: two hidden layers of 200 ReLU units."""
    units = _units(200, width)
    return Sequential(
        [
            layers.Input(input_shape),
            layers.Flatten(),
            layers.Dense(units, activation="relu", name="hidden_1"),
            *_scaler(width),
            layers.Dense(units, activation="relu", name="hidden_2"),
            *_scaler(width),
            layers.Dense(num_classes, name="logits"),
        ]
    )


def cnn(input_shape: tuple[int, ...], num_classes: int, width: float = 1.0) -> Model:
    """NIID-Bench's CNN: 5x5 convolutions of 6 and 16 channels, each with a 2x2 max-pool, then 120 and 84 ReLU units.

    The convolutions are unpadded as there; images below 16 pixels are padded, or nothing would be left of them.
    """
    _check_image("cnn", input_shape)
    padding = "valid" if min(input_shape[:2]) >= 16 else "same"
    return Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(_units(6, width), 5, padding=padding, activation="relu", name="conv_1"),
            *_scaler(width),
            layers.MaxPooling2D(2, padding=padding),
            layers.Conv2D(_units(16, width), 5, padding=padding, activation="relu", name="conv_2"),
            *_scaler(width),
            layers.MaxPooling2D(2, padding=padding),
            layers.Flatten(),
            layers.Dense(_units(120, width), activation="relu", name="hidden_1"),
            *_scaler(width),
            layers.Dense(_units(84, width), activation="relu", name="hidden_2"),
            *_scaler(width),
            layers.Dense(num_classes, name="logits"),
        ]
    )


def resnet8(input_shape: tuple[int, ...], num_classes: int, width: float = 1.0) -> Model:
    """He 2016's CIFAR ResNet with n = 1 (16, 32, 64 channels), GroupNorm of 8 groups in the place of BatchNorm.

    BatchNorm's running statistics belong to no client and are not averaged; Hsieh 2020 (arXiv 1910.00189) measures what
    that costs under label skew and finds that GroupNorm does not pay it. A narrower one needs channels in multiples
    of 8, and no scaler: the normalisation after each convolution undoes any.
    """
    _check_image("resnet8", input_shape)
    inputs = layers.Input(input_shape)
    x = _normalised(layers.Conv2D(_units(16, width), 3, padding="same", use_bias=False, name="stem")(inputs), "stem")
    x = layers.ReLU()(x)
    for stage, channels in enumerate((_units(n, width) for n in (16, 32, 64)), start=1):
        stride, name = (1 if stage == 1 else 2), f"stage_{stage}"
        y = layers.Conv2D(channels, 3, stride, "same", use_bias=False, name=f"{name}_conv_1")(x)
        y = layers.ReLU()(_normalised(y, f"{name}_1"))
        y = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"{name}_conv_2")(y)
        y = _normalised(y, f"{name}_2")
        if stride > 1:
            x = layers.Conv2D(channels, 1, stride, use_bias=False, name=f"{name}_shortcut")(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return Model(inputs, layers.Dense(num_classes, name="logits")(x))


def _units(num: int, width: float) -> int:
    """HeteroFL's ⌈width · n⌉; the rounding keeps 0.1 · 200 from being 21."""
    return math.ceil(round(num * width, 9))


def _scaler(width: float) -> list[layers.Layer]:
    """HeteroFL's Scaler (Diao 2021, section 3): fewer inputs give sums as large as those of the whole model."""
    return [layers.Rescaling(1 / width)] if width < 1 else []


def _normalised(x: tf.Tensor, name: str) -> tf.Tensor:
    return layers.GroupNormalization(groups=8, name=f"{name}_norm")(x)


def _check_image(model: str, input_shape: Sequence[int]) -> None:
    if len(input_shape) != 3:
        raise SettingsError(f"federate.model {model} needs images (height, width, channels), got {tuple(input_shape)}")


BUILDERS: dict[str, Builder] = {"logistic": logistic, "mlp": mlp, "cnn": cnn, "resnet8": resnet8}


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
        seed: of the initialisers; the same seed gives the same bits.
        width: share of the hidden units; below 1, the builder must take `width=`.
        say: gets what becomes of a user's own model, such as that its last softmax is left out.

    Raises:
        SettingsError: no such model; or the builder raises or leaves the process, gives no Sequential or functional
            Keras model from float32 or integer examples to float32 logits (or probabilities, whose last softmax or
            sigmoid is left out), or another model the second time; or the model holds what no round honours (see
            `own_models`), or cannot be saved as H5.
    """
    if name in BUILDERS:
        return _build(name, BUILDERS[name], input_shape, num_classes, seed, width, say)
    tf.keras.utils.set_random_seed(seed)
    builder = _load(name)
    first = _build(name, builder, input_shape, num_classes, seed, width, lambda sentence: None)
    again = _build(name, builder, input_shape, num_classes, seed, width, say)
    _check_same(name, first, again)
    check_no_probabilities(name, first)
    return again


def _build(
    name: str, builder: Builder, input_shape: tuple[int, ...], num_classes: int, seed: int, width: float, say: Say
) -> Model:
    tf.keras.utils.set_random_seed(seed)
    # Keras numbers unnamed layers through the whole process; their names are in the file and in the run's identity.
    tf.keras.backend.reset_uids()
    wanted = f"federate.model {name} must give a model for examples {tuple(input_shape)} and {num_classes} classes"
    if width != 1:
        wanted += f" of width {width:g} (federate.width)"
    with _foreign(wanted):
        model = builder(tuple(input_shape), num_classes, **({} if width == 1 else {"width": width}))
        if not isinstance(model, Model):
            raise SettingsError(f"federate.model {name} must return a tf.keras.Model, got {type(model).__name__}")
        if isinstance(model, Sequential) and not model.built:
            model.build((None, *input_shape))
        if model.inputs is None:  # a subclass, which Keras can save as H5 as one layer of a model
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
    """Numbers the variables of one layer that have the same name, as those that a user's own layer gives no name.

    HDF5 would refuse them. Keras finds them in the file by their order, so that it can load them all the same.
    """
    for layer in model.layers:
        found: dict[str, int] = {}
        for variable in (*layer.trainable_weights, *layer.non_trainable_weights):
            number = found[variable.name] = found.get(variable.name, -1) + 1
            if number:
                variable._handle_name = f"{variable.name.removesuffix(':0')}_{number}:0"


@contextmanager
def _foreign(wanted: str) -> Iterator[None]:
    """Raises what the user's code raises in the block as a SettingsError, an exit too; and takes its settings back.

    Ctrl-C and SIGTERM pass. A floating-point type or policy that it sets for all of Keras would reach later models.
    """
    before = tf.keras.backend.floatx(), tf.keras.mixed_precision.global_policy()
    try:
        with reading(wanted, SettingsError):
            yield
    except SystemExit as exc:
        if number_of(exc) is not None:
            raise
        raise SettingsError(f"{wanted}, got an exit with status {exc.code!r:.100}") from exc
    except BaseException as exc:  # a class of the user's own
        if isinstance(exc, UndriftError) or number_of(exc) is not None:
            raise
        raise SettingsError(f"{wanted}, got {one_line(exc)}") from exc
    finally:
        tf.keras.backend.set_floatx(before[0])
        tf.keras.mixed_precision.set_global_policy(before[1])


def _load(name: str) -> Builder:
    module_name, _, function = name.partition(":")
    wanted = f"federate.model {name} must name a function of a module that can be imported"
    with _foreign(wanted):
        _check_whose(name, module_name.partition(".")[0])
        module = importlib.import_module(module_name)
        builder = getattr(module, function, None)
    place = getattr(module, "__file__", None) or "which has no file"
    if builder is None:
        raise SettingsError(f"{wanted}, got no {function} in {module_name} ({place})")
    if not callable(builder):
        raise SettingsError(f"federate.model {name} must name a function, got {type(builder).__name__}")
    return builder  # type: ignore[no-any-return]


def _check_whose(name: str, top: str) -> None:
    """Refuses Python's own modules, and a module that hides the user's file of the same name, before its import.

    Python imports a name once, and its built-in modules before all files: a user's types.py is never read.
    """
    spec, loaded = PathFinder.find_spec(top), sys.modules.get(top)
    if loaded is not None:
        used = getattr(loaded, "__file__", None)
    else:
        used = spec.origin if spec is not None and top not in sys.builtin_module_names else None
    if spec is not None and spec.origin is not None and not _same_file(used, spec.origin):
        raise SettingsError(
            f"federate.model {name}: {spec.origin} cannot be imported, because Python has another module {top} "
            f"({used or 'built in'}): rename the file"
        )
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    if top in sys.stdlib_module_names and (used is None or Path(used).resolve().is_relative_to(standard)):
        raise SettingsError(f"federate.model {name} must name a module of yours, got {top} of Python's own")


def _same_file(one: str | None, other: str) -> bool:
    return one is not None and Path(one).resolve() == Path(other).resolve()


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
    """Refuses a model that cannot be saved, or that another process could not build again."""
    if again is first:
        raise SettingsError(f"federate.model {name} must make a new model in each call, got the same one again")
    with _foreign(f"federate.model {name} must give a model that Keras can save as H5"):
        saved, layout = _Layout(first).content, _Layout(again)
    values = layout.values(saved)
    if values is None:
        raise SettingsError(
            f"federate.model {name} must build the same layers in each call, got others the second time"
        )
    for one, value in zip(layout.variables, values, strict=True):
        if one.variable.numpy().tobytes() != value.tobytes():
            raise SettingsError(
                f"federate.model {name} must draw its parameters from the run's seed, got other values of "
                f"{one.variable.name} the second time: leave them to Keras's initialisers"
            )


def num_params(model: Model) -> int:
    """Returns P, the number of trainable parameters."""
    return sum(math.prod(variable.shape) for variable in model.trainable_weights)


# Where the models of a workspace come from.
_MADE_BY = {"global.h5": "federate", "pruned.h5": "prune"}


def save_model(model: Model, path: Path) -> None:
    """Writes `model` as H5, whose bytes are the same for the same parameters, unlike `.keras` and SavedModel."""
    content = _Layout(model).content
    with replacing(path) as fresh:
        fresh.write_bytes(content)


def load_model(path: Path, name: str, input_shape: tuple[int, ...], num_classes: int) -> Model:
    """Returns the model `name` with the weights in the H5 file `path`, which may be other than finite.

    Raises:
        DataError: there is no such file, it is damaged, or it is of another model; the step that makes it is named.
        SettingsError: see `build`.
    """
    model, step = build(name, input_shape, num_classes, seed=0), _MADE_BY.get(path.name, "that makes it")
    layout = _Layout(model)
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
    for one, value in zip(layout.variables, values, strict=True):
        one.variable.assign(value)
    return model


_LONGEST_CONFIG = 1 << 20
"""Bytes by which the description of the layers may make a file longer; what is longer still is not read to its end."""


@dataclass(frozen=True)
class _Variable:
    """One variable of a model, and where its values begin in the model's file."""

    variable: tf.Variable
    begin: int
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return math.prod(self.variable.shape)

    @property
    def end(self) -> int:
        return self.begin + self.size * self.dtype.itemsize


class _Layout:
    """A model's H5 file, and where the values of its variables are in there."""

    def __init__(self, model: Model) -> None:
        # In memory, by HDF5's own driver: with a BytesIO it would put things elsewhere than in a file on disk.
        with h5py.File("memory", "w", driver="core", backing_store=False) as file, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You are saving your model as an HDF5 file")
            tf.keras.models.save_model(model, file, save_format="h5", include_optimizer=False)
            file.flush()
            self.variables = []
            for layer in model.layers:
                for variable in (*layer.trainable_weights, *layer.non_trainable_weights):
                    data = file["model_weights"][layer.name][variable.name]
                    self.variables.append(_Variable(variable, data.id.get_offset() or 0, data.dtype))
            self.content: bytes = file.id.get_file_image()
        self._model = model

    def values(self, content: bytes) -> "list[NDArray[Any]] | None":
        """Returns the variables' values in the file `content`, or None if the file is not of this model."""
        layout = self
        if not layout._agrees(content):
            if not any(isinstance(layer, layers.Lambda) for layer in self._model._flatten_layers()):
                return None
            # A Lambda's code holds the path of the module that it stands in, which is another one in another clone.
            theirs = _config(content)
            if theirs is None or _without_code(theirs) != _without_code(_config(self.content)):
                return None
            layout = _layout_with(self._model, theirs["config"])
            if not layout._agrees(content):
                return None
        return [
            np.frombuffer(content, one.dtype, one.size, one.begin).reshape(one.variable.shape)
            for one in layout.variables
        ]

    def difference(self, content: bytes) -> str:
        """Returns what is wrong with the file `content`, for a message."""
        if not content.startswith(_SIGNATURE):
            return "a file that is no HDF5" if content else "an empty file"
        theirs = _config(content)
        if theirs is not None and _without_code(theirs) != _without_code(_config(self.content)):
            return "another model"
        return "a file that is damaged, or written by other versions of TensorFlow or h5py"

    def _agrees(self, content: bytes) -> bool:
        """Returns whether `content` differs from the model's own file in nothing but the values."""
        if len(content) != len(self.content):
            return False
        begin = 0
        for one in sorted(self.variables, key=lambda each: each.begin):
            if one.size and content[begin : one.begin] != self.content[begin : one.begin]:
                return False
            begin = max(begin, one.end)
        return content[begin:] == self.content[begin:]


def _layout_with(model: Model, config: Any) -> _Layout:
    """Returns the layout of the file of `model` with another description of its layers, which is only written."""
    model.get_config = lambda: config
    try:
        return _Layout(model)
    finally:
        del model.get_config


_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CONFIG = re.compile(rb'\{"class_name": "\w+", "config": ')


def _config(content: bytes) -> Any:
    """Returns the description of a model's layers in its H5 file, as plain JSON; None if there is none."""
    found = _CONFIG.search(content)
    try:
        return json.JSONDecoder().raw_decode(content[found.start() :].decode("latin-1"))[0] if found else None
    except (ValueError, RecursionError):
        return None


def _without_code(config: Any) -> Any:
    """Returns a model's description without the code of its Lambda layers."""
    if isinstance(config, list):
        return [_without_code(each) for each in config]
    if not isinstance(config, dict):
        return config
    inner = {key: _without_code(value) for key, value in config.items()}
    if inner.get("class_name") == "Lambda" and isinstance(inner.get("config"), dict):
        inner["config"] = {key: value for key, value in inner["config"].items() if key not in _CODE}
    return inner


_CODE = ("function", "mask", "output_shape")
