"""The step prune: masks against their formula, zeros that stay, files that agree."""

import gzip
import shutil
import sys

import numpy as np
import pytest

from tasks.errors import DataError, RunError, SettingsError
from tasks.files import read_json, read_rows
from tests.shards import read_client


@pytest.fixture(scope="module")
def dense_model():
    """8 -> 50 -> 4: kernels of 400 and 200 entries, biases of 50 and 4."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(3)
    layers = [tf.keras.layers.Input((8,)), tf.keras.layers.Dense(50, "relu"), tf.keras.layers.Dense(4)]
    return tf.keras.Sequential(layers)


@pytest.fixture(scope="module")
def masks_of(settings_of):
    from tasks.prune.masks import PruningMasks

    def make(model, **chosen):
        raw = {"rounds": 12, "begin_round": 2, "end_round": 10, **chosen}
        return PruningMasks(settings_of({f"prune.{name}": value for name, value in raw.items()}).prune, model)

    return make


@pytest.fixture(scope="module")
def pruned(tmp_path_factory, make_clients, settings_of):
    """A workspace after federate and prune, with momentum and weight decay on both sides of the round."""
    from tasks.federate import federate
    from tasks.prune import prune

    folder = make_clients(sizes=(30, 20, 25), shape=(8, 8, 1)).write(tmp_path_factory.mktemp("pruned"))
    settings = settings_of(
        {
            "federate.rounds": 3,
            "federate.model": "cnn",
            "federate.client.momentum": 0.9,
            "federate.client.weight_decay": 0.01,
            "federate.server_optimizer.kind": "momentum",
            "prune.rounds": 4,
            "prune.begin_round": 1,
            "prune.end_round": 3,
        }
    )
    seen = []
    federate(settings, folder, lambda row, *_: seen.append(row))
    prune(settings, folder, lambda row, *_: seen.append(row))
    return folder, settings, seen


@pytest.mark.parametrize("pruning_round", [2, 5, 9, 10])
def test_masks_follow_the_polynomial_schedule(dense_model, masks_of, pruning_round):
    from tasks.parameters import flatten

    params = flatten(dense_model)
    mask = masks_of(dense_model).update(pruning_round, params)
    # Zhu 2017, equation 1: s = 0.8 + (0.3 - 0.8) (1 - (t - 2) / (10 - 2))^3, for each kernel, rounded to whole entries.
    sparsity = 0.8 - 0.5 * (1 - (pruning_round - 2) / 8) ** 3
    for begin, end in ((0, 400), (450, 650)):
        assert np.mean(mask[begin:end] == 0) == pytest.approx(sparsity, abs=1 / (end - begin))
        kept, lost = np.abs(params[begin:end])[mask[begin:end] == 1], np.abs(params[begin:end])[mask[begin:end] == 0]
        assert kept.min() >= lost.max()
    assert mask[400:450].all()
    assert mask[650:].all()


def test_masks_change_only_when_they_are_due(dense_model, masks_of):
    from tasks.parameters import flatten

    masks = masks_of(dense_model, frequency=4)
    due = [masks.update(t, flatten(dense_model)) is not None for t in range(1, 13)]
    # Rounds 2, 6 and 10: begin, every 4, end.
    assert [t for t, mask in enumerate(due, start=1) if mask] == [2, 6, 10]


def test_a_frequency_that_misses_the_last_round_is_refused(settings_of):
    with pytest.raises(SettingsError, match=r"prune\.frequency must divide"):
        settings_of({"prune.frequency": 3})


def test_making_masks_leaves_the_model_alone(dense_model, masks_of):
    from tasks.parameters import flatten

    before = flatten(dense_model)
    masks_of(dense_model).update(10, before)
    np.testing.assert_array_equal(flatten(dense_model), before)


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "resnet8"])
def test_every_kernel_of_the_built_in_models_is_pruned_and_nothing_else(masks_of, name):
    from tasks.models import build
    from tasks.parameters import flatten, prunable

    model = build(name, (16, 16, 1), 4, seed=0)
    mask = masks_of(model).update(10, flatten(model))
    assert not (mask[~prunable(model)] == 0).any()
    # Four of five entries of each kernel, so of all kernels too, except for the rounding in each.
    assert np.mean(mask[prunable(model)] == 0) == pytest.approx(0.8, abs=0.01)


def test_zeros_stay_zero_through_momentum_and_weight_decay(pruned):
    import tensorflow as tf

    folder, _, _ = pruned
    rows = read_rows(folder / "reports/rounds.csv")
    # Pruning rounds 1 to 4: 0.3, then 0.8 - 0.5 (1 - 1/2)^3 = 0.7375, then 0.8, and 0.8 after one more round.
    assert [float(row["sparsity"]) for row in rows[3:]] == pytest.approx([0.3, 0.7375, 0.8, 0.8], abs=0.005)
    model = tf.keras.models.load_model(folder / "models/pruned.h5", compile=False)
    for layer in model.layers:
        if layer.weights:
            assert np.mean(layer.kernel.numpy() == 0) == pytest.approx(0.8, abs=0.01), layer.name
            assert type(layer).__module__.startswith("keras.")


def test_the_log_goes_on_where_training_ended(pruned):
    folder, _, seen = pruned
    rows = read_rows(folder / "reports/rounds.csv")
    assert [(int(row["round"]), row["phase"]) for row in rows] == [
        *((number, "federate") for number in (1, 2, 3)),
        *((number, "prune") for number in (4, 5, 6, 7)),
    ]
    assert [row["round"] for row in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert read_rows(folder / "reports/federate/rounds.csv") == rows[:3]
    clients = read_rows(folder / "reports/clients.csv")
    assert [int(row["round"]) for row in clients] == [number for number in range(1, 8) for _ in range(3)]


def test_tflite_predicts_what_keras_predicts(pruned):
    import tensorflow as tf

    folder, _, _ = pruned
    x, _ = read_client(folder / "data/clients", "test")
    expected = tf.keras.models.load_model(folder / "models/pruned.h5", compile=False)(x).numpy()
    interpreter = tf.lite.Interpreter(str(folder / "models/pruned_float.tflite"))
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    for one, logits in zip(x, expected, strict=True):
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], one[None])
        interpreter.invoke()
        np.testing.assert_allclose(interpreter.get_tensor(result["index"])[0], logits, rtol=1e-4, atol=1e-4)
    assert read_json(folder / "reports/prune.json")["tflite_agreement"]["tflite_float"] == 1


def test_the_report_says_what_is_on_disk(pruned):
    folder, _, _ = pruned
    report = read_json(folder / "reports/prune.json")
    for key, name in (("global_h5", "global.h5"), ("pruned_h5", "pruned.h5"), ("pruned_tflite", "pruned.tflite")):
        content = (folder / "models" / name).read_bytes()
        assert report["size_bytes"][key] == len(content)
        assert report["size_bytes"][f"{key}_gzip"] == len(gzip.compress(content, mtime=0))
    # The architecture and the format are the same, so zeros save space only after gzip.
    assert report["size_bytes"]["pruned_h5_gzip"] < report["size_bytes"]["global_h5_gzip"]
    assert set(report["layers"]) == {"conv_1", "conv_2", "hidden_1", "hidden_2", "logits"}
    weights = sum(layer["weights"] for layer in report["layers"].values())
    zeros = sum(layer["weights"] * layer["sparsity"] for layer in report["layers"].values())
    assert report["sparsity"] == pytest.approx(zeros / weights)
    assert report["accuracy"]["after"] == pytest.approx(
        float(read_rows(folder / "reports/rounds.csv")[-1]["val_accuracy"]), abs=1e-6
    )


@pytest.mark.slow
def test_pruning_of_another_model_that_was_killed_starts_afresh(tmp_path, make_clients, settings_of):
    from tasks.federate import federate
    from tasks.prune import prune

    def settings(seed):
        chosen = {"federate.rounds": 2, "prune.rounds": 6, "prune.end_round": 6, "federate.checkpoint_every": 2}
        return settings_of({**chosen, "federate.model": "logistic", "seed": seed})

    def stop(row, *_):
        if row["round"] == 2 + 5:
            raise KeyboardInterrupt

    for folder in ("killed", "whole"):
        make_clients().write(tmp_path / folder)
        federate(settings(1), tmp_path / folder)
    federate(settings(0), tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        prune(settings(1), tmp_path / "killed", stop)
    for name in ("models/global.h5", "reports/federate/rounds.csv", "reports/federate/clients.csv"):
        shutil.copy(tmp_path / "whole" / name, tmp_path / "killed" / name)
    for folder in ("killed", "whole"):
        prune(settings(1), tmp_path / folder)
    names = ("models/pruned.h5", "reports/rounds.csv", "reports/clients.csv", "reports/prune.json")
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_pruning_a_model_that_is_not_finite_is_one_clear_error(tmp_path, make_clients, settings_of):
    from tasks.federate import federate
    from tasks.models import load_model, save_model
    from tasks.prune import prune

    settings = settings_of({"federate.rounds": 1, "federate.model": "logistic"})
    federate(settings, make_clients().write(tmp_path))
    path = tmp_path / "models/global.h5"
    model = load_model(path, "logistic", (3, 3, 1), 3)
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    save_model(model, path)
    with pytest.raises(DataError, match=r"models/global\.h5 must hold finite parameters.* run the step federate again"):
        prune(settings, tmp_path)


def test_pruning_before_training_is_one_clear_error(tmp_path, make_clients, settings_of):
    from tasks.prune import prune

    folder = make_clients().write(tmp_path)
    with pytest.raises(DataError, match=r"global\.h5 is missing: run the step federate first"):
        prune(settings_of({}), folder)
    assert not (folder / "models").exists()
    assert not (folder / "reports").exists()


def test_logits_of_a_model_that_has_diverged_are_compared_where_they_are_finite():
    from tasks.tflite import checked_difference

    logits = np.array([[1.0, np.inf], [-3e38, np.nan]], np.float32)
    # Two logits are finite in both. One of them differs by 2^100, which is less than 1e-3 of the largest.
    exported = np.array([[2.0**100, np.nan], [-3e38, 2.0]], np.float32)
    assert checked_difference(exported, logits) == pytest.approx(2.0**100)
    assert checked_difference(exported[:1, 1:], logits[:1, 1:]) == 0
    # -3e38 and 3e38 are 6e38 apart, which float32 cannot hold.
    with pytest.raises(RunError, match=r"by up to 6e\+38 in a logit"):
        checked_difference(np.array([[1.0, np.inf], [3e38, 2.0]], np.float32), logits)


def test_an_export_that_is_not_finite_where_the_model_is_is_refused():
    from tasks.tflite import checked_difference

    logits = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        exported = logits.copy()
        exported[1, 0] = bad
        with pytest.raises(RunError, match=r"differs from models/pruned\.h5: by up to inf in a logit"):
            checked_difference(exported, logits)


@pytest.mark.parametrize("unit", [1.0, 50.0])
def test_an_export_may_differ_by_a_thousandth_of_the_largest_logit_and_no_more(unit):
    from tasks.tflite import checked_difference

    logits = unit * np.array([[1.0, -0.5], [0.25, 0.0]])
    for off in (0.0005, -0.0005):
        exported = logits.copy()
        exported[1, 1] += off * unit
        assert checked_difference(exported, logits) == pytest.approx(0.0005 * unit)
    for off in (0.002, -0.1):
        exported = logits.copy()
        exported[1, 1] += off * unit
        with pytest.raises(RunError, match=rf"by up to {abs(off) * unit:.4g} in a logit"):
            checked_difference(exported, logits)


def test_the_sparsity_of_a_layer_is_that_of_the_parameters_not_of_the_last_mask(dense_model, masks_of):
    """After a rollback the parameters are of an earlier round than the last mask."""
    from tasks.parameters import flatten

    masks, params = masks_of(dense_model), flatten(dense_model)
    masks.update(10, params)  # 0.8 of each kernel
    params[:100] = 0  # 100 of 400 of the first kernel's, none of the second's 200
    assert [layer["sparsity"] for layer in masks.layers(params).values()] == [0.25, 0]


OWN_MODELS = """
import tensorflow as tf
from tensorflow.keras import Model, Sequential, layers


class Scale(layers.Layer):
    def build(self, input_shape):
        self.scale = self.add_weight("scale", (3, 3), initializer="ones")

    def call(self, x):
        return x * self.scale


def mixed(input_shape, num_classes):
    shared = layers.Dense(3)
    inputs = layers.Input(input_shape)
    x = Scale(name="mine")(layers.Reshape((3, 3))(inputs))
    x = shared(Sequential([layers.Dense(3, name="inner")])(shared(x)))
    x = layers.Bidirectional(layers.SimpleRNN(4, name="rnn"), name="both")(x)
    return Model(inputs, layers.Dense(num_classes, name="logits")(x))


def scaled(input_shape, num_classes):
    return Sequential([layers.Input(input_shape), layers.Reshape((3, 3)), Scale(name="mine"), layers.Flatten(),
                       layers.Dense(num_classes)])


def normalised(input_shape, num_classes):
    x = inputs = layers.Input(input_shape)
    x = layers.GroupNormalization(2)(layers.Conv2D(4, 2)(x))
    return Model(inputs, layers.Dense(num_classes)(layers.Flatten()(x)))


def stateful(input_shape, num_classes):
    return Sequential([layers.Input(input_shape), layers.Reshape((3, 3)), layers.LSTM(4), layers.Dense(num_classes)])


def pooled(input_shape, num_classes):
    return Sequential([layers.Input(input_shape), layers.Reshape((3, 3, 1, 1)), layers.MaxPooling3D((2, 2, 1)),
                       layers.Flatten(), layers.Dense(num_classes)])


def vectors(input_shape, num_classes):
    return Sequential([layers.Input(input_shape), layers.Flatten(), layers.LayerNormalization(),
                       layers.Lambda(lambda x: x[:, :num_classes])])
"""


@pytest.fixture
def own_models(tmp_path, monkeypatch):
    (tmp_path / "prune_models.py").write_text(OWN_MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "prune_models"
    sys.modules.pop("prune_models", None)


def test_kernels_are_pruned_wherever_they_are(own_models, masks_of):
    from tasks.models import build
    from tasks.parameters import flatten, prunable, unpruned

    model = build(f"{own_models}:mixed", (3, 3, 1), 4, seed=0)
    masks, params = masks_of(model), flatten(model)
    mask = masks.update(10, params)
    found = {layer: told["weights"] for layer, told in masks.layers(params * mask).items()}
    # For a series of 3 x 3: a layer in an inner model, a layer that is used twice, and 2 · 4 units to 4 classes.
    assert found == {"inner": 3 * 3, "dense": 3 * 3, "logits": 8 * 4}
    assert unpruned(model) == ["mine", "forward_rnn", "backward_rnn"]
    assert mask[~prunable(model)].all()
    assert np.mean(mask[prunable(model)] == 0) == pytest.approx(0.8, abs=0.05)  # each kernel to one entry


@pytest.mark.parametrize("name", ["normalised", "mixed", pytest.param("stateful", marks=pytest.mark.slow)])
def test_a_model_that_cannot_take_many_examples_at_once_is_exported_for_one(own_models, name):
    from tasks.models import build
    from tasks.tflite import checked_difference, tflite_logits, to_tflite

    model = build(f"{own_models}:{name}", (3, 3, 1), 4, seed=0)
    x = np.random.default_rng(0).random((5, 3, 3, 1), dtype=np.float32)
    checked_difference(tflite_logits(to_tflite(model, quantise=False), x), model.predict(x, verbose=0))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (
            "pooled",
            "must be a model that TensorFlow Lite can hold, because prune exports it, got one that needs MaxPool3D",
        ),
    ],
)
def test_a_model_that_prune_cannot_take_is_refused_before_training(
    own_models, name, why, tmp_path, make_clients, settings_of, capfd
):
    from tasks.federate import federate

    folder = make_clients().write(tmp_path)
    with pytest.raises(SettingsError, match=why) as caught:
        federate(settings_of({"federate.model": f"{own_models}:{name}", "federate.rounds": 1}), folder)
    assert "\n" not in str(caught.value)
    assert not list(folder.glob("reports/**/*.csv"))
    assert not list(folder.glob("models/**/*"))
    assert "MaxPool3D" not in capfd.readouterr().err


def test_a_model_without_anything_to_prune_trains_on_and_says_so(
    own_models, tmp_path, make_clients, settings_of, caplog
):
    from tasks.federate import federate
    from tasks.prune import prune

    folder = make_clients().write(tmp_path)
    chosen = {"federate.model": f"{own_models}:vectors", "federate.rounds": 1, "prune.rounds": 2, "prune.end_round": 2}
    with caplog.at_level("WARNING", "tasks"):
        federate(settings_of(chosen), folder)
    assert f"federate.model {own_models}:vectors has no layer that prune can make sparse" in caplog.text
    prune(settings_of(chosen), folder)
    report = read_json(folder / "reports/prune.json")
    assert (report["sparsity"], report["layers"], report["unpruned"]) == (0, {}, [])
    assert [row["sparsity"] for row in read_rows(folder / "reports/rounds.csv")] == ["0.0"] * 3


@pytest.mark.slow
def test_what_is_left_is_named_before_training_and_in_the_report(
    own_models, tmp_path, make_clients, settings_of, caplog
):
    from tasks.federate import federate
    from tasks.prune import prune

    folder = make_clients().write(tmp_path)
    of_prune = {"prune.rounds": 2, "prune.end_round": 2}
    settings = settings_of({"federate.model": f"{own_models}:scaled", "federate.rounds": 1, **of_prune})
    with caplog.at_level("INFO", "tasks"):
        federate(settings, folder)
    assert "prune will leave mine as they are" in caplog.text
    prune(settings, folder)
    report = read_json(folder / "reports/prune.json")
    assert report["unpruned"] == ["mine"]
    assert report["tflite_agreement"]["tflite_float"] == 1
    assert report["sparsity"] == pytest.approx(0.8, abs=0.05)
