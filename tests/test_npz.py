"""The .npz files that Undrift writes: bytes, blocks, single members, full disks."""

import errno
import io
import os
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import DataError, reading
from tasks.npz import members, read_member, writing_npz

ROOT = Path(__file__).parents[1]


def write(path: Path, **arrays: Any) -> Path:
    with writing_npz(path) as npz:
        for name, array in arrays.items():
            npz.write(name, array)
    return path


def read(path: Path, name: str) -> Any:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return read_member(descriptor, f"{name}.npy", members(path)[f"{name}.npy"])
    finally:
        os.close(descriptor)


ARRAYS = [
    np.zeros((3, 0), np.float32),
    np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    np.array(7, np.int64),
    np.arange(5, dtype=np.uint8)[::2],
    np.arange(300_000, dtype=np.float64),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: str(array.shape))
def test_a_member_is_the_npy_that_numpy_writes(array: Any, tmp_path: Path) -> None:
    expected = io.BytesIO()
    np.save(expected, np.ascontiguousarray(array).reshape(array.shape))
    path = write(tmp_path / "a.npz", first=np.ones(3), x=array)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("x.npy") == expected.getvalue()
        assert archive.testzip() is None
    with np.load(path) as loaded:
        np.testing.assert_array_equal(loaded["x"], array)
    found = read(path, "x")
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)


def test_an_array_in_blocks_has_the_bytes_of_the_whole_array(tmp_path: Path) -> None:
    whole = np.arange(70, dtype=np.float32).reshape(10, 7)
    with writing_npz(tmp_path / "blocks.npz") as npz:
        npz.write_blocks("x", (10, 7), np.float32, (whole[begin : begin + 3] for begin in range(0, 10, 3)))
    assert (tmp_path / "blocks.npz").read_bytes() == write(tmp_path / "whole.npz", x=whole).read_bytes()


@pytest.mark.parametrize("rows", [9, 11])
def test_blocks_that_are_not_the_promised_array_are_a_defect(rows: int, tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"x must have 208 bytes for the shape \(10,\), got"),
        writing_npz(tmp_path / "a.npz") as npz,
    ):
        npz.write_blocks("x", (10,), np.float64, [np.zeros(rows)])


def test_equal_arrays_give_equal_bytes_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path / "a.npz", x=ARRAYS[1]).read_bytes()
    monkeypatch.setattr(time, "time", lambda: 2e9)  # the clock that zipfile reads
    assert write(tmp_path / "b.npz", x=ARRAYS[1]).read_bytes() == first
    with zipfile.ZipFile(tmp_path / "b.npz") as archive:
        (info,) = archive.infolist()
    assert (info.date_time, info.compress_type, info.create_system) == ((1980, 1, 1, 0, 0, 0), 0, 3)


def test_a_compressed_member_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(9))
    with pytest.raises(ValueError, match="compressed"):
        read(tmp_path / "a.npz", "x")


def test_every_flipped_bit_of_a_member_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", x=np.arange(3, dtype=np.float32))
    content, found = path.read_bytes(), members(path)
    with zipfile.ZipFile(path) as archive:
        begin = archive.start_dir
    # Not noticed, since they say nothing about the array: version, flags, time and date of the member, and its sizes.
    ignored = {*range(4, 8), *range(10, 14), *range(18, 26)}
    for place in set(range(begin)) - ignored:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        descriptor = os.open(path, os.O_RDONLY)
        with pytest.raises(DataError), reading("x"):
            read_member(descriptor, "x.npy", found["x.npy"])
        os.close(descriptor)


def test_a_full_disk_is_one_error_with_an_errno(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, writing_npz(Path("/dev/full")) as npz:
        npz.write("x", np.zeros(10_000))
    assert caught.value.errno == errno.ENOSPC
    script = (
        "import resource, sys, numpy as np\nfrom pathlib import Path\n"
        "from tasks.files import replacing\nfrom tasks.npz import writing_npz\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "try:\n"
        "    with replacing(Path(sys.argv[1])) as fresh, writing_npz(fresh) as npz:\n"
        "        npz.write('x', np.zeros(100))\n"
        "        npz.write_blocks('y', (99, 100), np.float64, (np.zeros(100) for _ in range(99)))\n"
        "except OSError as exc:\n    print(exc.errno, exc.filename)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.npz")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{errno.EFBIG} {tmp_path / 'a.npz'}\n", "")
    assert list(tmp_path.iterdir()) == []


def test_an_array_of_64_mb_is_written_in_the_memory_of_a_block(tmp_path: Path) -> None:
    tracemalloc.start()
    with writing_npz(tmp_path / "a.npz") as npz:
        npz.write_blocks("x", (64, 2**18), np.float32, (np.zeros((1, 2**18), np.float32) for _ in range(64)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "a.npz").stat().st_size > 64 * 2**20
    assert peak < 4 * 2**20
