"""The clients' data on disk: ids, arrays, and the file that names the clients."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.clients import (
    TEST,
    Form,
    Stored,
    check_client_id,
    client_sizes,
    find,
    read_checked,
    read_client,
    shards,
    writing,
)
from tasks.errors import DataError
from tests.shards import (
    alone,
    damage,
    members_of,
    put,
    shard_of,
    stored,
    write_client,
    write_folders,
    write_members,
    write_sites,
)

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
    read_x, read_y = read_client(alone(tmp_path, "a", x, y))
    assert (read_x.dtype, read_y.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(read_x, x)
    np.testing.assert_array_equal(read_y, y)


def test_a_client_with_fewer_labels_than_examples_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="client site-7"):
        read_client(alone(tmp_path, "site-7", np.zeros((3, 2)), np.zeros(2)))


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
    alone(tmp_path, "a", np.zeros((2, 1)), np.zeros(2))
    put(tmp_path, "a", x=content)
    with pytest.raises(DataError, match=r"client a: cannot read a/x\.npy in .*clients_000\.npz"):
        read_client(stored(tmp_path, "a", Form((1,), 3)))


def test_clients_are_those_that_the_file_names_sorted(tmp_path: Path) -> None:
    for name in ("clients_000.npz", "clients_001.npz", "test.npz", ".DS_Store", "q.json"):
        (tmp_path / name).touch()
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
        (
            {"clients": {"a": 3}},
            r"must hold clients_000.npz for the clients that p.json names, and test.npz, got 3 more \(a, b.csv, cl",
        ),
        ({"clients": {"../a": 3}}, "a client id must"),
    ],
)
def test_a_file_that_does_not_name_the_clients_beside_it_is_refused(record: Any, says: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("clients_000.npz", "clients_001.npz", "test.npz", "b.csv"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=says) as caught:
        client_sizes(record, tmp_path / "p.json", "preprocess")
    assert "\n" not in str(caught.value)
    assert "run the step preprocess again" in str(caught.value) or "a client id must" in says


# shards


@pytest.mark.parametrize("number", [1, 3, 128, 129, 300, 10_000])
def test_shards_hold_consecutive_clients_in_equal_parts(number: int) -> None:
    clients = [f"{k:05}" for k in range(number)]
    divided = shards(clients[::-1])
    assert list(divided) == [f"clients_{shard:03}.npz" for shard in range(min(number, 128))]
    assert [client for its in divided.values() for client in its] == clients
    assert len({len(its) for its in divided.values()}) <= 2
    assert max(map(len, divided.values())) - min(map(len, divided.values())) <= 1


def _sites(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    sites = {f"{k:03}": (rng.random((1 + k % 4, 2), np.float32), np.zeros(1 + k % 4, np.int32)) for k in range(number)}
    return sites | {TEST: sites["000"]}


def _found(root: Path, sites: dict[str, Any]) -> dict[str, Stored]:
    sizes = {client: len(y) for client, (_, y) in sites.items() if client != TEST}
    return find(root, sizes, Form((2,), 1), lambda _: None, "preprocess")


def _unreadable(found: dict[str, Stored]) -> dict[str, str]:
    broken = {}
    for client, of_client in found.items():
        try:
            read_checked(of_client)
        except DataError as exc:
            broken[client] = str(exc)
    return broken


def test_two_writes_have_equal_bytes(tmp_path: Path) -> None:
    for root in ("a", "b"):
        write_sites(tmp_path / root, _sites(140))
    assert [path.name for path in sorted((tmp_path / "a").iterdir())][-1] == "test.npz"
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_clients_that_are_not_written_in_order_are_a_defect(tmp_path: Path) -> None:
    examples = np.zeros((1, 2)), np.zeros(1)
    with writing(tmp_path, ["01", "02"]) as write:
        write("02", *examples)
        with pytest.raises(ValueError, match="client 01 must be written before"):
            write("01", *examples)


def test_one_damaged_client_leaves_the_others_of_its_shard(tmp_path: Path) -> None:
    sites = _sites(300)
    write_sites(tmp_path, sites)
    assert shard_of(tmp_path, "100") == shard_of(tmp_path, "101")
    damage(tmp_path, "101", "x", lambda content: content[:-3])
    broken = _unreadable(_found(tmp_path, sites))
    assert list(broken) == ["101"]
    assert broken["101"].startswith("client 101: cannot read 101/x.npy in ")


@pytest.mark.parametrize("content", [None, b"", b"no archive"])
def test_a_shard_that_cannot_be_read_names_each_of_its_clients(content: bytes | None, tmp_path: Path) -> None:
    sites = _sites(300)
    write_sites(tmp_path, sites)
    shard = shard_of(tmp_path, "100")
    mine = {name.split("/")[0] for name in members_of(shard)}
    shard.unlink() if content is None else shard.write_bytes(content)
    broken = _unreadable(_found(tmp_path, sites))
    assert set(broken) == mine
    assert all(says.startswith(f"client {client}: cannot read {shard}") for client, says in broken.items())


def test_a_shard_that_changed_after_it_was_found_is_never_misread(tmp_path: Path) -> None:
    sites = _sites(300)
    write_sites(tmp_path, sites)
    found = _found(tmp_path, sites)
    shard = shard_of(tmp_path, "101")
    mine = sorted({name.split("/")[0] for name in members_of(shard)})
    x, y = sites["101"]
    write_client(tmp_path, "101", x + 1, y)  # the same places, other values
    assert list(_unreadable(found)) == ["101"]
    write_client(tmp_path, "101", np.concatenate([x, x]), np.append(y, y))  # other places from here on
    assert list(_unreadable(found)) == mine[mine.index("101") :]
    assert _unreadable(_found(tmp_path, sites)).keys() == {"101"}  # of another number of examples
    write_members(shard, dict(reversed(members_of(shard).items())))
    assert list(_unreadable(found)) == mine


def test_swapped_clients_are_found_by_their_names(tmp_path: Path) -> None:
    sites = _sites(300)
    write_sites(tmp_path, sites)
    shard = shard_of(tmp_path, "100")
    write_members(shard, dict(reversed(members_of(shard).items())))
    found = _found(tmp_path, sites)
    np.testing.assert_array_equal(read_checked(found["100"])[0], sites["100"][0])
    np.testing.assert_array_equal(read_checked(found["101"])[0], sites["101"][0])


def test_clients_that_nobody_names_are_refused(tmp_path: Path) -> None:
    sites = _sites(300)
    write_sites(tmp_path, sites)
    del sites["000"]
    with pytest.raises(DataError, match=r"got 2 more members \(000/x.npy, 000/y.npy\): run the step preprocess again"):
        _found(tmp_path, sites)


def test_threads_read_one_shard_at_the_same_time(tmp_path: Path) -> None:
    sites = _sites(300)
    write_sites(tmp_path, sites)
    found = _found(tmp_path, sites)
    with ThreadPoolExecutor(8) as pool:
        for client, (x, _) in zip(found, pool.map(read_checked, found.values()), strict=True):
            np.testing.assert_array_equal(x, sites[client][0])


def test_a_pipe_in_the_place_of_a_shard_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    sites = _sites(1)
    write_sites(tmp_path, sites)
    found = _found(tmp_path, sites)["000"]
    (tmp_path / "clients_000.npz").unlink()
    os.mkfifo(tmp_path / "clients_000.npz")
    for of_client in (found, _found(tmp_path, sites)["000"]):
        with pytest.raises(DataError, match="client 000: cannot read"):
            read_client(of_client)


# the layout of earlier versions


def _track(settings: Any, folder: Path) -> None:
    from flows.mlflow_store.logged_models import load_models

    load_models(settings, folder, {"global": "models/global.h5"})


def _diagnose(settings: Any, folder: Path) -> None:
    from tasks.diagnose.replay.computations import ComputationCache
    from tasks.diagnose.replay.engine import replayer

    with replayer(settings, folder, ComputationCache()):
        pass


def _federate(settings: Any, folder: Path) -> None:
    from tasks.federate import federate

    federate(settings, folder)


def _prune(settings: Any, folder: Path) -> None:
    from tasks.prune import prune

    prune(settings, folder)


@pytest.mark.parametrize("step", [_federate, _prune, _diagnose, _track])
def test_a_folder_for_each_client_is_refused(step: Any, make_clients: Any, settings_of: Any, tmp_path: Path) -> None:
    clients = make_clients(sizes=(3, 4))
    write_folders(clients.write(tmp_path) / "data/clients", clients.data)
    with pytest.raises(DataError, match=r"got 3 more \(00, 01, test\): run the step preprocess again"):
        step(settings_of({"federate.model": "logistic"}), tmp_path)
