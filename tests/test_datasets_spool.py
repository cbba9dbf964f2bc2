"""Features in a scratch file: what is read, and that a partition's memory does not grow with the number of images."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from tasks.arrays import as_float32
from tasks.datasets import load_raw
from tasks.datasets.spool import Spool, Spooled, select
from tasks.errors import DataError
from tasks.partition import partition
from tasks.partition.features import change_for
from tasks.settings import DataSettings, PartitionSettings, parse


def spooled(x: Any, folder: Path = Path(), block: int = 7) -> Spooled:
    spool = Spool(folder)
    for start in range(0, len(x), block):
        spool.append(x[start : start + block])
    return spool.written()


# 40 bytes an example: all are read together. 90,000 bytes: rows in between are not read.
@pytest.mark.parametrize("shape", [(5, 4, 2), (150, 200, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@given(positions=st.lists(st.integers(0, 29), max_size=60))
@example(positions=[0, 0, 1])  # as many as if they were neighbours
def test_indices_give_the_same_examples_as_in_memory(shape: Any, dtype: Any, positions: list[int]) -> None:
    x = np.arange(30 * np.prod(shape)).reshape(30, *shape).astype(dtype)
    kept = np.arange(30) % 4 != 1
    chosen = np.array(positions, dtype=np.int64)
    source = spooled(x)
    assert (len(source), source.shape, source.ndim, source.dtype) == (30, x.shape, 4, x.dtype)
    np.testing.assert_array_equal(source[chosen], x[chosen])
    np.testing.assert_array_equal(source[kept], x[kept])
    np.testing.assert_array_equal(source[3:29], x[3:29])
    np.testing.assert_array_equal(select(source, kept)[chosen % 20], x[kept][chosen % 20])
    assert source[chosen].flags.c_contiguous


def test_examples_that_are_cut_are_overwritten() -> None:
    spool = Spool(Path())
    spool.append(np.zeros((3, 2), np.float32))
    spool.cut(0)
    assert spool.takes(np.ones((2, 4), np.uint8))
    spool.append(np.ones((2, 4), np.uint8))
    assert not spool.takes(np.ones((2, 4), np.float32))
    np.testing.assert_array_equal(spool.written()[:], np.ones((2, 4)))


# Arrays of several blocks of 8 MB


def archive(path: Path, x: Any, compressed: bool = False) -> Path:
    y = np.arange(len(x)) % 2
    (np.savez_compressed if compressed else np.savez)(path, x_train=x, y_train=y, x_test=x[:4], y_test=y[:4])
    return path


LARGE = np.random.default_rng(0).integers(0, 256, (30_000, 20, 15), dtype=np.uint8)


@pytest.mark.parametrize(
    ("x", "compressed", "expected"),
    [
        (LARGE, False, LARGE[..., np.newaxis]),
        (LARGE, True, LARGE[..., np.newaxis]),
        (np.asfortranarray(LARGE), False, LARGE[..., np.newaxis]),
        (LARGE[:, 0].astype(">f8"), False, LARGE[:, 0].astype(np.float32)),
        (LARGE.astype(np.int16), False, LARGE[..., np.newaxis].astype(np.float32)),
    ],
    ids=["images", "compressed", "fortran", "big-endian table", "16 bits"],
)
def test_large_arrays_are_read_in_blocks(tmp_path: Path, x: Any, compressed: bool, expected: Any) -> None:
    archive(tmp_path / "data.npz", x, compressed)
    data = load_raw(DataSettings(kind="npz", path="data.npz"), 0, tmp_path)
    assert (data.x.dtype, data.x.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(data.x[:], expected)


def test_a_number_in_a_later_block_that_is_not_finite_is_found(tmp_path: Path) -> None:
    x = LARGE[:, 0].astype(np.float64) * np.ones((1, 15))
    x = np.tile(x, (1, 5))  # 600 bytes an example, 18 MB
    x[[20_000, 29_000], 3] = np.nan
    archive(tmp_path / "data.npz", x)
    with pytest.raises(DataError, match="must hold finite float32 numbers, got nan in example 20000"):
        load_raw(DataSettings(kind="npz", path="data.npz"), 0, tmp_path)
    data = load_raw(DataSettings(kind="npz", path="data.npz", skip_unreadable=True), 0, tmp_path)
    np.testing.assert_array_equal(data.x[:], np.delete(x, [20_000, 29_000], axis=0).astype(np.float32))


def test_nothing_of_a_client_whose_file_is_damaged_at_its_end_is_kept(tmp_path: Path) -> None:
    home = tmp_path / "raw"
    home.mkdir()
    for name, x in (("a", LARGE[:4]), ("b", LARGE), ("c", LARGE[4:9])):
        np.savez(home / f"{name}.npz", x=x, y=np.arange(len(x)) % 2)
    content = bytearray((home / "b.npz").read_bytes())
    content[8_800_000] ^= 255  # in the second block: the check sum at the end is another
    (home / "b.npz").write_bytes(content)
    settings = DataSettings(kind="clients", path="raw", skip_unreadable=True, test_fraction=0.3)
    data = load_raw(settings, 0, tmp_path)
    assert data.skipped is not None
    assert data.skipped.clients == ("b",)
    found = sorted(image.tobytes() for image in np.concatenate([data.x[:], data.test_x[:]]))
    assert found == sorted(image.tobytes() for image in LARGE[:9])


# Changes of features


@pytest.mark.parametrize("kind", ["feature_noise", "feature_shift"])
def test_a_change_of_features_begins_at_the_numbers_that_bytes_mean(kind: Any) -> None:
    # 6 million values are two blocks.
    x = np.random.default_rng(1).integers(0, 256, (500, 120, 100, 1), dtype=np.uint8)
    settings = PartitionSettings(kind=kind, num_clients=3)
    of_bytes, drawn = change_for(settings, x, 5)(x, 1)
    of_floats, drawn_again = change_for(settings, as_float32(x), 5)(as_float32(x), 1)
    assert of_bytes.dtype == np.float32
    assert drawn == drawn_again
    np.testing.assert_array_equal(of_bytes, of_floats)
    parts = np.concatenate([change_for(settings, x, 5)(x[:10], 1)[0]])
    np.testing.assert_array_equal(of_bytes[:10], parts)


def test_the_limits_of_a_shift_are_those_of_all_images_in_the_file() -> None:
    x = np.zeros((9, 4, 4, 1), np.float32)
    x[8, 0, 0, 0], x[2, 0, 0, 0] = 7.0, -3.0
    settings = PartitionSettings(kind="feature_shift", num_clients=2, brightness=0.0, contrast=0.0, rotation=0.0)
    changed = change_for(settings, spooled(x, block=2), 0)(x, 0)[0]
    np.testing.assert_array_equal(changed, x)


# A whole partition

STEP = """
import resource, sys
from tasks.__main__ import main
status = main(["partition"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(status)
"""


def workspace(folder: Path, kind: str, number: int) -> Path:
    """A workspace with `number` images of 64×64 pixels in colour, 12,288 bytes each."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    if kind == "npz":
        archive(folder / "raw.npz", rng.integers(0, 256, (number, 64, 64, 3), dtype=np.uint8))
    else:
        for i in range(number):
            path = folder / "raw" / f"{i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path, compress_level=1)
    data = {"kind": kind, "path": "raw.npz" if kind == "npz" else "raw", "test_fraction": 0.05}
    settings = {"data": data, "partition": {"kind": "iid", "num_clients": number // 40}}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    return folder


def stepped(folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    return subprocess.run(
        [sys.executable, "-c", STEP],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.mark.parametrize("kind", ["npz", pytest.param("images", marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_images_and_the_disk_holds_their_bytes(tmp_path: Path, kind: str) -> None:
    peaks, numbers = [], (1000, 4000)
    for number in numbers:
        folder = workspace(tmp_path / str(number), kind, number)
        done = stepped(folder)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]))
        written = sum(file.stat().st_size for file in (folder / "data" / "partition").rglob("*") if file.is_file())
        assert written <= 1.15 * number * 12_288
    # The 3,000 further images are 37 MB as bytes, and 147 MB as float32.
    assert peaks[1] - peaks[0] < 0.4 * (numbers[1] - numbers[0]) * 12_288


def test_a_full_disk_is_one_error_with_its_place_and_leaves_nothing(tmp_path: Path) -> None:
    folder = workspace(tmp_path / "full", "npz", 400)
    before = {path.name for path in folder.iterdir()}
    limit = 2_000_000  # bytes of a file; the images are 4.9 MB
    done = stepped(folder, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"the raw data must fit on the disk of {folder}" in done.stderr
    assert "File too large" in done.stderr
    left = {path.name for path in folder.iterdir() if path.is_file() or any(path.iterdir())}
    assert left - before <= {".undrift.lock"}


def test_a_killed_run_leaves_no_scratch_file(tmp_path: Path) -> None:
    folder = workspace(tmp_path / "killed", "images", 4000)
    before = {path.name for path in folder.iterdir()}
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen([sys.executable, "-c", STEP], cwd=folder, env=environment) as process:
        try:
            end = time.monotonic() + 120
            while not (size := scratch_size(process.pid, folder)) and time.monotonic() < end:
                assert process.poll() is None
                time.sleep(0.01)
        finally:
            process.kill()
    assert size
    left = {path.name for path in folder.iterdir() if path.is_file() or any(path.iterdir())}
    assert left - before <= {".undrift.lock"}


def scratch_size(pid: int, folder: Path) -> int:
    """Bytes of the process's open files in `folder` that have no name."""
    size = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
            if target.startswith(str(folder)) and target.endswith("(deleted)"):
                size += entry.stat().st_size
        except FileNotFoundError:  # closed in the meantime
            continue
    return size


def test_the_scratch_file_of_a_failed_run_makes_no_folder(tmp_path: Path) -> None:
    archive(tmp_path / "raw.npz", LARGE[:20])
    settings = parse({"data": {"kind": "npz", "path": "raw.npz"}, "partition": {"num_clients": 100}})
    with pytest.raises(DataError, match=r"partition\.num_clients"):
        partition(settings, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["raw.npz"]
