"""Resizing of images, compared with Pillow and closed forms; and in blocks."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks.arrays import as_float32
from tasks.datasets.resize import resize_images, triangle_weights


def random_images(n, height, width, channels, seed=0):
    return np.random.default_rng(seed).random((n, height, width, channels), dtype=np.float32)


@pytest.mark.parametrize("size", [(64, 64), (16, 16), (5, 47), (33, 31), (1, 1)])
def test_resize_agrees_with_pillow(size):
    images = random_images(3, 32, 30, 2)
    expected = np.empty((3, *size, 2))
    for image in range(3):
        for channel in range(2):
            plane = Image.fromarray(images[image, :, :, channel])
            expected[image, :, :, channel] = plane.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    resized = resize_images(images, size)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected, atol=2e-6)


@pytest.mark.parametrize("size", [(64, 64), (16, 16), (5, 47), (33, 31), (1, 1)])
def test_resized_bytes_are_the_nearest_to_pillows_floats(size):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 30, 1), dtype=np.uint8)
    resized = resize_images(images, size)
    assert resized.dtype == np.uint8
    for image, found in zip(images, resized, strict=True):
        plane = Image.fromarray(image[..., 0].astype(np.float32))
        exact = np.asarray(plane.resize((size[1], size[0]), Image.Resampling.BILINEAR))
        # Half a step of 1/255, and Pillow's rounding to float32.
        assert np.abs(found[..., 0] - exact.astype(np.float64)).max() <= 0.5 + 1e-4


def test_resized_bytes_differ_from_resized_numbers_by_at_most_a_510th():
    images = np.random.default_rng(1).integers(0, 256, (2, 23, 9, 3), dtype=np.uint8)
    numbers = resize_images(as_float32(images), (7, 11))
    difference = np.abs(as_float32(resize_images(images, (7, 11))) - numbers).max()
    assert 1 / 600 < difference <= 1 / 510 + 1e-6


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 255))
def test_resize_of_a_constant_image_of_bytes_stays_constant(height, width, new_height, new_width, value):
    images = np.full((1, height, width, 1), value, np.uint8)
    assert (resize_images(images, (new_height, new_width)) == value).all()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1, width=32))
def test_resize_of_a_constant_image_stays_constant(height, width, new_height, new_width, value):
    images = np.full((2, height, width, 3), value, np.float32)
    resized = resize_images(images, (new_height, new_width))
    # The weights sum to 1 within a few float64 roundings, far below half a float32 rounding.
    assert np.array_equal(resized, np.full((2, new_height, new_width, 3), value, np.float32))


def test_resize_of_a_ramp_is_a_ramp_away_from_the_border():
    # Pixel i has the value i / 100 at position i + 0.5. At twice the length, output j is at (j + 0.5) / 2 - 0.5.
    ramp = np.broadcast_to(np.arange(20, dtype=np.float32)[:, None, None] / 100, (20, 7, 1))[None]
    grown = resize_images(ramp, (40, 7))[0, :, 3, 0]
    np.testing.assert_allclose(grown[1:-1], ((np.arange(40) + 0.5) / 2 - 0.5)[1:-1] / 100, atol=1e-7)
    # At half the length, output j covers the pixels 2j and 2j + 1, and the triangle is symmetric around 2j + 0.5.
    shrunk = resize_images(ramp, (10, 7))[0, :, 3, 0]
    np.testing.assert_allclose(shrunk[1:-1], (2 * np.arange(10) + 0.5)[1:-1] / 100, atol=1e-7)


def test_resize_to_its_own_size_is_the_identity():
    images = random_images(2, 9, 13, 1)
    assert np.array_equal(resize_images(images, (9, 13)), images)
    assert np.array_equal(triangle_weights(9, 9), np.eye(9))


def test_resize_averages_when_it_shrinks():
    # A checkerboard of single pixels. Picking pixels gives 0 or 1; averaging gives nearly the mean, 0.5.
    board = (np.indices((32, 32)).sum(axis=0) % 2).astype(np.float32)[None, :, :, None]
    assert np.abs(resize_images(board, (8, 8)) - 0.5)[:, 1:-1, 1:-1].max() < 0.01


def test_resize_keeps_the_range_and_is_not_disturbed_by_neighbours():
    images = random_images(4, 11, 17, 3).round()
    together = resize_images(images, (23, 6))
    assert together.min() >= 0
    assert together.max() <= 1
    for image in range(4):
        assert np.array_equal(resize_images(images[image : image + 1], (23, 6))[0], together[image])


def test_resize_works_in_blocks_with_the_same_bytes():
    # Seven images of 12×12×3 are 252 columns, one product. 7000 images are 5 million values and 252,000 columns.
    images = random_images(7, 12, 12, 3)
    resized = resize_images(np.tile(images, (1000, 1, 1, 1)), (20, 9))
    assert resized.tobytes() == resize_images(images, (20, 9)).tobytes() * 1000


def test_resize_of_200_images_takes_well_below_a_second():
    images = random_images(200, 32, 32, 3)
    start = time.process_time()
    resize_images(images, (64, 64))
    assert time.process_time() - start < 0.7
