"""Images of mixed sizes and modes: the value of each pixel, computed by hand."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tasks.arrays import as_float32
from tasks.datasets import load_raw
from tasks.datasets.resize import Size, resize_images
from tasks.errors import DataError
from tasks.partition import partition
from tasks.settings import DataSettings, parse
from tests.raw_examples import as_numbers, in_memory

INK = (200, 100, 50)


def save(folder: Path, *images: tuple[Image.Image, str]) -> Path:
    """Writes (image, suffix) files, in turn into two class folders; if fewer than four, the last is repeated."""
    home = folder / "images"
    for index in range(max(4, len(images))):
        image, suffix = images[min(index, len(images) - 1)]
        path = home / f"{index % 2}" / f"{index:03}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return home


def read(home: Path, size: Size = ()) -> dict[tuple[float, ...], int]:
    """{first pixel of an image, in steps of 1/255: number of images}."""
    colours: dict[tuple[float, ...], int] = {}
    for x in images_of(home, size):
        colour = tuple(np.round(x[0, 0].astype(float) * 255, 2).tolist())
        colours[colour] = colours.get(colour, 0) + 1
    return colours


def images_of(home: Path, size: Size = ()) -> NDArray[np.float32]:
    examples = as_numbers(load_raw(DataSettings(kind="images", path=str(home)), 0, Path("/nowhere"), size))
    return np.concatenate([examples.x, examples.test_x])


def refusal(home: Path, size: Size = ()) -> str:
    with pytest.raises(DataError) as caught:
        images_of(home, size)
    return str(caught.value)


def plain(mode: str, colour: int | float | tuple[int, ...], size: tuple[int, int] = (5, 4)) -> Image.Image:
    return Image.new(mode, size, colour)


def ink(mode: str) -> Image.Image:
    return plain("RGB", INK).convert(mode)


def with_palette(colour: tuple[int, ...], alpha: int = 255) -> Image.Image:
    return plain("RGBA", (*colour, alpha)).quantize(2)


# Modes


@pytest.mark.parametrize(
    ("image", "suffix", "colour"),
    [
        (plain("1", 1), "png", (255,)),
        (plain("L", 51), "png", (51,)),
        (plain("LA", (51, 0)), "png", (51, 0)),
        (plain("RGB", INK), "png", INK),
        (plain("RGBA", (*INK, 0)), "png", (*INK, 0)),
        (plain("I;16", 65535 // 5), "png", (51,)),
    ],
)
def test_images_of_one_mode_keep_its_channels(
    tmp_path: Path, image: Image.Image, suffix: str, colour: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert read(save(tmp_path, (image, suffix))) == {colour: 4}
    assert not caplog.records


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        (ink("RGBA"), "png"),
        (ink("RGBA"), "tif"),
        (with_palette(INK), "png"),
        (with_palette(INK), "gif"),
        (ink("CMYK"), "tif"),
        (ink("CMYK"), "jpg"),  # Adobe and Pillow write CMYK JPEGs with inverted values
    ],
)
def test_images_of_several_modes_become_rgb(tmp_path: Path, image: Image.Image, suffix: str) -> None:
    home = save(tmp_path, (image, suffix), (plain("RGB", INK), "png"))
    assert read(home) == {INK: 4}
    one_mode = save(tmp_path / "alone", (image, suffix))
    assert read(one_mode) == {(*INK, 255) if image.mode == "RGBA" else INK: 4}


def test_grey_beside_colour_becomes_rgb_at_its_own_full_scale(tmp_path: Path) -> None:
    home = save(
        tmp_path,
        (plain("RGB", INK), "png"),
        (plain("1", 1), "png"),
        (plain("L", 51), "png"),
        (plain("I;16", 2 * 65535 // 5), "png"),
        (plain("I;16B", 3 * 65535 // 5), "tif"),
    )
    assert read(home) == {INK: 1, (255,) * 3: 1, (51,) * 3: 1, (102,) * 3: 1, (153,) * 3: 1}


def test_images_that_are_all_grey_in_kind_become_grey(tmp_path: Path) -> None:
    home = save(
        tmp_path,
        (plain("1", 1), "png"),
        (plain("L", 51), "png"),
        (plain("LA", (20, 255)), "png"),
        (with_palette((30, 30, 30)), "png"),
        (plain("I;16", 257 * 40 + 1), "png"),
        (plain("I;16", 257 * 50), "pgm"),  # Pillow's mode I
        (plain("I;16B", 257 * 60), "tif"),
    )
    # 257 = 65535 / 255. 16 bits are not cut to 8: one step of 1/65535 is 1/257 of a step of 1/255.
    assert read(home) == {(255,): 1, (51,): 1, (20,): 1, (30,): 1, (round(40 + 1 / 257, 2),): 1, (50,): 1, (60,): 1}


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (plain("RGBA", (*INK, 0)), (255, 255, 255)),
        # Alpha 51 of 255 is a fifth: 200 / 5 + 255 · 4 / 5 = 244, and so on.
        (plain("RGBA", (*INK, 51)), (244, 224, 214)),
        (with_palette(INK, 0), (255, 255, 255)),
        (plain("LA", (50, 51)), (214, 214, 214)),
    ],
)
def test_what_is_transparent_becomes_white_in_mixed_modes(
    tmp_path: Path, image: Image.Image, colour: tuple[int, ...]
) -> None:
    assert read(save(tmp_path, (image, "png"), (plain("RGB", INK), "png"))) == {colour: 1, INK: 3}


def test_numbers_of_32_bits_stay_as_they_are(tmp_path: Path) -> None:
    home = save(tmp_path, (plain("F", -1000.5), "tif"), (plain("I", 3000), "tif"))
    assert read(home) == {(-1000.5 * 255,): 1, (3000 * 255,): 3}


def test_numbers_of_32_bits_beside_others_are_refused(tmp_path: Path) -> None:
    home = save(tmp_path, (plain("L", 1), "png"), (plain("F", 1.0), "tif"))
    assert refusal(home).startswith(f"{home / '0' / '002.tif'} must have 8 or 16 bits a channel as images of mode L do")


def test_a_number_that_is_not_finite_names_its_file(tmp_path: Path) -> None:
    home = save(tmp_path, (plain("F", 1.0), "tif"), (plain("F", float("nan")), "tif"), (plain("F", 2.0), "tif"))
    assert refusal(home).startswith(f"{home / '1' / '001.tif'} must hold finite numbers, got nan")


def test_a_mode_that_has_no_rgb_is_refused(tmp_path: Path) -> None:
    home = save(tmp_path, (plain("RGB", INK), "png"), (plain("LAB", INK), "tif"))
    assert refusal(home).startswith(f"{home / '0' / '002.tif'} must be an image of mode 1, L, ")
    assert "got mode LAB: save it as RGB" in refusal(home)


@pytest.mark.parametrize("suffix", ["tif", "webp", "png", "gif"])
def test_a_film_is_refused(tmp_path: Path, suffix: str) -> None:
    home = save(tmp_path, (plain("L", 1), "png"))
    film = home / "0" / f"film.{suffix}"
    plain("RGB", 0).save(film, save_all=True, append_images=[plain("RGB", INK)])
    assert refusal(home, (4, 4)).startswith(f"{film} must be one image, got 2 frames: save each frame as a file")


def test_a_photograph_with_a_preview_is_the_photograph(tmp_path: Path) -> None:
    home = save(tmp_path, (plain("L", 51), "png"))
    photograph, preview = plain("L", 102), plain("L", 7)
    photograph.save(home / "0" / "photo.jpg", format="MPO", save_all=True, append_images=[preview])
    assert read(home) == {(51,): 4, (102,): 1}


@pytest.mark.parametrize(
    ("others", "dtype"),
    [
        ([], np.uint8),
        ([(plain("1", 1), "png"), (ink("CMYK"), "jpg")], np.uint8),
        ([(plain("I;16", 9), "png")], np.float32),
    ],
)
def test_images_are_bytes_unless_one_has_more_bits(tmp_path: Path, others: Any, dtype: Any) -> None:
    home = save(tmp_path, *others, (plain("RGB", INK), "png"))
    data = load_raw(DataSettings(kind="images", path=str(home)), 0, tmp_path)
    assert data.x.dtype == data.test_x.dtype == data.x[:].dtype == dtype


# Sizes


def noise(height: int, width: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_images_of_several_sizes_are_resized_as_they_are_read(tmp_path: Path) -> None:
    shapes = [(8, 8), (9, 5), (31, 40), (6, 7)]
    home = save(tmp_path, *((noise(*shape, seed), "png") for seed, shape in enumerate(shapes)))
    expected = set()
    for seed, shape in enumerate(shapes):
        expected.add(as_float32(resize_images(np.asarray(noise(*shape, seed))[np.newaxis], (6, 7))).tobytes())
    assert {x.tobytes() for x in images_of(home, (6, 7))} == expected


def test_images_of_several_sizes_without_a_size_show_the_way_on(tmp_path: Path) -> None:
    sizes = [(4, 5)] * 6 + [(4, 6)] * 3 + [(7, 5)] * 2 + [(height, 9) for height in range(1, 5)]
    home = save(tmp_path, *((noise(*shape, 0), "png") for shape in sizes))
    assert refusal(home) == (
        f"{home / '0' / '006.png'} must have the height and width of the others, got images of [4, 5] (6), [4, 6] (3), "
        "[7, 5] (2), [2, 9] (1), [4, 9] (1) and 2 more: set preprocess.resize, such as [4, 5], and each is resized as "
        "it is read"
    )


def test_modes_and_sizes_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = save(tmp_path, *[(ink("RGBA").resize((6, 4)), "png")] * 2, *[(ink("RGB"), "png")] * 3)
    with caplog.at_level(logging.INFO):
        read(home, (2, 3))
    assert [record.getMessage() for record in caplog.records] == [
        "5 images of mode RGB (3), RGBA (2) and size [4, 5] (3), [4, 6] (2): read as RGB of [2, 3]; "
        "transparent areas become white"
    ]


@pytest.mark.parametrize("kind", ["npz", "clients", "digits"])
def test_images_of_arrays_are_resized_too(tmp_path: Path, kind: str) -> None:
    x, y = np.random.default_rng(0).random((12, 9, 7), dtype=np.float32), np.arange(12) % 2
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    (tmp_path / "raw").mkdir()
    for name in ("a", "test"):
        np.savez(tmp_path / "raw" / f"{name}.npz", x=x, y=y)
    settings = DataSettings.model_validate(
        {"kind": kind} | ({} if kind == "digits" else {"path": {"npz": "data.npz", "clients": "raw"}[kind]})
    )
    plain, resized = in_memory(load_raw(settings, 0, tmp_path)), in_memory(load_raw(settings, 0, tmp_path, (5, 4)))
    np.testing.assert_array_equal(resized.x, resize_images(plain.x, (5, 4)))
    np.testing.assert_array_equal(resized.test_x, resize_images(plain.test_x, (5, 4)))
    np.testing.assert_array_equal(resized.y, plain.y)


def arrays_of_sizes(folder: Path, kind: str, one: Any, two: Any) -> DataSettings:
    """Images `one`; the test set of an npz, or the second of two clients, has the images `two`."""
    y = np.arange(len(one)) % 2
    if kind == "npz":
        np.savez(folder / "data.npz", x_train=one, y_train=y, x_test=two, y_test=y)
        return DataSettings(kind="npz", path="data.npz")
    (folder / "raw").mkdir()
    for name, x in (("a", one), ("b", two), ("test", one)):
        np.savez(folder / "raw" / f"{name}.npz", x=x, y=y)
    return DataSettings(kind="clients", path="raw")


@pytest.mark.parametrize("kind", ["npz", "clients"])
def test_arrays_of_several_sizes_are_resized_as_they_are_read(tmp_path: Path, kind: str) -> None:
    one, two = (np.random.default_rng(0).integers(0, 256, (6, *size), dtype=np.uint8) for size in ((9, 7), (4, 11)))
    settings = arrays_of_sizes(tmp_path, kind, one, two)
    with pytest.raises(DataError, match=r"\(9, 7, 1\) .*, got \(4, 11, 1\): set preprocess.resize, such as \[9, 7\]"):
        load_raw(settings, 0, tmp_path)
    data = in_memory(load_raw(settings, 0, tmp_path, (5, 4)))
    other = data.x[6:] if kind == "clients" else data.test_x
    for images, raw in ((data.x[:6], one), (other, two)):
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images, resize_images(raw[..., np.newaxis], (5, 4)))


@pytest.mark.parametrize("kind", ["npz", "clients"])
def test_resizing_makes_no_image_of_other_channels(tmp_path: Path, kind: str) -> None:
    settings = arrays_of_sizes(tmp_path, kind, np.zeros((6, 9, 7, 3)), np.zeros((6, 4, 11, 1)))
    with pytest.raises(DataError, match=r"shape \(9, 7, 3\) .*, got \(4, 11, 1\)"):
        load_raw(settings, 0, tmp_path, (5, 4))


def test_more_images_than_disk_or_memory_hold_are_refused(tmp_path: Path) -> None:
    home = save(tmp_path, (plain("L", 0), "png"))
    small = load_raw(DataSettings(), 0, tmp_path)
    images = DataSettings(kind="images", path=str(home))
    both = len(small.y) + len(small.test_y)
    for settings, number, place in ((images, 4, "on the disk of /"), (DataSettings(), both, "into memory")):
        with pytest.raises(DataError, match=rf"^{number} images of preprocess.resize \[\d+, \d+\] must fit {place}"):
            load_raw(settings, 0, tmp_path, (2**20, 2**20))


def test_a_table_is_not_resized(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,label\n" + "1,x\n2,y\n" * 6)
    settings = parse({"data": {"kind": "table", "path": "table.csv"}, "preprocess": {"resize": 8}})
    with pytest.raises(DataError, match=r"^preprocess.resize needs images, .*: leave it unset, got \[8, 8\]$"):
        partition(settings, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]
