"""The step prune: masks against their formula, zeros that stay, files that agree."""

import gzip
import shutil
import sys

import numpy as np
import pytest

from tasks.errors import DataError, RunError, SettingsError
from tasks.files import read_json, read_rows


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
    from tasks.federate.parameters import flatten

    params = flatten(dense_model)
    mask = masks_of(dense_model).update(pruning_round, params)
    # Zhu 2017, equation 1: s = 0.8 + (0.3 - 0.8) (1 - (t - 2) / (10 - 2))^3; each kernel by itself, rounded to entries.
    sparsity = 0.8 - 0.5 * (1 - (pruning_round - 2) / 8) ** 3
    for begin, end in ((0, 400), (450, 650)):
        assert np.mean(mask[begin:end] == 0) == pytest.approx(sparsity, abs=1 / (end - begin))
        kept, lost = np.abs(params[begin:end])[mask[begin:end] == 1], np.abs(params[begin:end])[mask[begin:end] == 0]
        assert kept.min() >= lost.max()
    assert mask[400:450].all()
    assert mask[650:].all()


def test_masks_change_only_when_they_are_due(dense_model, masks_of):
    from tasks.federate.parameters import flatten

    masks = masks_of(dense_model, frequency=4)
    due = [masks.update(t, flatten(dense_model)) is not None for t in range(1, 13)]
    # Rounds 2, 6 and 10: begin, every 4, end.
    assert [t for t, mask in enumerate(due, start=1) if mask] == [2, 6, 10]


def test_a_frequency_that_misses_the_last_round_is_refused(settings_of):
    with pytest.raises(SettingsError, match=r"prune\.frequency must divide"):
        settings_of({"prune.frequency": 3})


def test_making_masks_leaves_the_model_alone(dense_model, masks_of):
    from tasks.federate.parameters import flatten

    before = flatten(dense_model)
    masks_of(dense_model).update(10, before)
    np.testing.assert_array_equal(flatten(dense_model), before)


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "resnet8"])
def test_every_kernel_of_the_built_in_models_is_pruned_and_nothing_else(masks_of, name):
    from tasks.federate.parameters import flatten, prunable
    from tasks.models import build

    model = build(name, (16, 16, 1), 4, seed=0)
    mask = masks_of(model).update(10, flatten(model))
    assert not (mask[~prunable(model)] == 0).any()
    # Four of five entries of each kernel: of all kernels too, but for the rounding of each.
    assert np.mean(mask[prunable(model)] == 0) == pytest.approx(0.8, abs=0.01)


def test_a_model_without_dense_or_convolution_cannot_be_pruned(masks_of):
    import tensorflow as tf

    layers = [tf.keras.layers.Input((4,)), tf.keras.layers.LayerNormalization()]
    with pytest.raises(SettingsError, match="no layer that can be pruned"):
        masks_of(tf.keras.Sequential(layers))


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

    from tasks.files import read_client

    folder, _, _ = pruned
    x, _ = read_client(folder / "data/clients/test")
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
    # The same architecture in the same format: zeros are saved by gzip alone.
    assert report["size_bytes"]["pruned_h5_gzip"] < report["size_bytes"]["global_h5_gzip"]
    assert set(report["layers"]) == {"conv_1", "conv_2", "hidden_1", "hidden_2", "logits"}
    weights = sum(layer["weights"] for layer in report["layers"].values())
    zeros = sum(layer["weights"] * layer["sparsity"] for layer in report["layers"].values())
    assert report["sparsity"] == pytest.approx(zeros / weights)
    assert report["accuracy"]["after"] == pytest.approx(
        float(read_rows(folder / "reports/rounds.csv")[-1]["val_accuracy"]), abs=1e-6
    )


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
    from tasks.prune.export import checked_difference

    logits = np.array([[1.0, np.inf], [-3e38, np.nan]], np.float32)
    # Of the two that are finite in both, one differs by 2^100, less than 1e-3 of the largest.
    exported = np.array([[2.0**100, np.nan], [-3e38, 2.0]], np.float32)
    assert checked_difference(exported, logits) == pytest.approx(2.0**100)
    assert checked_difference(exported[:1, 1:], logits[:1, 1:]) == 0
    # -3e38 and 3e38 are 6e38 apart, which float32 cannot hold.
    with pytest.raises(RunError, match=r"by up to 6e\+38 in a logit"):
        checked_difference(np.array([[1.0, np.inf], [3e38, 2.0]], np.float32), logits)


def test_an_export_that_is_not_finite_where_the_model_is_is_refused():
    from tasks.prune.export import checked_difference

    logits = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        exported = logits.copy()
        exported[1, 0] = bad
        with pytest.raises(RunError, match=r"differs from models/pruned\.h5: by up to inf in a logit"):
            checked_difference(exported, logits)


@pytest.mark.parametrize("unit", [1.0, 50.0])
def test_an_export_may_differ_by_a_thousandth_of_the_largest_logit_and_no_more(unit):
    from tasks.prune.export import checked_difference

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
    from tasks.federate.parameters import flatten

    masks, params = masks_of(dense_model), flatten(dense_model)
    masks.update(10, params)  # 0.8 of each kernel
    params[:100] = 0  # 100 of 400 of the first kernel's, none of the second's 200
    assert [layer["sparsity"] for layer in masks.layers(params).values()] == [0.25, 0]


OWN_MODELS = """
import tensorflow as tf
from tensorflow.keras import Sequential, layers


def recurrent(input_shape, num_classes):
    return Sequential([layers.Input(input_shape), layers.Reshape((3, 3)), layers.GRU(4), layers.Dense(num_classes)])


def not_in_tflite(input_shape, num_classes):
    return Sequential([layers.Input(input_shape), layers.Flatten(), layers.Lambda(lambda x: tf.math.lgamma(x + 1)),
                       layers.Dense(num_classes)])
"""


@pytest.fixture
def own_models(tmp_path, monkeypatch):
    (tmp_path / "prune_models.py").write_text(OWN_MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "prune_models"
    sys.modules.pop("prune_models", None)


def test_recurrent_layers_are_left_as_they_are(own_models, masks_of):
    from tasks.federate.parameters import flatten
    from tasks.models import build

    model = build(f"{own_models}:recurrent", (3, 3, 1), 4, seed=0)
    masks, params = masks_of(model), flatten(model)
    mask = masks.update(10, params)
    # A dense kernel of 4 · 4 entries, of which 0.8 are zero (to one entry); nothing of the GRU's.
    assert list(masks.layers(params * mask)) == ["dense"]
    assert int((mask == 0).sum()) in (12, 13)


def test_a_model_that_cannot_be_exported_is_refused_before_the_rounds(
    own_models, tmp_path, make_clients, settings_of, caplog
):
    from tasks.federate import federate
    from tasks.prune import prune

    folder = make_clients().write(tmp_path)
    settings = settings_of({"federate.model": f"{own_models}:not_in_tflite", "federate.rounds": 1})
    federate(settings, folder)
    log = (folder / "reports/rounds.csv").read_bytes()
    with pytest.raises(SettingsError, match=r"^federate\.model must be a model that TensorFlow") as caught:
        prune(settings, folder)
    assert "\n" not in str(caught.value)
    assert (folder / "reports/rounds.csv").read_bytes() == log
    assert not (folder / "models/checkpoints/prune").exists()
