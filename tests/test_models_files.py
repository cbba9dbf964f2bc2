"""Models on disk: which files are read, and that no code in a file is run."""

import random
import re
import shutil
import sys
import warnings

import h5py
import numpy as np
import pytest

from flows.mlflow_store import finished_run, run_files
from tasks.errors import DataError
from tasks.files import write_json

SHAPE, CLASSES = (8, 8, 1), 4
OWN = """
import tensorflow as tf
from tensorflow.keras import Sequential, layers


def softplus(x):
    return tf.math.softplus(x) * 2.5


def with_lambda(input_shape, num_classes):
    return Sequential([layers.Input(input_shape), layers.Flatten(), layers.Dense(6), layers.Lambda(softplus),
                       layers.Lambda(lambda x: x - 1), layers.Dense(num_classes)])


def with_constants(input_shape, num_classes):
    return Sequential([layers.Input(input_shape), layers.Normalization(), layers.Flatten(), layers.Dense(num_classes)])


def nested(input_shape, num_classes):
    inner = Sequential([layers.Dense(5, name="in_1"), layers.Dense(7, name="in_2")], name="inner")
    return Sequential([layers.Input(input_shape), layers.Flatten(), inner, layers.Dense(num_classes)])


def many_layers(input_shape, num_classes):
    hidden = [layers.Dense(2, name=f"a_layer_with_a_long_name_that_has_the_number_{k}") for k in range(12)]
    return Sequential([layers.Input(input_shape), layers.Flatten(), *hidden, layers.Dense(num_classes)])
"""


def built(name="mlp", seed=3, num_classes=CLASSES, shape=SHAPE):
    from tasks.models import build

    return build(name, shape, num_classes, seed)


def loaded(path, name="mlp", num_classes=CLASSES, shape=SHAPE):
    from tasks.models import load_model

    return load_model(path, name, shape, num_classes)


def bits(model):
    return [weight.numpy().tobytes() for weight in model.weights]


@pytest.fixture
def saved(tmp_path):
    """models/global.h5 of an mlp."""
    from tasks.models import save_model

    save_model(built(), tmp_path / "models/global.h5")
    return tmp_path / "models/global.h5"


@pytest.fixture
def own(tmp_path, monkeypatch):
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "file_models.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder)
    yield "file_models"
    sys.modules.pop("file_models", None)


@pytest.fixture
def booby_trapped(tmp_path):
    """Returns an H5 file with a Lambda layer whose code creates a file, and the path of that file."""
    import tensorflow as tf

    mark = tmp_path / "code_ran"
    code = f"import pathlib; pathlib.Path({str(mark)!r}).touch()"
    layers = [
        tf.keras.layers.Input(SHAPE),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Lambda(lambda x, code=code: (exec(code), x)[1]),
        tf.keras.layers.Dense(CLASSES),
    ]
    path = tmp_path / "trap.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tf.keras.Sequential(layers).save(path)
    mark.unlink()  # building the model ran the code
    tf.keras.models.load_model(path, compile=False, safe_mode=True)
    assert mark.exists()  # plain Keras runs the code: the trap works
    mark.unlink()
    return path, mark


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "resnet8"])
def test_a_model_reads_back_with_the_same_bits_and_plain_keras_reads_it_too(tmp_path, name):
    import tensorflow as tf

    from tasks.models import save_model

    model = built(name)
    for weight in model.weights:  # biases too
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    save_model(model, tmp_path / "global.h5")
    again = loaded(tmp_path / "global.h5", name)
    assert bits(again) == bits(model) == bits(tf.keras.models.load_model(tmp_path / "global.h5", compile=False))
    assert again.to_json() == model.to_json()


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "resnet8"])
def test_the_file_has_the_bytes_that_plain_keras_writes_and_the_same_after_a_round_trip(tmp_path, name):
    import tensorflow as tf

    from tasks.models import save_model

    model = built(name)
    save_model(model, tmp_path / "ours.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "plain.h5", include_optimizer=False)
    assert (tmp_path / "ours.h5").read_bytes() == (tmp_path / "plain.h5").read_bytes()
    for number, reader in enumerate(
        (lambda path: loaded(path, name), lambda path: tf.keras.models.load_model(path, compile=False))
    ):
        save_model(reader(tmp_path / "ours.h5"), tmp_path / f"{number}.h5")
        assert (tmp_path / f"{number}.h5").read_bytes() == (tmp_path / "ours.h5").read_bytes()


@pytest.mark.parametrize("function", ["with_lambda", "with_constants", "nested", "many_layers"])
def test_a_model_of_one_s_own_reads_back_with_the_same_bits(tmp_path, own, function):
    from tasks.models import save_model

    name = f"{own}:{function}"
    model = built(name)
    for weight in model.weights:
        if weight.dtype.is_floating:
            weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    save_model(model, tmp_path / "global.h5")
    assert bits(loaded(tmp_path / "global.h5", name)) == bits(model)


def test_a_lambda_of_one_s_own_reads_back_where_the_code_lies_elsewhere(tmp_path, monkeypatch):
    """As in a clone on another machine: the code in the file holds the path of the module."""
    from tasks.models import save_model

    models = {}
    for place in ("here", "in/another/place/with/a/longer/path"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "file_models.py").write_text(OWN)
        with monkeypatch.context() as patched:
            patched.syspath_prepend(folder)
            models[place] = built("file_models:with_lambda", seed=len(place))
            save_model(models[place], tmp_path / f"{len(place)}.h5")
            if place != "here":
                one, other = tmp_path / "4.h5", tmp_path / f"{len(place)}.h5"
                assert _code(one.read_bytes()) != _code(other.read_bytes())
                assert bits(loaded(one, "file_models:with_lambda")) == bits(models["here"])
            sys.modules.pop("file_models")


def test_values_that_are_not_finite_are_values(saved):
    with h5py.File(saved, "r+") as file:
        file["model_weights/logits/logits/bias:0"][...] = [np.nan, np.inf, -np.inf, 2.0**100]
    np.testing.assert_array_equal(loaded(saved).get_layer("logits").bias.numpy(), [np.nan, np.inf, -np.inf, 2.0**100])


SPOILED = {
    "another architecture": lambda path: rewritten(path, built("logistic")),
    "fewer classes": lambda path: rewritten(path, built(num_classes=CLASSES - 1)),
    "more classes": lambda path: rewritten(path, built(num_classes=CLASSES + 1)),
    "other examples": lambda path: rewritten(path, built(shape=(9, 8, 1))),
    "another activation": lambda path: rewritten(path, mlp_with("tanh")),
    "float64": lambda path: rewritten(path, mlp_with("relu", dtype="float64")),
    "optimiser": lambda path: rewritten(path, mlp_with("relu", optimizer="adam")),
}


def mlp_with(activation, dtype="float32", optimizer=None):
    import tensorflow as tf

    tf.keras.backend.reset_uids()
    given = [tf.keras.layers.Input(SHAPE), tf.keras.layers.Flatten()]
    hidden = [tf.keras.layers.Dense(200, activation, name=f"hidden_{k}", dtype=dtype) for k in (1, 2)]
    model = tf.keras.Sequential([*given, *hidden, tf.keras.layers.Dense(CLASSES, name="logits", dtype=dtype)])
    if optimizer:
        model.compile(optimizer, "mse")
        model.fit(np.zeros((2, *SHAPE)), np.zeros((2, CLASSES)), verbose=0)
    return model


def rewritten(path, model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)


def with_dataset(name, change):
    def spoil(path):
        with h5py.File(path, "r+") as file:
            group = file["model_weights/hidden_1/hidden_1"]
            values = group[name][()]
            del group[name]
            change(group, name, values)

    return spoil


def linked(path):
    """Replaces a weight by a link to another file, which HDF5 would follow."""
    with h5py.File(path.parent / "other.h5", "w") as file:
        file["w"] = np.zeros((64, 200), np.float32)
    with h5py.File(path, "r+") as file:
        group = file["model_weights/hidden_1/hidden_1"]
        del group["kernel:0"]
        group["kernel:0"] = h5py.ExternalLink(str(path.parent / "other.h5"), "w")


SPOILED |= {
    "float64 weight": with_dataset(
        "bias:0", lambda group, name, values: group.create_dataset(name, data=values.astype(np.float64))
    ),
    "other shape": with_dataset("kernel:0", lambda group, name, values: group.create_dataset(name, data=values.T)),
    "missing weight": with_dataset("bias:0", lambda group, name, values: None),
    "extra weight": with_dataset(
        "bias:0", lambda group, name, values: [group.create_dataset(each, data=values) for each in (name, "more:0")]
    ),
    "compressed": with_dataset(
        "kernel:0", lambda group, name, values: group.create_dataset(name, data=values, compression="gzip")
    ),
    "linked": linked,
    "text": lambda path: path.write_text("no model"),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "gone": lambda path: path.unlink(),
    "a link in a circle": lambda path: (path.unlink(), path.symlink_to(path)),
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_file_that_is_not_of_the_model_is_one_line_that_names_it_and_the_way_on(saved, spoil):
    SPOILED[spoil](saved)
    with pytest.raises(DataError) as caught:
        loaded(saved)
    assert str(saved) in str(caught.value)
    assert "run the step federate" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pruned_model_that_is_damaged_is_made_by_prune(saved):
    pruned = saved.rename(saved.with_name("pruned.h5"))
    pruned.write_bytes(b"no")
    with pytest.raises(DataError, match="run the step prune again"):
        loaded(pruned)


def test_code_in_a_file_is_never_run(booby_trapped):
    path, mark = booby_trapped
    with pytest.raises(DataError, match="got another model"):
        loaded(path)
    assert not mark.exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_clients, settings_of):
    """A workspace after federate and prune, and its settings."""
    from tasks.federate import federate
    from tasks.prune import prune

    folder = make_clients(sizes=(9, 8), shape=SHAPE, num_classes=CLASSES).write(tmp_path_factory.mktemp("finished"))
    clients = {"classes": ["a", "b", "c", "d"], "clients": {"00": {}, "01": {}}}
    write_json(folder / "data/partition/partition.json", clients)
    settings = settings_of({"federate.rounds": 1, "prune.rounds": 2, "prune.begin_round": 1, "prune.end_round": 2})
    federate(settings, folder)
    prune(settings, folder)
    for name in run_files.FILES:  # `track` logs them
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder, settings


def steps():
    """Returns the steps that read models/global.h5, by name."""
    from tasks.evaluate import evaluate
    from tasks.prune import prune

    return {"prune": prune, "evaluate": evaluate, "track": finished_run.track}


@pytest.mark.parametrize("step", [pytest.param("prune", marks=pytest.mark.slow), "evaluate", "track"])
def test_a_step_runs_no_code_of_a_model_file(finished, tmp_path, booby_trapped, step):
    folder, settings = shutil.copytree(finished[0], tmp_path / "run"), finished[1]
    path, mark = booby_trapped
    shutil.copy(path, folder / "models/global.h5")
    with pytest.raises(DataError, match=r"models/global\.h5 must be federate\.model mlp .* got another model"):
        steps()[step](settings, folder)
    assert not mark.exists()
    assert not (tmp_path / "mlflow.db").exists()


def test_a_model_of_fewer_classes_is_refused_before_a_label_is_looked_at(finished, tmp_path, caplog, capfd):
    from tasks.models import save_model

    folder, settings = shutil.copytree(finished[0], tmp_path / "run"), finished[1]
    save_model(built(num_classes=2), folder / "models/global.h5")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=f"and {CLASSES} classes .run the step federate again., got another model"):
        steps()["prune"](settings, folder)
    said = caplog.text + "".join(capfd.readouterr())
    assert "abel" not in said
    assert "left out" not in said
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def _code(content):
    """Returns the code of the first Lambda layer in an H5 file, as text."""
    return re.search(rb'"function": \["([^"]+)"', content)[1]


def test_the_code_of_one_s_own_lambda_comes_from_the_builder_not_from_the_file(tmp_path, own):
    from tasks.models import save_model

    path, name = tmp_path / "global.h5", f"{own}:with_lambda"
    model = built(name)
    save_model(model, path)
    content = path.read_bytes()
    path.write_bytes(content.replace(_code(content), b"A" * len(_code(content))))
    assert path.read_bytes() != content
    x = np.random.default_rng(0).random((3, *SHAPE), np.float32)
    np.testing.assert_array_equal(loaded(path, name)(x), model(x))


def mutated(content, rng):
    """Returns `content` with bytes changed, cut, moved, doubled or left out, mostly in HDF5's own structures."""
    found = bytearray(content)
    begin = rng.choice((0, 0, 0, rng.randrange(len(found))))
    span = min(len(found) - begin, rng.choice((64, 1024, 16384)))

    def place():
        return begin + rng.randrange(span)

    match rng.randrange(7):
        case 0:
            del found[place() :]
        case 1:
            for _ in range(rng.choice((1, 1, 2, 8, 64))):
                found[place()] = rng.randrange(256)
        case 2:
            at = place()
            found[at] ^= 1 << rng.randrange(8)
        case 3:
            at = place()
            del found[at : at + rng.choice((1, 8, 100))]
        case 4:
            at = place()
            found[at:at] = rng.randbytes(rng.choice((1, 8, 100)))
        case 5:
            at = place() & ~7
            found[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, rng.randrange(len(found)).to_bytes(8, "little")))
        case 6:
            one, other, size = place(), place(), rng.choice((8, 64, 512))
            found[one : one + size] = found[other : other + size]
    return bytes(found)


def fuzz_model(folder, name, count, seed):
    """Returns how many of `count` mutated files are read. An exception other than DataError passes through."""
    from tasks.models import save_model

    path, rng, refused = folder / "global.h5", random.Random(seed), []
    save_model(built(name), path)
    content = path.read_bytes()
    for _ in range(count):
        path.write_bytes(mutated(content, rng))
        try:
            loaded(path, name)
        except DataError as exc:
            refused.append(str(exc))
    assert [each for each in refused if "\n" in each or str(path) not in each] == []
    return count - len(refused)


def test_a_mutated_file_is_read_or_one_line(tmp_path):
    # Some mutations change only weights; those files are read.
    assert 0 < fuzz_model(tmp_path, "logistic", 50, seed=0) < 50


@pytest.mark.slow
def test_of_2000_mutated_files_each_is_read_or_one_line(tmp_path):
    assert 0 < fuzz_model(tmp_path, "cnn", 2000, seed=1) < 2000
