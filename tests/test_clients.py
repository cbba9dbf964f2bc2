"""The clients' data on disk: ids, arrays, and the file that names the clients."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.clients import check_client_id, client_sizes, read_client, write_client
from tasks.errors import DataError

LOST = [".git", ".dvc", ".hg", ".hidden", "__pycache__", "x.pyc", "a.", "...", "x.dvc", "dvc.yaml", "dvc.lock", "nul"]
MISTAKEN = ["test", "x.json", "partition.json", "con", "com1", "aux.b", "Dvcfile"]


@pytest.mark.parametrize("client", ["", ".", "..", "a/b", "a b", "ü", "x" * 101, "a\n", "a\0", *LOST, *MISTAKEN])
def test_client_ids_that_are_no_plain_folder_name_are_refused(client: str) -> None:
    for twin in (client, client.upper(), client.title()):
        with pytest.raises(DataError, match="a client id must"):
            check_client_id(twin)


@pytest.mark.parametrize("client", ["0", "a", "00", "site-7", "a.b", "_x", "-", "x" * 100, "testing", "a.pyc.b", "git"])
def test_client_ids_that_can_name_a_folder_are_taken(client: str) -> None:
    assert check_client_id(client) == client


def test_a_client_reads_back_with_its_types(tmp_path: Path) -> None:
    x, y = np.arange(6, dtype=np.float64).reshape(3, 2), np.array([0, 1, 0])
    write_client(tmp_path / "a", x, y)
    read_x, read_y = read_client(tmp_path / "a")
    assert (read_x.dtype, read_y.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(read_x, x)
    np.testing.assert_array_equal(read_y, y)


def test_a_client_with_fewer_labels_than_examples_is_refused_by_name(tmp_path: Path) -> None:
    write_client(tmp_path / "site-7", np.zeros((3, 2)), np.zeros(2))
    with pytest.raises(DataError, match="client site-7"):
        read_client(tmp_path / "site-7")


def _npy(shape: str, descr: str = "<f4", data: bytes = bytes(8)) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    "content",
    [
        _npy("(1,)"),
        _npy("(1000000000000,)"),
        _npy(f"({2**40}, {2**40})"),
        _npy("(-1,)"),
        _npy("(-1, -2)"),
        _npy(f"({'9' * 5000},)"),
        _npy("(" * 500),
        _npy("(1,)", "|O", b"cos\nsystem\n(S'true'\ntR."),
        b"\x93NUMPY\x09\x00",
        b"\x93NUMPY",
        b"",
    ],
)
def test_a_npy_that_promises_what_is_not_there_is_refused(tmp_path: Path, content: bytes) -> None:
    write_client(tmp_path / "a", np.zeros((2, 1)), np.zeros(2))
    (tmp_path / "a" / "x.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"client a: cannot read .*x\.npy"):
        read_client(tmp_path / "a")


def test_clients_are_those_that_the_file_names_sorted(tmp_path: Path) -> None:
    for name in ("b", "test"):
        (tmp_path / name).mkdir()
    assert client_sizes({"clients": {"b": 3, "a": {"num_examples": 5}}}, tmp_path / "p.json", "preprocess") == {
        "a": 5,
        "b": 3,
    }


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({}, "must name the clients"),
        ([], "must name the clients"),
        ({"clients": ["a"]}, "must name the clients"),
        ({"clients": {"a": 0}}, "must name the clients"),
        ({"clients": {"a": True}}, "must name the clients"),
        ({"clients": {"a": {}}}, "must name the clients"),
        ({"clients": {}}, "names no client"),
        ({"clients": {"a": 3}}, r"must hold the clients that p.json names, got 2 more \(b, c\)"),
        ({"clients": {"../a": 3}}, "a client id must"),
    ],
)
def test_a_file_that_does_not_name_the_clients_beside_it_is_refused(record: Any, says: str, tmp_path: Path) -> None:
    for name in ("c", "b", "a", "test"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=says) as caught:
        client_sizes(record, tmp_path / "p.json", "preprocess")
    assert "\n" not in str(caught.value)
    assert "run the step preprocess again" in str(caught.value) or "a client id must" in says


def test_a_pipe_in_the_place_of_an_array_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npy")
    with pytest.raises(DataError, match="cannot read"):
        read_client(tmp_path)
