"""The hold-out data: whole groups, whole clients."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from tasks.datasets import RawExamples, load_raw
from tasks.datasets.groups import whole_groups
from tasks.errors import DataError, SettingsError
from tasks.partition import partition
from tasks.settings import DataKind, DataSettings, Missing, PartitionKind, PartitionSettings, Settings
from tests.raw_examples import as_numbers
from tests.shards import read_client


def read(kind: DataKind, path: Path | str = "tasks/datasets", seed: int = 0, **fields: Any) -> RawExamples:
    return as_numbers(load_raw(DataSettings(kind=kind, path=str(path), **fields), seed, Path("/nowhere")))


def table(folder: Path, rows: int = 40) -> Path:
    """Row n has the feature n, a label by its parity, the patient n // 4 and the hospital n // 4 mod 5."""
    lines = [f"{n},{'xy'[n % 2]},{n // 4},{n // 4 % 5}" for n in range(rows)]
    path = folder / "table.csv"
    path.write_text("\n".join(["a,label,patient,hospital", *lines, ""]))
    return path


def clients(folder: Path, **labels: Any) -> Path:
    home = folder / "clients"
    home.mkdir()
    for k, (client, y) in enumerate(labels.items()):
        np.savez(home / f"{client}.npz", x=np.full((len(y), 2), k), y=np.array(y))
    return home


# Groups


@hypothesis_settings(max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=40),
    num_classes=st.integers(1, 4),
    fraction=st.floats(0.05, 0.9),
    seed=st.integers(0, 2**31 - 1),
)
def test_no_group_is_on_both_sides_and_every_class_is_trained_on(
    sizes: list[int], num_classes: int, fraction: float, seed: int
) -> None:
    groups = np.repeat([f"g{k}" for k in range(len(sizes))], sizes)
    y = np.random.default_rng(seed).integers(0, num_classes, len(groups)).astype(np.int32)
    try:
        held = whole_groups(y, groups, fraction, np.random.default_rng(seed))
    except DataError:
        # Refused only if each group has all examples of some class.
        assert all(set(y.tolist()) - set(y[groups != group].tolist()) for group in np.unique(groups))
        return
    assert held.any()
    assert not set(groups[held].tolist()) & set(groups[~held].tolist())
    assert set(y[~held].tolist()) == set(y.tolist())
    np.testing.assert_array_equal(held, whole_groups(y, groups, fraction, np.random.default_rng(seed)))


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.35, 0.5, 0.8])
def test_groups_come_near_the_fraction_and_the_mix_of_labels(fraction: float) -> None:
    # 200 groups of 1 to 20 examples, each mostly of one class; the three classes occur 6 : 3 : 1.
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 21, 200)
    groups = np.repeat(np.arange(200).astype(str), sizes)
    y = np.repeat(rng.choice(3, 200, p=[0.6, 0.3, 0.1]), sizes).astype(np.int32)
    y = np.where(rng.random(len(y)) < 0.1, rng.integers(0, 3, len(y)), y).astype(np.int32)
    held = whole_groups(y, groups, fraction, np.random.default_rng(0))
    assert abs(held.mean() - fraction) < 0.005
    for label in range(3):
        assert abs(held[y == label].mean() - fraction) < 0.02


def test_a_large_group_is_not_held_out_where_small_ones_are_nearer() -> None:
    # One patient has 50 of 100 examples, ten others have 5 each. Exactly four of these are a fifth of all examples.
    groups = np.repeat([*"abcdefghijk"], [50] + [5] * 10)
    held = whole_groups(np.zeros(100, dtype=np.int32), groups, 0.2, np.random.default_rng(0))
    assert held.sum() == 20
    assert "a" not in groups[held]


@pytest.mark.parametrize("kind", ["iid", "natural"])
def test_patients_of_a_table_are_whole_and_counted(tmp_path: Path, kind: PartitionKind, caplog: Any) -> None:
    data = DataSettings(
        kind="table",
        path=str(table(tmp_path)),
        group_column="patient",
        client_column="hospital" if kind == "natural" else "",
    )
    settings = Settings(data=data, partition=PartitionSettings(kind=kind, min_examples=1, **_few(kind)))
    with caplog.at_level(logging.INFO):
        partition(settings, tmp_path)
    # Two of ten patients, with four examples each, are a fifth.
    assert "groups of 'patient': 8 for training and 2 held out, with 20.0 % of the examples" in caplog.text
    home = tmp_path / "data" / "partition"
    record = json.loads((home / "partition.json").read_text())
    assert record["held_out"] == {"groups": {"column": "patient", "train": 8, "test": 2}}
    assert record["test"]["counts"] == [4, 4]
    test = read_client(home, "test")[0]
    # Two patients with four rows each. The patient is no feature.
    assert test.shape == (8, 1 if kind == "natural" else 2)
    assert sorted(np.unique(test[:, 0] // 4, return_counts=True)[1].tolist()) == [4, 4]


def _few(kind: PartitionKind) -> dict[str, int]:
    return {} if kind == "natural" else {"num_clients": 2}


def test_clients_may_be_the_groups(tmp_path: Path) -> None:
    examples = read("table", table(tmp_path), group_column="hospital", client_column="hospital")
    assert examples.clients is not None
    # One of five hospitals is held out, with all eight rows.
    assert len(set(examples.clients.tolist())) == 4
    assert len(examples.test_y) == 8


def test_patients_of_a_list_of_images_are_whole(tmp_path: Path) -> None:
    rows = ["path,label,patient"]
    for n in range(16):
        Image.new("L", (3, 3), n).save(tmp_path / f"{n}.png")
        rows.append(f"{n}.png,{'xy'[n % 2]},p{n // 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    examples = read("images", tmp_path, group_column="patient", test_fraction=0.25)
    # The grey level is the image's number. Two of eight patients are a quarter.
    held = np.rint(255 * examples.test_x[:, 0, 0, 0]).astype(int)
    assert sorted(np.unique(held // 2, return_counts=True)[1].tolist()) == [2, 2]


def test_wrong_group_columns_are_refused(tmp_path: Path) -> None:
    path = table(tmp_path)
    with pytest.raises(SettingsError, match=r"data\.group_column must differ from data\.label_column, got 'label'"):
        read("table", path, group_column="label")
    with pytest.raises(DataError, match=r"data\.group_column 'ward', got 'a', 'label', 'patient', 'hospital'"):
        read("table", path, group_column="ward")
    (tmp_path / "gap.csv").write_text("a,label,patient\n1,x,p\n2,y,\n")
    with pytest.raises(DataError, match=r"data\.group_column 'patient' has no group in row 2"):
        read("table", tmp_path / "gap.csv", group_column="patient")
    (tmp_path / "one.csv").write_text("a,label,patient\n1,x,p\n2,y,p\n")
    with pytest.raises(DataError, match=r"got 1 groups that each have all examples of some class: leave data\.group"):
        read("table", tmp_path / "one.csv", group_column="patient")


def test_wrong_group_columns_of_images_are_refused(tmp_path: Path) -> None:
    for label in "xy":
        (tmp_path / label).mkdir()
        Image.new("L", (3, 3)).save(tmp_path / label / "0.png")
    with pytest.raises(DataError, match=r"data\.group_column needs a CSV of images"):
        read("images", tmp_path, group_column="patient")
    (tmp_path / "labels.csv").write_text("path,label,patient\nx/0.png,x,1\ny/0.png,y,\n")
    with pytest.raises(DataError, match=r"labels\.csv row 2 has no patient"):
        read("images", tmp_path, group_column="patient")
    with pytest.raises(DataError, match=r"must have the data\.group_column 'ward'"):
        read("images", tmp_path, group_column="ward")
    with pytest.raises(DataError, match=r"data\.group_column must differ"):
        read("images", tmp_path, group_column="label")


# Clients


@pytest.mark.parametrize("kind", ["natural", "iid"])
def test_whole_clients_are_held_out_and_named(tmp_path: Path, kind: PartitionKind, caplog: Any) -> None:
    home = clients(tmp_path, a=[0, 1, 0], b=[0, 1], c=[1, 0, 1, 0])
    data = DataSettings(kind="clients", path=str(home), hold_out_clients=("b", "a"))
    settings = Settings(data=data, partition=PartitionSettings(kind=kind, min_examples=1, **_few(kind)))
    with caplog.at_level(logging.INFO):
        partition(settings, tmp_path)
    assert "the hold-out set is the 5 examples of the clients a, b" in caplog.text
    written = tmp_path / "data" / "partition"
    record = json.loads((written / "partition.json").read_text())
    assert record["held_out"] == {"clients": ["a", "b"]}
    # The features are 0 for client a, 1 for b and 2 for c.
    np.testing.assert_array_equal(read_client(written, "test")[0][:, 0], [0, 0, 0, 1, 1])
    trained = np.concatenate([read_client(written, client)[0] for client in record["clients"]])
    np.testing.assert_array_equal(trained, np.full((4, 2), 2))


def test_clients_of_every_kind_that_has_them_can_be_held_out(tmp_path: Path) -> None:
    examples = read("table", table(tmp_path), client_column="hospital", hold_out_clients=("2",))
    np.testing.assert_array_equal(np.unique(examples.test_x[:, 0] // 4 % 5), [2])
    assert examples.clients is not None
    assert set(examples.clients.tolist()) == {"0", "1", "3", "4"}
    drawn = read("synthetic", num_clients=5, hold_out_clients=("00",))
    assert drawn.clients is not None
    assert set(drawn.clients.tolist()) == {"01", "02", "03", "04"}


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (("b", "x", "w"), "data.hold_out_clients must name clients of the data, a, b, c, got w, x"),
        (("a", "b", "c"), "data.hold_out_clients must leave a client to train on, got all 3 of them"),
        (("c",), "data.hold_out_clients must leave a training example of every class, got none of class '2'"),
    ],
)
def test_clients_that_cannot_be_held_out_are_refused(tmp_path: Path, held: tuple[str, ...], says: str) -> None:
    home = clients(tmp_path, a=[0, 1, 0], b=[0, 1], c=[1, 0, 2])
    with pytest.raises(DataError) as caught:
        read("clients", home, hold_out_clients=held)
    assert says in str(caught.value)


def test_held_out_clients_beside_a_test_set_or_without_clients_are_refused(tmp_path: Path) -> None:
    home = clients(tmp_path, a=[0, 1], b=[0, 1], test=[0, 1])
    with pytest.raises(DataError, match=r"its own test set \(test\.npz\): remove .* or leave the setting empty"):
        read("clients", home, hold_out_clients=("a",))
    with pytest.raises(DataError, match=r"needs data that name each example's client .* leave it empty, got 1"):
        read("table", table(tmp_path), hold_out_clients=("1",))


def test_clients_that_share_a_group_are_held_out_together_or_not_at_all(tmp_path: Path) -> None:
    path = table(tmp_path)
    both = {"client_column": "hospital", "group_column": "patient"}
    examples = read("table", path, hold_out_clients=("1",), **both)
    assert examples.held_out == {"clients": ["1"], "groups": {"column": "patient", "train": 8, "test": 2}}
    path.write_text(path.read_text().replace(",1,1\n", ",0,1\n"))
    with pytest.raises(DataError, match=r"'0' \(1 such groups\) has clients in and out of data\.hold_out_clients"):
        read("table", path, hold_out_clients=("1",), **both)


# The digest of the raw hold-out data


@pytest.mark.parametrize("missing", ["mean", "median", "most_frequent"])
def test_other_training_rows_change_the_encoded_hold_out_data_and_not_their_digest(
    tmp_path: Path, missing: Missing
) -> None:
    """The champion of last night and the candidate of tonight are compared on hold-out rows that have not changed."""
    path, held = tmp_path / "table.csv", "3,,red,x,h\n4,2,,y,h\n"

    def examples(training: str, held: str = held) -> RawExamples:
        path.write_text(f"a,b,colour,label,site\n{training}{held}")
        fields: dict[str, Any] = {"client_column": "site", "hold_out_clients": ("h",), "missing": missing}
        return read("table", path, **fields)

    night = examples("1,1,red,x,s\n2,1,red,y,s\n")
    # Another value to fill `b` with, a new category, and a new class that comes first.
    next_night = examples("1,5,red,x,s\n2,5,blue,y,s\n5,5,red,a,s\n")
    assert not np.array_equal(night.test_x, next_night.test_x)
    assert night.test_y.tolist() != next_night.test_y.tolist()
    assert night.test_digest == next_night.test_digest
    for other in ("3,,red,x,h\n4,2,,x,h\n", "3,1,red,x,h\n4,2,,y,h\n", "4,2,,y,h\n3,,red,x,h\n", "3,,red,x,h\n"):
        assert examples("1,1,red,x,s\n2,1,red,y,s\n", other).test_digest != night.test_digest


def test_the_digest_of_hold_out_arrays_is_of_their_features_and_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sites = {name: (rng.random((1500, 3), np.float32), rng.integers(0, 2, 1500)) for name in ("a", "test")}

    def digest(**changed: tuple[np.ndarray, np.ndarray]) -> str:
        for name, (x, y) in (sites | changed).items():
            np.savez(tmp_path / f"{name}.npz", x=x, y=y)
        return read("clients", tmp_path).test_digest

    x, y = sites["test"]
    usual, later = digest(), x.copy()
    later[-1, 0] += 1
    assert digest(a=(x, y)) == usual
    assert len({usual, digest(test=(later, y)), digest(test=(x, 1 - y))}) == 3
