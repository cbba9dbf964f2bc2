"""The .npz files that Undrift writes: arrays stored one after the other, each of which can be read without the others.

An .npz file is a zip archive of .npy files. Here nothing is compressed, and every time stamp is the first of the
format, 1 January 1980. So equal arrays give equal bytes, and an array's place in the file follows from the archive's
directory. `numpy.load(path)[name]` reads every array.
"""

import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import empty_aligned
from tasks.files import NpyForm, check_regular, npy_form, npy_header

_UNIX = 3
"""The system of the archive's members in its directory. By default, zipfile writes the one it runs on."""

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
"""Before each member: signature, version, flags, method, time, date, CRC, two sizes, lengths of name and extra."""
_HEAD = 1024
"""Bytes that are read first of a member. They hold the two headers of every array that Undrift writes (about 200)."""

_CHECKED = 1 << 22
"""Bytes that are checked at a time."""


@dataclass(frozen=True)
class Member:
    """Where an array is in an .npz file, as the archive's directory says.

    Attributes:
        offset: of the member's header, in bytes from the beginning of the file.
        size: of the .npy in bytes.
        crc: CRC-32 of these bytes.
        stored: whether the member is neither compressed nor encrypted.
    """

    offset: int
    size: int
    crc: int
    stored: bool


class NpzWriter:
    """Writes arrays into an .npz file; made by `writing_npz`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def write(self, name: str, array: NDArray[Any]) -> None:
        """Appends `array` in C order as the member `name`.npy."""
        self.write_blocks(name, array.shape, array.dtype, [array])

    def write_blocks(self, name: str, shape: Sequence[int], dtype: Any, blocks: Iterable[NDArray[Any]]) -> None:
        """Appends an array that is never in memory as a whole.

        Args:
            name: of the array; its member is `name`.npy.
            shape: of the whole array.
            dtype: of its values.
            blocks: consecutive values of the array in C order, for example blocks of its rows.

        Raises:
            ValueError: the blocks hold more or fewer values than `shape`.
            OSError: the file cannot be written, for example because the disk is full.
        """
        dtype = np.dtype(dtype)
        header = npy_header(tuple(map(int, shape)), dtype)
        info = zipfile.ZipInfo(f"{name}.npy")
        info.create_system = _UNIX
        info.file_size = len(header) + math.prod(shape) * dtype.itemsize  # above 4 GiB, it has another kind of header
        written = len(header)
        with self._archive.open(info, "w") as member:
            member.write(header)
            for block in blocks:
                content = np.ascontiguousarray(block, dtype=dtype).reshape(-1).view(np.uint8)
                member.write(content.data)
                written += content.nbytes
        promised = len(header) + math.prod(shape) * dtype.itemsize
        if written != promised:
            raise ValueError(f"{name} must have {promised} bytes for the shape {tuple(shape)}, got {written}")


@contextmanager
def writing_npz(path: Path) -> Iterator[NpzWriter]:
    """Creates the .npz file `path`, and yields its writer. Call this within `replacing`, which names the final path.

    Rejected: `numpy.savez`. It needs all arrays at once, and after a full disk its archive is closed by the garbage
    collector, which prints a second error.

    Raises:
        OSError: the file cannot be written; it has an errno.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        yield NpzWriter(archive)


def members(path: Path) -> dict[str, Member]:
    """Returns the members of an .npz file by name (with `.npy`). Only the archive's directory is read.

    Call this within `reading`, because zipfile's exceptions for damaged archives cannot be listed.
    """
    check_regular(path)
    with zipfile.ZipFile(path) as archive:
        return {
            info.filename: Member(
                info.header_offset,
                info.file_size,
                info.CRC,
                info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1,
            )
            for info in archive.infolist()
        }


def read_member(descriptor: int, name: str, member: Member, unchanged: bool = False) -> NDArray[Any]:
    """Returns one array of an open .npz file, in its own memory. Several threads can read one file at the same time.

    Call this within `reading`.

    Args:
        descriptor: of the file; its position is neither used nor changed.
        name: of the member, with `.npy`.
        member: as `members` found it.
        unchanged: whether to leave out the check of the CRC-32, because the file passed it before.

    Raises:
        ValueError: (1) the member is compressed, (2) it is damaged (unless `unchanged`), or the file changed since
            `members` read it, or (3) it is no .npy of version 1.0 or 2.0, or has pickled objects.
        OSError: the file cannot be read.
    """
    place = locate(descriptor, name, member)
    array = empty_aligned(place.shape[::-1] if place.fortran else place.shape, place.dtype)
    content = array.reshape(-1).view(np.uint8).data
    read_into(descriptor, content, place.begin)
    if not unchanged and zlib.crc32(content, zlib.crc32(place.header)) != member.crc:
        raise ValueError("it is damaged (CRC-32)")
    return array.T if place.fortran else array


@dataclass(frozen=True)
class Place:
    """Where the values of an array are.

    Attributes:
        shape: of the array.
        fortran: whether the values are in Fortran order.
        dtype: of the values.
        begin: of the values, in bytes from the beginning of the file.
        header: of the .npy, before the values.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    begin: int
    header: bytes


def locate(descriptor: int, name: str, member: Member) -> Place:
    """Returns where the values of one array of an open .npz file are; see `read_member`."""
    if not member.stored:
        raise ValueError("it is compressed or encrypted, and must be stored as it is")
    head = os.pread(descriptor, _HEAD, member.offset)
    if len(head) < _LOCAL_HEADER.size:
        raise ValueError("the file is cut short")
    signature, _, _, method, _, _, crc, _, _, name_length, extra_length = _LOCAL_HEADER.unpack_from(head)
    start = _LOCAL_HEADER.size + name_length
    as_named = head[_LOCAL_HEADER.size : start] == name.encode()
    if signature != b"PK\3\4" or method or crc != member.crc or not as_named:
        raise ValueError("the file is damaged, or changed since its directory was read")
    start += extra_length
    header = _npy_header(head[start : start + min(member.size, _HEAD)])
    form = _form(header, member.size)
    return Place(form.shape, form.fortran, form.dtype, member.offset + start + len(header), header)


def check_member(descriptor: int, place: Place, member: Member) -> None:
    """Reads an array once, in blocks.

    Raises:
        ValueError: it is damaged.
    """
    crc, done = zlib.crc32(place.header), len(place.header)
    while done < member.size:
        content = os.pread(descriptor, min(_CHECKED, member.size - done), place.begin + done - len(place.header))
        if not content:
            raise ValueError("the file is cut short")
        crc, done = zlib.crc32(content, crc), done + len(content)
    if crc != member.crc:
        raise ValueError("it is damaged (CRC-32)")


def _npy_header(head: bytes) -> bytes:
    """Returns the header with which a .npy begins. Bytes 8 and 9 are its length; in version 2.0, also 10 and 11."""
    begin = 8 + (2 if head[6:7] == b"\1" else 4)
    return head[: begin + int.from_bytes(head[8:begin], "little")]


@lru_cache(maxsize=4096)  # parsing takes longer than reading a small array
def _form(header: bytes, size: int) -> NpyForm:
    return npy_form(io.BytesIO(header), size)


def read_into(descriptor: int, content: memoryview, offset: int) -> None:
    """Fills `content` with the bytes of an open file from `offset` on. The file's position is neither used nor changed.

    `content` has one dimension and the format "B".

    Raises:
        ValueError: the file ends before.
        OSError: the file cannot be read.
    """
    left = content
    while left.nbytes:
        # The system reads at most 2 GiB at a time.
        count = os.preadv(descriptor, [left], offset)
        if not count:
            raise ValueError("the file is cut short")
        left, offset = left[count:], offset + count
