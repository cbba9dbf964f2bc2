"""`federate.model: module:function`: every error of a builder is one line that names the setting."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from tasks.errors import SettingsError

ROOT = Path(__file__).parents[1]
SHAPE, CLASSES = (4, 4, 1), 3
BUILDERS = """
import itertools
import sys

import numpy as np
import tensorflow as tf
from tensorflow.keras import Model, Sequential, layers

count = itertools.count()
unseeded = np.random.default_rng()


def dense(input_shape, num_classes, **chosen):
    return Sequential([layers.Input(input_shape), layers.Flatten(), layers.Dense(num_classes, **chosen)])


def raises(input_shape, num_classes):
    raise RuntimeError("two\\nlines")


def recurses(input_shape, num_classes):
    return recurses(input_shape, num_classes)


def leaves(input_shape, num_classes):
    sys.exit(0)


def leaves_with_words(input_shape, num_classes):
    sys.exit("good bye")


class Odd(BaseException):
    pass


class Speechless(Exception):
    def __str__(self):
        raise ValueError


def raises_what_is_no_exception(input_shape, num_classes):
    raise Odd("odd")


def raises_what_cannot_be_shown(input_shape, num_classes):
    raise Speechless


def nothing(input_shape, num_classes):
    pass


def layer(input_shape, num_classes):
    return layers.Dense(num_classes)


def without_arguments():
    return dense((4, 4, 1), 3)


def other_input(input_shape, num_classes):
    return dense((4, 5, 1), num_classes)


def fixed_batch(input_shape, num_classes):
    return Sequential([layers.Input(input_shape, batch_size=20), layers.Flatten(), layers.Dense(num_classes)])


def any_size(input_shape, num_classes):
    inputs = layers.Input((None, None, 1))
    return Model(inputs, layers.Dense(num_classes)(layers.GlobalAveragePooling2D()(inputs)))


def other_output(input_shape, num_classes):
    return dense(input_shape, num_classes + 1)


def two_inputs(input_shape, num_classes):
    inputs = [layers.Input(input_shape), layers.Input(input_shape)]
    return Model(inputs, layers.Dense(num_classes)(layers.Flatten()(layers.Add()(inputs))))


def two_outputs(input_shape, num_classes):
    inputs = layers.Input(input_shape)
    x = layers.Flatten()(inputs)
    return Model(inputs, [layers.Dense(num_classes)(x), layers.Dense(num_classes)(x)])


def named_outputs(input_shape, num_classes):
    inputs = layers.Input(input_shape)
    return Model(inputs, {"logits": layers.Dense(num_classes)(layers.Flatten()(inputs))})


def float64(input_shape, num_classes):
    return dense(input_shape, num_classes, dtype="float64")


def float64_for_all(input_shape, num_classes):
    tf.keras.backend.set_floatx("float64")
    return dense(input_shape, num_classes)


def half_of_it_float64(input_shape, num_classes):
    inputs = layers.Input(input_shape)
    x = layers.Dense(5, dtype="float64")(layers.Flatten()(inputs))
    return Model(inputs, layers.Dense(num_classes)(tf.cast(x, tf.float32)))


def mixed_precision(input_shape, num_classes):
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    return dense(input_shape, num_classes)


def mixed_precision_inside(input_shape, num_classes):
    hidden = layers.Dense(5, dtype="mixed_bfloat16")
    return Sequential([layers.Input(input_shape), layers.Flatten(), hidden, layers.Dense(num_classes, dtype="float32")])


MODEL = dense((4, 4, 1), 3)


def the_same_again(input_shape, num_classes):
    return MODEL


def wider_each_time(input_shape, num_classes):
    hidden = layers.Dense(2 + next(count))
    return Sequential([layers.Input(input_shape), layers.Flatten(), hidden, layers.Dense(num_classes)])


def new_names_each_time(input_shape, num_classes):
    return dense(input_shape, num_classes, name=f"dense_{next(count)}")


def draws_by_itself(input_shape, num_classes):
    model = dense(input_shape, num_classes)
    model.set_weights([unseeded.normal(size=w.shape) for w in model.get_weights()])
    return model


def draws_from_numpy(input_shape, num_classes):
    model = dense(input_shape, num_classes)
    model.set_weights([np.random.normal(size=w.shape) for w in model.get_weights()])
    return model


class Scale(layers.Layer):
    def build(self, input_shape):
        self.scale = self.add_weight("scale", (1,))

    def call(self, x):
        return x * self.scale


def layer_of_ones_own(input_shape, num_classes):
    return Sequential([layers.Input(input_shape), layers.Flatten(), Scale(), layers.Dense(num_classes)])


class Holds(layers.Layer):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)


def cannot_be_described(input_shape, num_classes):
    return Sequential([layers.Input(input_shape), layers.Flatten(), Holds(layers.Dense(5)), layers.Dense(num_classes)])
"""


@pytest.fixture
def builders(tmp_path, monkeypatch):
    """Returns a function that writes a module, given its name and text, to a place where Python finds it."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(name, text):
        assert name not in written
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)
        return name

    before = dict(sys.modules)
    yield write
    for name in written:
        sys.modules.pop(name, None)
        if name in before:
            sys.modules[name] = before[name]


def refusal(name):
    """Returns the error of `build` for a model; it must be one line that names the setting."""
    import tensorflow as tf

    from tasks.models import build

    with pytest.raises(SettingsError) as caught:
        build(name, SHAPE, CLASSES, seed=0)
    said = str(caught.value)
    assert said.startswith(f"federate.model {name}")
    assert "\n" not in said
    assert tf.keras.backend.floatx() == "float32"
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    return said


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("raises", "must give a model for examples (4, 4, 1) and 3 classes, got RuntimeError: two lines"),
        ("recurses", "got RecursionError"),
        ("leaves", "got an exit with status 0"),
        ("leaves_with_words", "got an exit with status 'good bye'"),
        ("raises_what_is_no_exception", "got Odd: odd"),
        ("raises_what_cannot_be_shown", "got Speechless"),
        ("nothing", "must return a tf.keras.Model, got NoneType"),
        ("layer", "must return a tf.keras.Model, got Dense"),
        ("without_arguments", "got TypeError"),
        ("other_input", "must take examples (None, 4, 4, 1), got (None, 4, 5, 1)"),
        ("fixed_batch", "must take examples (None, 4, 4, 1), got (20, 4, 4, 1)"),
        ("any_size", "must take examples (None, 4, 4, 1), got (None, None, None, 1)"),
        ("two_inputs", "must take examples (None, 4, 4, 1), got [(None, 4, 4, 1), (None, 4, 4, 1)]"),
        ("other_output", "must give logits (None, 3), got (None, 4)"),
        ("two_outputs", "must give logits (None, 3), got [(None, 3), (None, 3)]"),
        ("named_outputs", "must give logits (None, 3), got {'logits': (None, 3)}"),
        ("float64", "must compute in float32 throughout, got logits in float64"),
        ("float64_for_all", "must compute in float32 throughout, got examples in float64"),
        ("half_of_it_float64", "must compute in float32 throughout, got the parameter dense/kernel:0 in float64"),
        ("mixed_precision", "must compute in float32 throughout, got logits in float16"),
        ("mixed_precision_inside", "must compute in float32 throughout, got the layer dense in bfloat16"),
        ("the_same_again", "must make a new model in each call"),
        ("wider_each_time", "must build the same layers in each call"),
        ("new_names_each_time", "must build the same layers in each call"),
        ("draws_by_itself", "must draw its parameters from the run's seed, got other values of dense/kernel:0"),
        ("cannot_be_described", "must give a model that Keras can save as H5, got NotImplementedError: Layer Holds"),
    ],
)
def test_a_builder_that_cannot_be_used_is_one_line(builders, function, says):
    assert says in refusal(f"{builders('odd_models', BUILDERS)}:{function}")


def test_a_layer_of_ones_own_is_taken_and_its_weights_come_back_from_the_file(builders, tmp_path):
    """Keras cannot load the file without the layer's class, but only the weights are read from it."""
    from tasks.models import build, load_model, save_model

    name = f"{builders('odd_models', BUILDERS)}:layer_of_ones_own"
    saved = build(name, SHAPE, CLASSES, seed=3)
    save_model(saved, tmp_path / "global.h5")
    loaded = load_model(tmp_path / "global.h5", name, SHAPE, CLASSES)
    for one, other in zip(saved.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_builder_may_draw_from_the_global_generators_that_the_run_seeds(builders):
    from tasks.models import build

    name = f"{builders('odd_models', BUILDERS)}:draws_from_numpy"
    one, again, other = (build(name, SHAPE, CLASSES, seed).get_weights()[0].tolist() for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def model(:", "got SyntaxError: "),
        ("import no_such_package", "got ModuleNotFoundError: No module named 'no_such_package'"),
        ("raise OSError('on import')", "got OSError: on import"),
        ("import sys; sys.exit(0)", "got an exit with status 0"),
        ("\0", "cannot contain null bytes"),
        ("def other(): pass", "got no model in broken_models ("),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(builders, text, says):
    said = refusal(f"{builders('broken_models', text)}:model")
    assert "must name a function of a module that can be imported" in said
    assert says in said


@pytest.mark.parametrize("name", ["json:loads", "os.path:join", "antigravity:fly", "math:hypot", "sys:exit"])
def test_a_module_of_python_s_own_is_refused_and_not_imported(name):
    """The import of antigravity opens a browser."""
    top = name.split(".")[0].split(":")[0]
    assert f"must name a module of yours, got {top} of Python's own" in refusal(name)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("module", ["types", "time", "yaml", "tasks"])
def test_a_file_that_another_module_of_its_name_hides_is_named(builders, module, tmp_path):
    """types and yaml are already imported, and time is built in."""
    __import__(module)
    said = refusal(f"{builders(module, BUILDERS)}:dense")
    assert f"{tmp_path / module}.py cannot be imported, because Python has another module {module} (" in said
    assert said.endswith("): rename the file")


WAITING = """
import pathlib, time
from tensorflow.keras import Sequential, layers


def waits(input_shape, num_classes):
    pathlib.Path("waiting").touch()
    time.sleep(60)


def leaves(input_shape, num_classes):
    raise SystemExit(0)
"""


@pytest.fixture
def workspace(tmp_path, make_clients):
    """Returns (function) -> a workspace whose `federate.model` is this function of its waiting_models.py."""

    def make(function):
        make_clients().write(tmp_path)
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        params["federate"]["model"] = f"waiting_models:{function}"
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        (tmp_path / "waiting_models.py").write_text(WAITING)
        return tmp_path

    return make


def command(folder):
    return subprocess.Popen(
        [sys.executable, "-m", "tasks", "federate"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_builder_that_leaves_the_process_ends_the_command_with_status_2(workspace):
    folder = workspace("leaves")
    done = command(folder)
    out, err = done.communicate(timeout=120)
    assert (done.returncode, out) == (2, ""), err
    assert err.startswith("error: federate.model waiting_models:leaves must give a model")
    assert len(err.splitlines()) == 1
    assert not (folder / "models").exists()
    assert not (folder / "reports").exists()


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        pytest.param(signal.SIGINT, 130, "interrupted\n", id="int", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "", id="term"),
    ],
)
def test_a_signal_inside_a_builder_stays_a_signal(workspace, sent, status, said):
    folder = workspace("waits")
    running = command(folder)
    until = time.monotonic() + 100
    while not (folder / "waiting").exists():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    running.send_signal(sent)
    assert running.communicate(timeout=60) == ("", said)
    assert running.returncode == status
