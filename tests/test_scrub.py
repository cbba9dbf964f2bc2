"""The message of an error holds no label and no feature of a client, although TensorFlow's own texts quote them."""

import logging
import re

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from hypothesis import given
from hypothesis import strategies as st

from tasks import command
from tasks.clients import Form
from tasks.errors import NoClientLeft, RunError, SettingsError
from tasks.evaluate.model import load_logits
from tasks.federate import federate
from tasks.federate.validation import build_validation
from tasks.files import read_rows
from tasks.local.probe import Probe
from tasks.models import build
from tasks.parameters import flatten
from tasks.prune import prune
from tasks.scrub import of_tensorflow, ours, scrubbed, scrubbing

# So many digits that no folder, time or loss in a message holds them by chance (pytest counts its folders).
LABELS = np.array([3, 731306, 5, 3, 617394], np.int32)
FEATURES = np.array([0.5, -940173.25, 3.015625], np.float32)
SECRETS = ("731306", "617394", "940173", "3.0156", "015625")


def label_out_of_range():
    logits = tf.zeros([len(LABELS), 10])
    return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.constant(LABELS), logits)


def assertion():
    x = tf.constant(FEATURES)
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x > 0), ["not positive", x, tf.constant(LABELS)])]):
        return tf.identity(x)


def comparison():
    with tf.control_dependencies([tf.debugging.assert_less(tf.constant(LABELS), 10, message="too large")]):
        return tf.constant(1)


def assertion_of_one_value():
    with tf.control_dependencies([tf.debugging.Assert(tf.constant(LABELS)[1] < 10, [tf.constant(LABELS)[1]])]):
        return tf.constant(1)


def formatted_assertion():
    said = tf.strings.format("label {} is bad", tf.constant(LABELS))
    with tf.control_dependencies([tf.debugging.Assert(tf.constant(LABELS)[1] < 10, [said])]):
        return tf.constant(1)


def gather():
    return tf.gather(tf.zeros([10]), tf.reshape(tf.constant(LABELS), [1, 5]))


def negative_gather():
    return tf.gather(tf.zeros([10]), -tf.constant(LABELS)[1:])


def text():
    return tf.strings.to_number(tf.strings.join(["a ", tf.strings.as_string(tf.constant(FEATURES)[1])]))


def substring():
    return tf.strings.substr(tf.constant(FEATURES.tobytes() + b"731306"), 100, 2)


def python():
    def fails(labels):
        raise ValueError(f"labels {labels.numpy().tolist()} of {labels}")

    return tf.py_function(fails, [tf.constant(LABELS)], tf.float32)


SAID = {
    label_out_of_range: r"label value of \.\.\. which is outside the valid range of \[0, 10\)",
    assertion: r"assertion failed: \[not positive\]",
    comparison: r"too large",
    assertion_of_one_value: r"assertion failed: \[\.\.\.\]",
    formatted_assertion: r"assertion failed: \[label \[\.\.\.\] is bad",
    gather: r"indices\[.*\] = \.\.\. is not in \[0, 10\)",
    negative_gather: r"indices\[.*\] = \.\.\. is not in \[0, 10\)",
    text: r"could not correctly convert string",
    substring: r"out of range",
    python: r"ValueError",
}
ASSERTIONS = (assertion, assertion_of_one_value, formatted_assertion)


def eagerly(fails):
    fails()


def in_a_function(fails):
    tf.function(fails, autograph=False)()


def in_a_session(fails):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        session.run(fails())


@pytest.mark.parametrize("run", [eagerly, in_a_function, in_a_session])
@pytest.mark.parametrize("fails", SAID)
def test_what_tensorflow_says_is_written_without_values(fails, run):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        run(fails)
    said = scrubbed(caught.value)
    assert of_tensorflow(caught.value)
    assert not [secret for secret in SECRETS if secret in said], said
    # Run eagerly, tf.debugging.Assert has another text.
    assert re.search("to be true" if run is eagerly and fails in ASSERTIONS else SAID[fails], said), said
    assert "\n" not in said
    assert len(said) <= 200


def test_of_several_errors_the_first_is_told():
    roots = "  (0) INVALID_ARGUMENT:  indices[3] = 731306 is not in [0, 10)\n\t [[{{node a}}]]\n  (1) UNKNOWN: 617394"
    for before in ("", "Graph execution error:\n\nDetected at node 'a' defined at (most recent call last):\n"):
        said = scrubbed(f"{before}2 root error(s) found.\n{roots}")
        assert said == "indices[...] = ... is not in [0, 10)"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("fails", [label_out_of_range, assertion, gather, python])
def test_a_client_that_fails_says_so_without_values(fails, threads, one_thread):
    @tff.tensorflow.computation(np.float32)
    def work(value):
        return tf.cond(value > 1, lambda: tf.reduce_sum(tf.cast(fails(), tf.float32)), lambda: value)

    @tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
    def clients(values):
        found = tff.federated_map(work, values)
        return found, tff.federated_sum(found)

    with one_thread(threads):
        found, total = clients([1.0, 2.0, 0.5])
    assert (found[0], found[2], total) == (1.0, 0.5, 1.5)
    assert not [secret for secret in SECRETS if secret in repr(found[1])], found[1]
    assert re.search(SAID[fails], found[1].reason)


def test_a_server_that_fails_says_so_without_values(one_thread):
    @tff.tensorflow.computation(np.float32)
    def work(value):
        with tf.control_dependencies([tf.debugging.Assert(value < 1, ["too large", value])]):
            return tf.identity(value)

    @tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
    def summed(values):
        return tff.federated_map(work, tff.federated_sum(values))

    with one_thread(), pytest.raises(RunError, match=r"server.*too large") as caught:
        summed([173.25, 1.0])
    assert "174.25" not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@given(labels=st.lists(st.integers(-1000, 1000), min_size=1))
def test_no_label_is_left(labels):
    said = f"Received a label value of {labels[0]} which is outside the valid range of [0, 10)."
    found = scrubbed(f"{said}  Label values: {' '.join(map(str, labels))}\n\t [[{{{{node loss/Sparse}}}}]]")
    assert found == ("Received a label value of ... which is outside the valid range of [0, 10). Label values: ...")


@given(values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1))
def test_no_feature_is_left(values):
    shown = " ".join(map(str, values))
    assert (
        scrubbed(f"assertion failed: [not finite] [x (arg:0) = ] [{shown}...]")
        == "assertion failed: [not finite] [x (arg:...) = ] [...]"
    )


def test_words_shapes_ranges_paths_and_names_stay():
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        tf.zeros([20, 10]) + tf.zeros([20, 9])
    assert scrubbed(caught.value) == "Incompatible shapes: [20,10] vs. [20,9]"
    for said in (
        "logits and labels must have the same first dimension, got logits shape [20,10] and labels shape [19]",
        "data/clients/01/x.npy is not whole",
        'layer "dense_2" wants float32',
    ):
        assert scrubbed(said) == said
    assert scrubbed("/home/a b/731306/x.npy; No such file or directory") == "x.npy; No such file or directory"


def test_our_own_assertions_are_written_as_they_are():
    with tf.Graph().as_default(), pytest.raises(tf.errors.InvalidArgumentError) as caught:
        tf.compat.v1.Session().run(tf.debugging.Assert(False, [ours("labels must be 0 to 2")]))
    assert scrubbed(caught.value) == "labels must be 0 to 2"


def test_an_error_without_words_is_named_by_its_type():
    assert scrubbed(ValueError()) == "ValueError"


def test_only_tensorflows_errors_are_turned_into_ours():
    with pytest.raises(ZeroDivisionError):
        scrubbing("it failed", lambda: 1 / 0)


# The places where the product calls TensorFlow with data


def is_clean(error, what):
    said = str(error)
    assert not [secret for secret in SECRETS if secret in said], said
    assert re.search(what, said), said
    assert (error.__cause__, error.__context__) == (None, None)


@pytest.fixture
def few_classes():
    """A model with fewer classes than the labels have."""
    return build("logistic", (3,), 5, seed=0)


def test_validation_names_no_label(few_classes):
    x = np.zeros((len(LABELS), 3), np.float32)
    validate = build_validation(few_classes, x, LABELS)
    with pytest.raises(RunError) as caught:
        validate(flatten(few_classes))
    is_clean(caught.value, "cannot be measured on the hold-out data: Received a label value")


def test_a_diagnosis_names_no_label(few_classes):
    x = np.zeros((len(LABELS), 3), np.float32)
    with pytest.raises(RunError) as caught:
        Probe(few_classes).gradient(flatten(few_classes), (x, LABELS))
    is_clean(caught.value, "the model failed on a client's data: Received a label value")


MOODY = """
from tensorflow.keras import Sequential, layers

def moody(input_shape, num_classes):
    # Fails on a feature that is not an index of ten. Keras loads the layer without this module's imports.
    lookup = layers.Lambda(
        lambda x: x * __import__("tensorflow").gather([1.0] * 10, __import__("tensorflow").cast(x, "int32"))
    )
    return Sequential([layers.Input(input_shape), layers.Flatten(), lookup, layers.Dense(num_classes)])
"""


@pytest.fixture
def moody(tmp_path, monkeypatch):
    module = f"moody_{tmp_path.name}"  # a name for each test, because Python imports a name only once
    (tmp_path / f"{module}.py").write_text(MOODY)
    monkeypatch.syspath_prepend(tmp_path)
    return f"{module}:moody"


def test_a_run_names_no_feature_of_a_client_that_its_model_fails_on(moody, make_clients, settings_of, tmp_path, caplog):
    clients = make_clients(sizes=(6, 6, 6))
    clients.data["01"][0][:] = 940173.25
    folder = clients.write(tmp_path / "run")
    settings = settings_of({"federate.model": moody, "federate.rounds": 2, "federate.client.batch_size": 4})
    with caplog.at_level(logging.INFO):
        federate(settings, folder)
    rows = {row["client"]: row for row in read_rows(folder / "reports/clients.csv")}
    assert rows["01"]["failure"].endswith("is not in [0, 10)")
    assert rows["00"]["failure"] == ""
    for written in (caplog.text, (folder / "reports/clients.csv").read_text()):
        assert not [secret for secret in SECRETS if secret in written]


def test_a_run_whose_every_client_fails_names_no_feature(moody, make_clients, settings_of, tmp_path):
    clients = make_clients(sizes=(6, 6))
    for client in clients.ids:
        clients.data[client][0][:] = 940173.25
    folder = clients.write(tmp_path / "run")
    with pytest.raises(NoClientLeft) as caught:
        federate(settings_of({"federate.model": moody, "federate.rounds": 1}), folder)
    is_clean(caught.value, "is not in")


def test_a_run_names_no_feature_of_the_hold_out_data(moody, make_clients, settings_of, tmp_path):
    clients = make_clients(sizes=(6, 6))
    clients.data["test"][0][:] = 940173.25
    folder = clients.write(tmp_path / "run")
    with pytest.raises(SettingsError) as caught:
        federate(settings_of({"federate.model": moody, "federate.rounds": 1}), folder)
    is_clean(caught.value, "hold-out data: indices")


def test_prune_and_evaluate_name_no_feature(moody, make_clients, settings_of, tmp_path):
    clients = make_clients(sizes=(6, 6))
    folder = clients.write(tmp_path / "run")
    settings = settings_of({"federate.model": moody, "federate.rounds": 1})
    federate(settings, folder)
    clients.data["test"][0][:] = 731306
    clients.write(folder)
    with pytest.raises(RunError) as caught:
        prune(settings, folder)
    is_clean(caught.value, r"hold-out data: .*is not in \[0, 10\)")
    logits = load_logits(folder / "models/global.h5", moody, Form((3, 3, 1), 3), 4)
    with pytest.raises(RunError) as caught:
        logits(clients.data["test"][0])
    is_clean(caught.value, r"failed on the data: .*is not in \[0, 10\)")


def test_a_command_says_in_one_line_what_tensorflow_said(capsys):
    assert command.run(lambda: eagerly(label_out_of_range)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: TensorFlow failed: Received a label value of ... which is")
    assert not [secret for secret in SECRETS if secret in line]
