import os
from dataclasses import replace

import numpy as np
import pytest

from tasks.clients import Form, find, read_raw
from tasks.errors import DataError
from tasks.local import own_examples as module
from tasks.local.own_examples import own_examples
from tests.shards import alone, damage, put, shard_of, write_client, write_sites

DIM = 4


def broken(root, fault):
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(8, DIM)).astype(np.float32), rng.integers(0, 3, 8).astype(np.int32)
    place = alone(root, "00", x, y)
    name = "y" if "label" in fault else "x"
    match fault:
        case "missing" | "labels missing":
            put(root, "00", **{name: None})
        case "cut by a byte":
            damage(root, "00", name, lambda content: content[:-1])
        case "cut by an example":
            damage(root, "00", name, lambda content: content[: -4 * DIM])
        case "cut in its header":
            damage(root, "00", name, lambda content: content[:60])
        case "empty":
            put(root, "00", **{name: b""})
        case "a header that says too much":
            damage(root, "00", name, lambda content: content[:8] + b"\xff\xff" + b"Doe,77\n" * 40)
        case "something else":
            put(root, "00", **{name: b"name,label\n" + b"Doe,77\n" * 40})
        case "more examples":
            write_client(root, "00", np.concatenate([x, x]), y)
        case "label too large":
            write_client(root, "00", x, np.append(y[:-1], 77))
        case "label negative":
            write_client(root, "00", x, np.append(y[:-1], -77))
        case "shard gone":
            shard_of(root, "00").unlink()
    return place


@pytest.mark.parametrize(
    "fault",
    [
        "missing",
        "cut by a byte",
        "cut by an example",
        "cut in its header",
        "empty",
        "a header that says too much",
        "something else",
        "more examples",
        "label too large",
        "label negative",
        "labels missing",
        "shard gone",
    ],
)
def test_broken_file_is_an_error_that_holds_no_label(fault, tmp_path):
    place = broken(tmp_path, fault)
    with pytest.raises(DataError) as caught:
        own_examples(place)
    assert "77" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)  # for clients.csv


@pytest.mark.parametrize("room", [(module.NORMALISED, module.MOST), (0, module.MOST), (0, 0)])
def test_examples_stay_in_memory_until_their_shard_changes(room, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MEMORY", module.Memory(*room))
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(8, DIM)).astype(np.float32), rng.integers(0, 3, 8).astype(np.int32)
    place = alone(tmp_path, "00", x, y)
    first = own_examples(place)
    second = own_examples(place)
    assert (second[0] is first[0]) == (max(room) > 0)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="read-only"):
        first[0][0, 0] = 1
    # The same bytes, written again: they are read again. Other bytes: the client is refused.
    write_client(tmp_path, "00", x, y)
    again = own_examples(place)
    assert again[0] is not first[0]
    np.testing.assert_array_equal(again[0], x)
    write_client(tmp_path, "00", x + 1, y)
    with pytest.raises(DataError, match="changed since"):
        own_examples(place)
    write_client(tmp_path, "00", x, y)
    own_examples(place)
    # One byte of the data, changed in place by someone who sets the old time again.
    shard = shard_of(tmp_path, "00")
    times, whole = (shard.stat().st_atime_ns, shard.stat().st_mtime_ns), shard.read_bytes()
    at = whole.index(x.tobytes())
    with shard.open("r+b") as opened:
        opened.seek(at)
        opened.write(bytes([whole[at] ^ 1]))
    os.utime(shard, ns=times)
    with pytest.raises(DataError, match="damaged"):
        own_examples(place)


def test_examples_of_one_client_under_two_forms_are_not_mixed_up(tmp_path):
    place = alone(tmp_path, "00", np.full((3, 2, 2, 1), 51, np.uint8), np.zeros(3, np.int32))
    dark, light = (replace(place, statistics={"mean": [mean], "sd": [1.0]}) for mean in (0.2, 0.1))
    for _ in range(2):
        np.testing.assert_allclose(own_examples(dark)[0], 0.0, atol=1e-6)  # 51/255 = 0.2
        np.testing.assert_allclose(own_examples(light)[0], 0.1, atol=1e-6)


def test_first_clients_of_one_folder_are_remembered_up_to_the_bound(tmp_path, monkeypatch):
    sites = {f"{k:02}": (np.full((4, DIM), k, np.float32), np.zeros(4, np.int32)) for k in range(9)}
    places = {}
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_sites(folder, sites)
        found = find(folder, dict.fromkeys(sites, 4), Form((DIM,), 3), lambda _: None, "preprocess")
        places[folder.name] = [found[client] for client in sites]
    # 4 · 4 · 4 bytes of x and 4 · 4 of y: two clients fit.
    monkeypatch.setattr(module, "_MEMORY", module.Memory(2 * 80, 2 * 80))
    for name in ("one", "two", "one"):
        first = [own_examples(place)[0] for place in places[name]]
        again = [own_examples(place)[0] for place in places[name]]
        assert [one is other for one, other in zip(first, again, strict=True)] == [True, True, *[False] * 7]
        for k, x in enumerate(again):
            np.testing.assert_array_equal(x, k)


def test_pixels_beyond_the_first_bound_stay_in_memory_as_they_are_stored(tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    sites = {f"{k:02}": (rng.integers(0, 256, (4, 2, 2, 1), np.uint8), np.zeros(4, np.int32)) for k in range(5)}
    write_sites(tmp_path, sites)
    statistics = {"mean": [0.5], "sd": [0.25]}
    found = find(tmp_path, dict.fromkeys(sites, 4), Form((2, 2, 1), 3), lambda _: statistics, "preprocess")
    # As they are used, 4 · 4 values of 4 bytes and 4 labels of 4: 80 bytes, so one client fits. As they are stored,
    # 4 · 4 bytes and the labels: 32 bytes, so two others fit.
    monkeypatch.setattr(module, "_MEMORY", module.Memory(80, 80 + 2 * 32))
    first = {client: own_examples(found[client])[0] for client in sites}
    read = []
    monkeypatch.setattr(module, "read_raw", lambda stored, **how: read.append(stored.client) or read_raw(stored, **how))
    for client in sites:
        x, y = own_examples(found[client])
        np.testing.assert_array_equal(x, first[client])
        np.testing.assert_allclose(x, (sites[client][0] / 255 - 0.5) / 0.25, atol=1e-6)
        np.testing.assert_array_equal(y, 0)
        assert not x.flags.writeable
    assert read == ["03", "04"]
