import functools
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tasks.federate.schedule import client_rng, draw_seed, visits
from tasks.local.architecture import Architecture
from tasks.local.client_update import ClientUpdate
from tasks.local.descent import LocalTraining
from tasks.local.update import build_local_update
from tasks.settings import ClientSettings

DIM, CLASSES = 6, 3
SIZE = DIM * CLASSES + CLASSES
PLAIN = ClientUpdate(ClientSettings())
TABLE = LocalTraining(input_shape=(DIM,), num_classes=CLASSES, num_params=SIZE, batch_size=4, algorithm=PLAIN)
NO_SHIFT = np.zeros(0, np.float32)


def linear(params, x, seed):
    kernel, bias = params
    return tf.reshape(x, [tf.shape(x)[0], kernel.shape[0]]) @ kernel + bias, 0.0


@functools.cache
def computation(training, masked=False):
    size = (training.num_params - training.num_classes) // training.num_classes
    shapes = ((size, training.num_classes), (training.num_classes,))
    return build_local_update([Architecture(linear, shapes)], training, masked)


def variant(training, momentum=0.0, weight_decay=0.0, **changes):
    algorithm = ClientUpdate(ClientSettings(momentum=momentum, weight_decay=weight_decay))
    return replace(training, algorithm=algorithm, **changes)


def make_data(num, shape=(DIM,), seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num, *shape)).astype(np.float32), rng.integers(0, CLASSES, num).astype(np.int32)


def make_params(seed=1, size=SIZE):
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def in_this_process(one_thread):
    # Once for the module, because each new context compiles the computations again.
    with one_thread():
        yield


@pytest.fixture
def train(client_input):
    """Runs one client's round on (x, y) from `params`; returns its result."""

    def run(training, x, y, order, params, *, mask=None, **changes):
        client = client_input(x, y, order, **changes)
        broadcast = OrderedDict(params=params) if mask is None else OrderedDict(params=params, mask=mask)
        return computation(training, mask is not None)(client, broadcast)

    return run


CASES = {
    "whole batches": (8, 1, {}),
    "part batch": (11, 1, {}),
    "one example": (1, 1, {}),
    "batch of the data": (4, 1, {}),
    "batch larger than the data": (3, 1, {}),
    "several epochs": (8, 3, {}),
    "several epochs of part batches": (7, 3, {}),
    "several epochs of less than a batch": (3, 4, {}),
    "batch of one": (5, 2, {"batch_size": 1}),
    "momentum": (10, 2, {"momentum": 0.9}),
    "weight decay": (10, 2, {"weight_decay": 0.3}),
    "momentum and weight decay": (7, 3, {"momentum": 0.5, "weight_decay": 0.1, "batch_size": 3}),
}


@pytest.mark.parametrize("case", CASES)
def test_local_update_is_that_of_the_slow_reference(case, train, logistic_reference):
    num, num_epochs, changes = CASES[case]
    training = variant(TABLE, **changes)
    (x, y), params = make_data(num), make_params()
    order = visits(num, num_epochs, client_rng(0, 1, "a"))
    result = train(training, x, y, order, params)
    expected = logistic_reference(
        params,
        x,
        y,
        order,
        num_classes=CLASSES,
        batch_size=training.batch_size,
        learning_rate=0.1,
        momentum=changes.get("momentum", 0.0),
        weight_decay=changes.get("weight_decay", 0.0),
    )
    np.testing.assert_allclose(result["update"], expected.params - params, atol=1e-5)
    assert result["num_steps"] == expected.num_steps == num_epochs * -(-num // training.batch_size)
    for name in ("loss_before", "loss_after", "loss_mean"):
        assert result[name] == pytest.approx(getattr(expected, name), abs=1e-5), name
    assert result["finite"]
    assert result["weight"] == 1


def test_loss_before_is_the_exact_loss_when_the_batch_holds_all_data(train):
    (x, y), params = make_data(9), make_params()
    result = train(replace(TABLE, batch_size=50), x, y, np.arange(9)[::-1], params)
    logits = x.astype(np.float64) @ params[:-CLASSES].reshape(DIM, CLASSES) + params[-CLASSES:]
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(9), y]
    # One step: all three losses are the loss before the step.
    for name in ("loss_before", "loss_after", "loss_mean"):
        assert result[name] == pytest.approx(losses.mean(), rel=1e-5)


def test_weight_and_learning_rate_are_those_that_the_host_sends(train):
    (x, y), params = make_data(4), make_params()
    slow, fast = (
        train(TABLE, x, y, np.arange(4), params, learning_rate=np.float32(r), weight=np.float32(w))
        for r, w in ((0.1, 7.5), (0.3, 2))
    )
    # One step: the update is proportional to the rate.
    np.testing.assert_allclose(fast["update"], 3 * slow["update"], rtol=1e-3, atol=1e-6)
    assert (slow["weight"], fast["weight"]) == (7.5, 2)


@pytest.mark.parametrize("changes", [{}, {"momentum": 0.9, "weight_decay": 0.5}], ids=["plain", "momentum and decay"])
def test_masked_parameters_stay_zero_and_the_others_train_as_if_they_were_not_there(changes, train, logistic_reference):
    training = variant(TABLE, **changes)
    mask = np.random.default_rng(3).integers(0, 2, SIZE).astype(np.float32)
    (x, y), params = make_data(10), make_params() * mask
    order = visits(10, 3, client_rng(0, 1, "a"))
    result = train(training, x, y, order, params, mask=mask)
    assert 0 < mask.sum() < SIZE
    np.testing.assert_array_equal((params + result["update"])[mask == 0], 0)
    assert (result["update"][mask == 1] != 0).all()
    expected = logistic_reference(
        params, x, y, order, num_classes=CLASSES, batch_size=4, learning_rate=0.1, mask=mask, **changes
    )
    np.testing.assert_allclose(result["update"], expected.params - params, atol=1e-5)


def test_mask_of_ones_changes_nothing(train):
    (x, y), params = make_data(10), make_params()
    order = visits(10, 2, client_rng(0, 1, "a"))
    free = train(TABLE, x, y, order, params)
    masked = train(TABLE, x, y, order, params, mask=np.ones(SIZE, np.float32))
    np.testing.assert_allclose(masked["update"], free["update"], atol=1e-7)


@pytest.mark.parametrize(
    ("x_factor", "rate"), [(1e30, 0.1), (1.0, np.inf)], ids=["features of 1e30", "infinite learning rate"]
)
def test_update_that_is_not_finite_counts_nothing(x_factor, rate, train):
    x, y = make_data(8)
    result = train(TABLE, x * np.float32(x_factor), y, np.arange(8), make_params(), learning_rate=np.float32(rate))
    assert not result["finite"]
    assert result["weight"] == 0
    np.testing.assert_array_equal(result["update"], np.zeros(SIZE))


# Augmentation. A linear model that starts at zero shows its input: with C = 2 and a batch of one example of class 1,
# softmax is (½, ½), so one step adds rate·½·x to the kernel of class 1.
IMAGE = LocalTraining(input_shape=(2, 3, 2), num_classes=2, num_params=26, batch_size=1, algorithm=PLAIN)
PICTURE = np.arange(1, 13, dtype=np.float32).reshape(2, 3, 2)
MIRRORED = PICTURE[:, ::-1]


@pytest.fixture
def seen(train):
    """(training, round, client id, brightness) -> the image that the client trains on, (2, 3, 2)."""

    def run(training, round_num, client="a", brightness=NO_SHIFT):
        result = train(
            training,
            PICTURE[None],
            np.ones(1, np.int32),
            [0],
            np.zeros(26, np.float32),
            seed=draw_seed(0, round_num, client),
            brightness=np.asarray(brightness, np.float32),
        )
        return result["update"][:24].reshape(12, 2)[:, 1].reshape(2, 3, 2) / (0.1 * 0.5)

    return run


def is_same(image, other):
    return np.allclose(image, other, rtol=1e-4)


def test_no_augmentation_leaves_the_images_alone(seen):
    for round_num in range(5):
        assert is_same(seen(IMAGE, round_num, brightness=[9, 9]), PICTURE)


def test_flip_mirrors_left_to_right_in_about_half_of_the_rounds(seen):
    images = [seen(replace(IMAGE, flip=True), round_num) for round_num in range(60)]
    mirrored = [is_same(image, MIRRORED) for image in images]
    assert all(is_same(image, MIRRORED if m else PICTURE) for image, m in zip(images, mirrored, strict=True))
    # Within five standard deviations of Binomial(60, ½), 5 √15.
    assert abs(sum(mirrored) - 30) <= 5 * np.sqrt(15)


def test_brightness_shifts_each_channel_by_at_most_its_own_limit(seen):
    limits = np.array([0.2 / 0.5, 0.2 / 0.1])  # b = 0.2 of the full range, over the channels' sd
    factors = []
    for round_num in range(40):
        shift = seen(replace(IMAGE, brightness=True), round_num, brightness=limits) - PICTURE
        # One draw u ~ U(-1, 1) for an image: every pixel shifts by u · b / sd of its channel.
        factor = shift[0, 0] / limits
        np.testing.assert_allclose(shift, np.broadcast_to(factor[0] * limits, shift.shape), atol=1e-4)
        factors.append(factor[0])
    assert np.abs(factors).max() <= 1
    # Uniform on (-1, 1): mean 0, sd 1/√3; five standard errors of the mean of 40 draws.
    assert abs(np.mean(factors)) <= 5 / np.sqrt(3 * 40)
    assert min(factors) < -0.5
    assert max(factors) > 0.5
    assert len(set(np.round(factors, 5))) == 40


def test_augmentation_follows_from_seed_round_and_client(seen):
    training = replace(IMAGE, flip=True, brightness=True)
    first = seen(training, 3, "a", [1, 1])
    np.testing.assert_array_equal(seen(training, 3, "a", [1, 1]), first)
    assert not is_same(seen(training, 4, "a", [1, 1]), first)
    assert not is_same(seen(training, 3, "b", [1, 1]), first)


def test_augmentation_is_fresh_in_every_step_and_epoch(train):
    # Only class 1, and a rate so small that the model stays near zero: the kernel is ½ · rate · Σ images.
    training, x, y = replace(IMAGE, brightness=True), np.zeros((3, 2, 3, 2), np.float32), np.ones(3, np.int32)
    limits, sums = np.ones(2, np.float32), []
    for num_epochs in range(1, 6):
        order = np.tile(np.arange(3), num_epochs)
        result = train(
            training,
            x,
            y,
            order,
            np.zeros(26, np.float32),
            learning_rate=np.float32(1e-6),
            seed=draw_seed(0, 1, "a"),
            brightness=limits,
        )
        sums.append(result["update"][1] / 0.5e-6)
    shifts = np.diff([0.0, *sums])  # sum over the three images of each epoch
    assert len(set(np.round(shifts, 4))) == 5
    assert np.abs(shifts).max() <= 3 + 1e-3


def test_images_of_one_batch_are_augmented_each_by_itself(train):
    # One step of a zero model adds rate/B · ½ · x of every image to the kernel of class 1.
    training = replace(IMAGE, flip=True, batch_size=8)
    x = np.zeros((8, 2, 3, 2), np.float32)
    x[:, 0, 0, 0] = 2.0 ** np.arange(8)  # flipped to [0, 2, 0]: the sum there encodes in bits who flipped
    codes = set()
    for round_num in range(4):
        result = train(
            training,
            x,
            np.ones(8, np.int32),
            np.arange(8),
            np.zeros(26, np.float32),
            seed=draw_seed(0, round_num, "a"),
        )
        kernel = result["update"][:24].reshape(2, 3, 2, 2)[..., 1] / (0.1 * 0.5 / 8)
        assert kernel[0, 0, 0] + kernel[0, 2, 0] == pytest.approx(255, rel=1e-4)
        codes.add(round(float(kernel[0, 2, 0])))
    # All or none of the eight flipped in each of four rounds: probability 2^-28.
    assert codes - {0, 255}
    assert len(codes) > 1


def test_augmentation_leaves_the_labels_and_the_order_alone(train, logistic_reference):
    # With a limit of 0 in every channel, the brightness is drawn but shifts nothing.
    x, y = make_data(7, (2, 3, 2))
    y, order, params = y % 2, visits(7, 2, client_rng(0, 1, "a")), make_params(size=26)
    training = replace(IMAGE, batch_size=3, brightness=True)
    result = train(training, x, y, order, params, brightness=np.zeros(2, np.float32))
    expected = logistic_reference(params, x, y, order, num_classes=2, batch_size=3, learning_rate=0.1)
    np.testing.assert_allclose(result["update"], expected.params - params, atol=1e-5)
