import sys

import numpy as np
import pytest

from tasks.errors import SettingsError
from tasks.federate.validation import build_validation
from tasks.models import BUILDERS, build, num_params
from tasks.parameters import assign, flatten, prunable
from tasks.settings import FederateSettings

OWN_MODELS = """
import tensorflow as tf
from tensorflow.keras import Sequential, layers


def small(input_shape, num_classes):
    return Sequential([layers.Flatten(), layers.Dense(5, activation="tanh"), layers.Dense(num_classes)])


def _with(*extra):
    def model(input_shape, num_classes):
        return Sequential([layers.Input(input_shape), *[layer() for layer in extra], layers.Flatten(),
                           layers.Dense(num_classes)])
    return model


batch_norm = _with(lambda: layers.BatchNormalization(name="bn"))
sync_batch_norm = _with(lambda: layers.BatchNormalization(synchronized=True, name="bn"))
nested_batch_norm = _with(lambda: Sequential([layers.BatchNormalization(name="bn")]))


def too_many(input_shape, num_classes):
    return Sequential([layers.Input(input_shape), layers.Flatten(), layers.Dense(num_classes + 1)])


def not_flat(input_shape, num_classes):
    return Sequential([layers.Input(input_shape), layers.Dense(num_classes)])


def nothing_to_train(input_shape, num_classes):
    return Sequential([layers.Input(input_shape), layers.Flatten(), layers.Lambda(lambda x: x[:, :num_classes])])


def _ends_in(activation):
    def model(input_shape, num_classes):
        return Sequential([layers.Input(input_shape), layers.Flatten(),
                           layers.Dense(num_classes, activation, name="out")])
    return model


ends_in_relu, ends_in_sigmoids = _ends_in("relu"), _ends_in("sigmoid")


class Shares(layers.Layer):
    def call(self, x):
        return tf.exp(x) / tf.reduce_sum(tf.exp(x), axis=1, keepdims=True)


def hidden_softmax(input_shape, num_classes):
    return Sequential([layers.Input(input_shape), layers.Flatten(), layers.Dense(num_classes), Shares()])


def a_number(input_shape, num_classes):
    return 3


CONSTANT = 3
"""


@pytest.fixture
def own_models(tmp_path, monkeypatch):
    (tmp_path / "our_models.py").write_text(OWN_MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "our_models"
    sys.modules.pop("our_models", None)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)], ids=str)
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_built_in_model_gives_finite_logits(name, shape):
    model = build(name, shape, 7, seed=0)
    x = np.random.default_rng(0).random((5, *shape), dtype=np.float32)
    logits = model(x).numpy()
    assert logits.shape == (5, 7)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    # Not a softmax: its rows would add up to 1.
    assert np.abs(logits.sum(axis=1) - 1).min() > 1e-3


def test_settings_allow_exactly_the_built_in_names_and_module_function():
    for name in BUILDERS:
        FederateSettings(model=name)
    for wrong in ("lenet", "our_models", "our models:small", ""):
        with pytest.raises(ValueError, match="model"):
            FederateSettings(model=wrong)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("logistic", (8, 8, 1), 64 * 10 + 10),
        ("logistic", (5,), 5 * 10 + 10),
        ("mlp", (8, 8, 1), 64 * 200 + 200 + 200 * 200 + 200 + 200 * 10 + 10),
        # NIID-Bench's on 28x28: after two unpadded 5x5 convolutions and two halvings, 4x4 with 16 channels are left.
        ("cnn", (28, 28, 1), (25 * 6 + 6) + (25 * 6 * 16 + 16) + (256 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)),
        # Padded on 8x8: 2x2 with 16 channels are left.
        ("cnn", (8, 8, 1), (25 * 6 + 6) + (25 * 6 * 16 + 16) + (64 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)),
        # Convolutions: stem, two per stage, two 1x1 shortcuts; scale and offset of seven norms; the last layer.
        (
            "resnet8",
            (32, 32, 3),
            9 * (3 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
            + (16 * 32 + 32 * 64)
            + 2 * (3 * 16 + 2 * 32 + 2 * 64)
            + (64 * 10 + 10),
        ),
    ],
)
def test_built_in_model_has_as_many_parameters_as_its_source(name, shape, expected):
    model = build(name, shape, 10, seed=0)
    assert num_params(model) == expected
    assert flatten(model).shape == (expected,)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_same_seed_gives_the_same_bits_and_names_and_another_seed_does_not(name):
    one, again, other = (build(name, (8, 8, 1), 4, seed) for seed in (5, 5, 6))
    assert flatten(one).tobytes() == flatten(again).tobytes()
    assert flatten(one).tobytes() != flatten(other).tobytes()
    # The names go into models/global.h5: a second run in one process must write the same file.
    assert one.to_json() == again.to_json()


@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_convolutional_model_refuses_a_table(name):
    with pytest.raises(SettingsError, match=rf"federate.model {name} needs images .*, got \(64,\)"):
        build(name, (64,), 10, seed=0)


@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_dense_model_takes_a_table(name):
    assert build(name, (6,), 3, seed=0)(np.ones((2, 6), np.float32)).shape == (2, 3)


def test_own_builder_is_loaded_and_built_from_the_seed(own_models):
    one, again = (build(f"{own_models}:small", (4, 4, 1), 3, seed=1) for _ in range(2))
    assert one(np.ones((2, 4, 4, 1), np.float32)).shape == (2, 3)
    assert num_params(one) == 16 * 5 + 5 + 5 * 3 + 3
    assert flatten(one).tobytes() == flatten(again).tobytes()
    assert [v.name for v in one.trainable_weights] == [v.name for v in again.trainable_weights]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("batch_norm", "layer bn is BatchNormalization, whose running statistics belong to no client"),
        ("sync_batch_norm", "layer bn is BatchNormalization"),
        ("nested_batch_norm", "layer bn is BatchNormalization"),
        ("ends_in_relu", "must give logits, or end in softmax, got the activation relu in its last layer out"),
        ("ends_in_sigmoids", "must give logits, or end in softmax, got the activation sigmoid in its last layer out"),
        ("hidden_softmax", "must give logits, got outputs that are always between 0 and 1, such as probabilities: "),
        ("too_many", r"must give logits \(None, 3\), got \(None, 4\)"),
        ("not_flat", r"must give logits \(None, 3\), got \(None, 4, 4, 3\)"),
        ("nothing_to_train", "must have trainable parameters, got none"),
        ("a_number", "must return a tf.keras.Model, got int"),
        ("CONSTANT", "must name a function, got int"),
        ("missing", "must name a function of a module that can be imported, got no missing in our_models"),
    ],
)
def test_own_builder_that_cannot_be_trained_is_refused(own_models, function, message):
    with pytest.raises(SettingsError, match=message) as caught:
        build(f"{own_models}:{function}", (4, 4, 1), 3, seed=0)
    assert str(caught.value).startswith(f"federate.model our_models:{function}")
    assert "\n" not in str(caught.value)


def test_module_that_does_not_exist_is_refused():
    with pytest.raises(SettingsError, match=r"no_such_module:f must name a function .* got ModuleNotFoundError"):
        build("no_such_module:f", (4, 4, 1), 3, seed=0)


@pytest.mark.parametrize(("width", "units"), [(0.55, 110), (0.1, 20), (0.29, 58), (0.001, 1), (0.333, 67)])
def test_a_width_gives_so_many_units_rounded_up(width, units):
    # 200 · 0.55 is 110.00000000000001 in floating point, which is not 111 units; 200 · 0.333 = 66.6.
    layer = build("mlp", (4,), 3, seed=0, width=width).get_layer("hidden_1")
    assert layer.units == units


def test_prunable_marks_kernels_only(own_models):
    model = build("resnet8", (8, 8, 1), 4, seed=0)
    expected = np.concatenate(
        # Kernels are tensors with two or more axes; GroupNorm's scales and all biases are vectors.
        [np.full(v.shape.num_elements(), len(v.shape) > 1) for v in model.trainable_weights]
    )
    np.testing.assert_array_equal(prunable(model), expected)
    mlp = build("mlp", (6,), 3, seed=0)
    assert prunable(mlp).sum() == 6 * 200 + 200 * 200 + 200 * 3


def test_flatten_and_assign_are_inverse():
    model = build("cnn", (8, 8, 1), 4, seed=0)
    params = np.random.default_rng(1).normal(size=num_params(model)).astype(np.float32)
    assign(model, params)
    assert flatten(model).tobytes() == params.tobytes()


def test_validation_is_the_mean_loss_and_accuracy_over_several_batches():
    num, dim, num_classes = 2500, 3, 4  # 2500 = 2 · 1024 + 452: the last batch is not full
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(num, dim)).astype(np.float32), rng.integers(0, num_classes, num).astype(np.int32)
    params = rng.normal(size=dim * num_classes + num_classes).astype(np.float32)
    logits = x.astype(np.float64) @ params[:-4].reshape(dim, num_classes) + params[-4:]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss, accuracy = build_validation(build("logistic", (dim,), num_classes, seed=0), x, y)(params)
    assert loss == pytest.approx(-log_p[np.arange(num), y].mean(), rel=1e-5)
    assert accuracy == np.mean(logits.argmax(axis=1) == y)
