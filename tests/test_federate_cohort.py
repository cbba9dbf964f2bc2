import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tasks.clients import CLIENTS, TEST
from tasks.errors import DataError, SettingsError
from tasks.federate.cohort import cohort_of
from tasks.settings import parse
from tests.shards import damage, members_of, npy, put, shard_of, write_client

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clients(make_clients):
    return make_clients(sizes=(3, 8, 5), shape=(4, 3, 2))


def cohort_in(folder, *, weighting="examples", brightness=0.0, shared_fraction=0.0, seed=0, exclude=()):
    federate = {"aggregator": {"weighting": weighting}, "shared_fraction": shared_fraction, "exclude": list(exclude)}
    augment = {"brightness": brightness}
    return cohort_of(parse({"seed": seed, "preprocess": {"augment": augment}, "federate": federate}), folder)


def test_cohort_holds_every_client_and_the_hold_out_data(clients, tmp_path):
    cohort = cohort_in(clients.write(tmp_path))
    assert {c: (info.num_examples, info.weight) for c, info in cohort.clients.items()} == {
        "00": (3, 3.0),
        "01": (8, 8.0),
        "02": (5, 5.0),
    }
    assert list(cohort.clients) == sorted(cohort.clients)
    assert cohort.broken == {}
    assert (cohort.input_shape, cohort.num_classes) == ((4, 3, 2), 3)
    np.testing.assert_array_equal(cohort.test_x, clients.data[TEST][0])
    np.testing.assert_array_equal(cohort.test_y, clients.data[TEST][1])


def test_weights_follow_the_weighting(clients, tmp_path):
    clients.write(tmp_path)
    assert {info.weight for info in cohort_in(tmp_path, weighting="uniform").clients.values()} == {1.0}
    for client, info in cohort_in(tmp_path, weighting="inverse_variance").clients.items():
        assert info.weight == pytest.approx(1 / np.var(clients.data[client][0].astype(np.float64)))


def test_brightness_is_divided_by_each_clients_own_sd(clients, tmp_path):
    clients.sd = {"01": [0.5, 0.25]}
    cohort = cohort_in(clients.write(tmp_path), brightness=0.2)
    # A shift of 0.2 of the full range is 0.2 / sd, because the pixels were divided by sd.
    np.testing.assert_allclose(cohort.clients["00"].brightness, [0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(cohort.clients["01"].brightness, [0.4, 0.8], rtol=1e-6)
    assert cohort_in(tmp_path).clients["01"].brightness.shape == (0,)


def _promise_more(content):
    return content.replace(b"(8,", b"(80000000000,").replace(b" " * 10 + b"\n", b"\n")


def _compress(root):
    shard = shard_of(root, "01")
    members = members_of(shard)
    with zipfile.ZipFile(shard, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


def _shard(change):
    def applied(root, x, y):
        shard = shard_of(root, "01")
        content = shard.read_bytes()
        shard.unlink()
        change(shard, content)

    return applied


def _examples(change):
    return lambda root, x, y: write_client(root, "01", *change(x, y))


def _flip(shard, content):
    """Changes a bit of x without its checksum."""
    place = content.index(b"NUMPY") + 130
    shard.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


BREAK = {
    "no shard": _shard(lambda shard, content: None),
    "a folder for a shard": _shard(lambda shard, content: shard.mkdir()),
    "a pipe for a shard": _shard(lambda shard, content: os.mkfifo(shard)),
    "a link in a circle": _shard(lambda shard, content: shard.symlink_to(shard)),
    "a link to nothing": _shard(lambda shard, content: shard.symlink_to("nowhere")),
    "an empty shard": _shard(lambda shard, content: shard.write_bytes(b"")),
    "a shard that is no archive": _shard(lambda shard, content: shard.write_bytes(b"hello")),
    "a shard cut short": _shard(lambda shard, content: shard.write_bytes(content[:-5])),
    "a flipped bit": _shard(_flip),
    "a compressed shard": lambda root, x, y: _compress(root),
    "an example more": _examples(lambda x, y: (np.concatenate([x, x[:1]]), np.append(y, y[0]))),
    "an example less": _examples(lambda x, y: (x[1:], y[1:])),
    "a header that promises more": lambda root, x, y: damage(root, "01", "x", _promise_more),
    "no x.npy": lambda root, x, y: put(root, "01", x=None),
    "no y.npy": lambda root, x, y: put(root, "01", y=None),
    "x cut short": lambda root, x, y: damage(root, "01", "x", lambda content: content[:-5]),
    "an empty member": lambda root, x, y: put(root, "01", x=b""),
    "not an array": lambda root, x, y: put(root, "01", x=b"hello"),
    "a pickle": lambda root, x, y: put(root, "01", y=npy(np.array(list(y), dtype=object), allow_pickle=True)),
    "float64": lambda root, x, y: put(root, "01", x=npy(x.astype(np.float64))),
    "int64 labels": lambda root, x, y: put(root, "01", y=npy(y.astype(np.int64))),
    "big-endian": lambda root, x, y: put(root, "01", x=npy(x.astype(">f4"))),
    "Fortran order": lambda root, x, y: put(root, "01", x=npy(np.asfortranarray(x))),
    "other lengths": _examples(lambda x, y: (x[:-1], y)),
    "another shape": _examples(lambda x, y: (x.reshape(len(x), 3, 4, 2), y)),
    "no example": _examples(lambda x, y: (x[:0], y[:0])),
    "a label too large": _examples(lambda x, y: (x, np.append(y[:-1], 77))),
    "a negative label": _examples(lambda x, y: (x, np.append(y[:-1], -77))),
    "NaN": _examples(lambda x, y: (np.where(x == x.max(), np.nan, x), y)),
    "infinity": _examples(lambda x, y: (np.where(x == x.max(), np.inf, x), y)),
}


def test_a_client_that_may_not_be_read_is_left_out_with_a_reason(clients):
    # Root can read everything, so another user reads the files, in a folder that this user can enter. zipfile needs
    # cp437, which this user may not be able to import.
    script = (
        "import encodings.cp437, os, sys\nfrom pathlib import Path\nfrom tasks.runtime.check_in import check_in\n"
        "if os.geteuid() == 0:\n    os.seteuid(65534)\n"
        "print(dict(check_in(Path(sys.argv[1])).broken))"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        root = clients.write(Path(folder)) / CLIENTS
        os.chmod(shard_of(root, "01"), 0)
        command = [sys.executable, "-c", script, root]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "{'01': 'cannot read clients_001.npz: Permission denied'}\n", done.stderr


@pytest.mark.parametrize("fault", BREAK)
def test_client_that_cannot_be_used_is_left_out_with_a_reason_to_publish(fault, clients, tmp_path):
    BREAK[fault](clients.write(tmp_path) / CLIENTS, *clients.data["01"])
    cohort = cohort_in(tmp_path)
    assert sorted(cohort.clients) == ["00", "02"]
    (reason,) = (cohort.broken["01"],)
    # The reason goes into clients.csv, so it holds neither the workspace's path nor any of the client's data.
    assert str(tmp_path) not in reason
    assert "77" not in reason
    assert "\n" not in reason
    assert reason


def test_no_usable_client_is_an_error_that_says_why(clients, tmp_path):
    clients.write(tmp_path)
    for client in clients.ids:
        put(tmp_path / CLIENTS, client, y=None)
    with pytest.raises(DataError, match=r"no client can be used: .*00.*y.npy.*01.*02"):
        cohort_in(tmp_path)


def test_unusable_hold_out_data_is_an_error(clients, tmp_path):
    x, y = clients.data[TEST]
    write_client(clients.write(tmp_path) / CLIENTS, TEST, x, y + 1)
    with pytest.raises(DataError, match="test: labels must be 0 to 2"):
        cohort_in(tmp_path)


def test_no_data_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"preprocess.json is missing: run the step that makes it first"):
        cohort_in(tmp_path)


def test_digest_follows_every_byte_that_the_rounds_read(clients, make_clients, tmp_path):
    def digest():
        return cohort_in(tmp_path).digest

    first = digest() if clients.write(tmp_path) else None
    assert digest() == first
    x, y = clients.data["02"]
    write_client(tmp_path / CLIENTS, "02", np.where(x == x.max(), 0, x), y)
    changed_x = digest()
    write_client(tmp_path / CLIENTS, "02", x, (y + 1) % 3)
    changed_y = digest()
    write_client(tmp_path / CLIENTS, "02", x, y)
    assert digest() == first
    clients.data["03"] = clients.data.pop("02")
    renamed = cohort_in(clients.write(tmp_path / "renamed")).digest
    test_x, test_y = clients.data[TEST]
    write_client(tmp_path / CLIENTS, TEST, test_x + 1, test_y)
    assert len({first, changed_x, changed_y, renamed, digest()}) == 5


def test_digest_is_the_md5_of_ids_the_clients_digests_and_the_hold_out_bytes(clients, tmp_path):
    # Checkpoints hold this digest. If the same data had another digest, every killed run would begin again.
    (x, y), (test_x, test_y) = clients.data["00"], clients.data[TEST]
    for other in ("01", "02"):
        clients.data.pop(other)
    own = hashlib.md5(x.astype("<f4").tobytes() + y.astype("<i4").tobytes()).hexdigest()
    whole = b"00\0" + own.encode() + test_x.tobytes() + test_y.tobytes()
    assert cohort_in(clients.write(tmp_path)).digest == hashlib.md5(whole).hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        '{"input_shape": 4, "num_classes": 3}',
        '{"input_shape": [4]}',
        '{"input_shape": [4], "num_classes": Infinity}',
    ],
)
def test_preprocess_json_that_does_not_say_the_shape_is_an_error(text, clients, tmp_path):
    (clients.write(tmp_path) / "data/clients/preprocess.json").write_text(text)
    with pytest.raises(DataError, match="must say input_shape and num_classes"):
        cohort_in(tmp_path)


@pytest.mark.parametrize("named", [None, {}, {"00": 3, "01": 8}, {"00": 3, "01": 8, "02": "5"}])
def test_clients_that_preprocess_json_does_not_name_are_an_error(named, clients, tmp_path):
    path = clients.write(tmp_path) / "data/clients/preprocess.json"
    described = json.loads(path.read_text())
    del described["clients"]
    path.write_text(json.dumps(described if named is None else described | {"clients": named}))
    with pytest.raises(DataError, match="run the step preprocess again") as caught:
        cohort_in(tmp_path)
    assert "\n" not in str(caught.value)


def test_preprocess_json_without_an_sd_is_an_error_where_that_is_needed(clients, tmp_path):
    path = clients.write(tmp_path) / "data/clients/preprocess.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"statistics": {}}))
    assert cohort_in(tmp_path).clients
    with pytest.raises(DataError, match="must say client 00's mean and sd"):
        cohort_in(tmp_path, brightness=0.1)


@pytest.mark.parametrize(
    "sd", [None, "1", [1.0], [1.0, 0.0], [1.0, -1.0], [[1.0], [1.0, 2.0]], [1.0, "x"], [1.0, 1e999]]
)
def test_an_sd_that_nothing_can_be_divided_by_is_an_error(sd, clients, tmp_path):
    path = clients.write(tmp_path) / "data/clients/preprocess.json"
    described = json.loads(path.read_text())
    described["statistics"]["by_client"]["01"]["sd"] = sd
    path.write_text(json.dumps(described))
    with pytest.raises(DataError, match=r"must say client 01's mean and sd \(run the step preprocess again\), got"):
        cohort_in(tmp_path, brightness=0.1)


def test_digest_does_not_depend_on_where_the_workspace_is(clients, tmp_path):
    one, other = (cohort_in(clients.write(tmp_path / name)).digest for name in ("a", "b"))
    assert one == other


def test_share_is_that_of_all_weights_and_labels_are_counted(clients, tmp_path):
    cohort = cohort_in(clients.write(tmp_path))
    assert [info.share for info in cohort.clients.values()] == pytest.approx([3 / 16, 8 / 16, 5 / 16])
    for client, info in cohort.clients.items():
        y = clients.data[client][1]
        assert info.labels.tolist() == [int(np.sum(y == c)) for c in range(3)]


def test_labels_that_a_client_lacks_are_counted_as_none(make_clients, tmp_path):
    clients = make_clients(sizes=(6, 5))
    clients.data["00"] = clients.data["00"][0], np.zeros(6, np.int32)
    cohort = cohort_in(clients.write(tmp_path))
    assert cohort.clients["00"].labels.tolist() == [6, 0, 0]


@pytest.mark.parametrize(("fraction", "size"), [(0.15, 3), (0.17, 3), (0.18, 4)])
def test_public_set_has_the_nearest_number_of_examples_and_one_of_each_label_is_enough(
    make_clients, tmp_path, fraction, size
):
    # Of 20 examples of 3 labels.
    x, y = cohort_in(make_clients(sizes=(12, 8)).write(tmp_path), shared_fraction=fraction).public
    assert len(x) == len(y) == size
    assert set(y) == {0, 1, 2}


def test_public_set_is_drawn_evenly_over_the_labels_and_added_to_every_client(make_clients, tmp_path):
    clients = make_clients(sizes=(40, 25, 35))
    cohort = cohort_in(clients.write(tmp_path), shared_fraction=0.12, seed=3)
    x, y = cohort.public
    # 12 of the 100 examples, 4 of each of the 3 labels.
    assert np.bincount(y).tolist() == [4, 4, 4]
    own = np.concatenate([clients.data[c][0] for c in clients.ids])
    labels = np.concatenate([clients.data[c][1] for c in clients.ids])
    places = [int(np.flatnonzero((own == example).all(axis=(1, 2, 3)))[0]) for example in x]
    assert len(set(places)) == 12
    np.testing.assert_array_equal(labels[places], y)
    assert {c: (i.num_examples, i.weight) for c, i in cohort.clients.items()} == {
        "00": (52, 52.0),
        "01": (37, 37.0),
        "02": (47, 47.0),
    }
    again = cohort_in(tmp_path, shared_fraction=0.12, seed=3)
    np.testing.assert_array_equal(again.public[0], x)
    other = cohort_in(tmp_path, shared_fraction=0.12, seed=4)
    assert not np.array_equal(other.public[0], x)


def test_owners_of_public_examples_have_them_twice(make_clients, tmp_path):
    clients = make_clients(sizes=(40, 25, 35))
    cohort = cohort_in(clients.write(tmp_path), shared_fraction=0.12)
    for client in clients.ids:
        x = np.concatenate([clients.data[client][0], cohort.public[0]])
        twice = len(x) - len(np.unique(x, axis=0))
        own = sum(bool((clients.data[client][0] == one).all(axis=(1, 2, 3)).any()) for one in cohort.public[0])
        assert (len(x), twice) == (cohort.clients[client].num_examples, own)


def test_public_set_of_rare_labels_takes_all_there_are(make_clients, tmp_path):
    clients = make_clients(sizes=(60,))
    x, _ = clients.data["00"]
    clients.data["00"] = x, np.array([0] * 57 + [1] * 2 + [2], np.int32)
    cohort = cohort_in(clients.write(tmp_path), shared_fraction=0.2)
    # 12 examples: one of each of the three labels, one each of the two that have a second, and the rest of the first.
    assert np.bincount(cohort.public[1]).tolist() == [9, 2, 1]


def test_public_set_without_an_example_of_each_label_is_refused(make_clients, tmp_path):
    clients = make_clients(sizes=(40, 25, 35))
    clients.write(tmp_path)
    with pytest.raises(SettingsError, match=r"shared_fraction must give .* of the 3 labels \(0.03 or more\), got 0.02"):
        cohort_in(tmp_path, shared_fraction=0.02)


def test_excluded_clients_are_not_read_and_have_no_share(clients, tmp_path):
    whole = cohort_in(clients.write(tmp_path))
    left = cohort_in(tmp_path, exclude=["01"])
    assert list(left.clients) == ["00", "02"]
    assert sum(info.share for info in left.clients.values()) == pytest.approx(1.0)
    assert left.digest != whole.digest


@pytest.mark.parametrize(
    ("exclude", "says"), [(["07"], "names 07, which the data does not have: 00, 01, 02"), (["00", "01", "02"], "all")]
)
def test_wrong_exclusions_are_refused_by_name(exclude, says, clients, tmp_path):
    with pytest.raises(SettingsError, match=says):
        cohort_in(clients.write(tmp_path), exclude=exclude)
