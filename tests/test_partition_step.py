"""The step `partition`: its files, and that it writes none if it fails."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.clients import TEST
from tasks.datasets import load_raw
from tasks.errors import DataError
from tasks.files import read_json
from tasks.partition import partition
from tasks.partition.division import divide
from tasks.partition.label_picture import draw_label_counts, drawn_clients
from tasks.preprocess import preprocess
from tasks.settings import Settings, parse
from tests.shards import read_client, sites_of


def run(folder: Path, seed: int = 0, **chosen: Any) -> Settings:
    settings = parse({"seed": seed, "partition": chosen})
    partition(settings, folder)
    return settings


def clients_in(written: Path) -> list[str]:
    """The sorted clients in the shards."""
    return [site for site in sites_of(written) if site != TEST]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_step_writes_each_clients_examples_in_the_order_of_the_data(tmp_path: Path) -> None:
    settings = run(tmp_path)
    data = load_raw(settings.data, settings.seed, tmp_path)
    divided = divide(data, settings.partition, settings.seed)
    written = tmp_path / "data" / "partition"
    record = read_json(written / "partition.json")
    assert clients_in(written) == divided.ids == [f"{k:02}" for k in range(10)]
    for client, part in zip(divided.ids, divided.parts, strict=True):
        x, y = read_client(written, client)
        np.testing.assert_array_equal(x, data.x[part])
        np.testing.assert_array_equal(y, data.y[part])
        # The digest is of the client's own bytes, whatever shard they are in.
        expected = hashlib.md5(x.tobytes() + y.tobytes()).hexdigest()
        assert record["clients"][client]["digest"] == expected
    x, y = read_client(written, "test")
    np.testing.assert_array_equal(x, data.test_x)
    np.testing.assert_array_equal(y, data.test_y)
    # There is nothing else, and no temporary folder.
    names = {*(f"clients_{shard:03}.npz" for shard in range(10)), "test.npz", "partition.json"}
    assert {entry.name for entry in written.iterdir()} == names
    assert {entry.name for entry in tmp_path.iterdir()} == {"data", "reports"}
    assert [entry.name for entry in (tmp_path / "reports").iterdir()] == ["labels.png"]
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == ["partition"]


def test_step_records_what_it_wrote(tmp_path: Path) -> None:
    run(tmp_path, seed=3, kind="classes", num_clients=5)
    written = tmp_path / "data" / "partition"
    record = read_json(written / "partition.json")
    assert (record["kind"], record["seed"], record["images"]) == ("classes", 3, True)
    assert record["classes"] == [str(digit) for digit in range(10)]
    assert record["dropped"] == []
    assert sorted(record["clients"]) == clients_in(written)
    total = 0
    for client in clients_in(written):
        x, y = read_client(written, client)
        described = record["clients"][client]
        assert described["counts"] == np.bincount(y, minlength=10).tolist()
        assert described["num_examples"] == len(y)
        assert described["missing_classes"] == 8
        assert record["input_shape"] == list(x.shape[1:])
        total += len(y)
    assert record["num_examples"] == total
    test_y = read_client(written, "test")[1]
    counts = np.bincount(test_y, minlength=10).tolist()
    test = {key: value for key, value in record["test"].items() if key != "digest"}
    assert test == {"num_examples": len(test_y), "counts": counts}
    # Five clients have two of ten classes each, and no class in common. A class has a share of about 0.1 of the whole
    # and of 0.5 of its client, so the distance is 2 · 0.4 + 8 · 0.1.
    assert record["skew"]["earth_mover_mean"] == pytest.approx(1.6, abs=0.05)
    assert record["skew"]["missing_classes_max"] == 8


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("label_mix", "shards", "feature_noise")]


@pytest.mark.parametrize("kind", ["dirichlet", "feature_shift", *SLOW])
def test_step_writes_the_same_bytes_for_the_same_seed_and_others_for_another(kind: str, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        run(tmp_path / name, seed=seed, kind=kind)
    assert contents(tmp_path / "one") == contents(tmp_path / "again")
    assert contents(tmp_path / "one") != contents(tmp_path / "other")


def test_step_changes_features_of_clients_only(tmp_path: Path) -> None:
    settings = run(tmp_path, kind="feature_noise", sigma=0.5, num_clients=4)
    data = load_raw(settings.data, settings.seed, tmp_path)
    divided = divide(data, settings.partition, settings.seed)
    written = tmp_path / "data" / "partition"
    record = read_json(written / "partition.json")
    for k, (client, part) in enumerate(zip(divided.ids, divided.parts, strict=True)):
        noise = read_client(written, client)[0].astype(np.float64) - data.x[part]
        # The variance is sigma · (k + 1) / 4. Its estimate from n draws has the relative sd sqrt(2 / n). Bound: 6 sd.
        assert noise.var() == pytest.approx(0.5 * (k + 1) / 4, rel=6 * np.sqrt(2 / noise.size))
        assert record["clients"][client]["noise_variance"] == pytest.approx(0.5 * (k + 1) / 4)
    np.testing.assert_array_equal(read_client(written, "test")[0], data.test_x)


@pytest.mark.parametrize("kind", ["feature_shift", "feature_noise"])
def test_changed_pixels_of_8_bits_can_be_preprocessed(kind: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 1), dtype=np.uint8)
    np.savez(
        tmp_path / "data.npz", x_train=pixels[:48], y_train=np.arange(48) % 2, x_test=pixels[48:], y_test=[0, 1] * 6
    )
    described = {"data": {"kind": "npz", "path": str(tmp_path / "data.npz")}}
    settings = parse({**described, "partition": {"kind": kind, "num_clients": 3, "min_examples": 1}})
    partition(settings, tmp_path)
    np.testing.assert_array_equal(read_client(tmp_path / "data/partition", "test")[0], pixels[48:] / np.float32(255))
    preprocess(settings, tmp_path)
    assert (tmp_path / "data/clients/preprocess.json").is_file()


def test_step_keeps_shifted_images_in_range_and_says_the_shift(tmp_path: Path) -> None:
    run(tmp_path, kind="feature_shift", brightness=1.0, contrast=0.9, rotation=180.0)
    written = tmp_path / "data" / "partition"
    record = read_json(written / "partition.json")
    for client in clients_in(written):
        x = read_client(written, client)[0]
        assert x.min() >= 0
        assert x.max() <= 1
        assert {"brightness", "contrast", "rotation"} <= set(record["clients"][client])
    assert record["skew"]["mean_distance_mean"] > 0.5


def test_step_drops_and_reports_empty_clients(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tasks.partition"):
        run(tmp_path, num_clients=100, alpha=0.01, min_examples=0)
    written = tmp_path / "data" / "partition"
    record = read_json(written / "partition.json")
    kept = clients_in(written)
    assert sorted(kept + record["dropped"]) == [f"{k:02}" for k in range(100)]
    assert record["dropped"]
    assert sum(len(read_client(written, client)[1]) for client in kept) == record["num_examples"]
    levels = [entry.levelname for entry in caplog.records]
    assert levels == ["WARNING", "INFO"]
    assert f"{len(record['dropped'])} clients got no example" in caplog.messages[0]
    assert f"{record['num_examples']} examples over {len(kept)} clients" in caplog.messages[1]


def test_step_drops_clients_beyond_the_number_of_examples(tmp_path: Path) -> None:
    run(tmp_path, kind="iid", num_clients=2000, min_examples=0)
    record = read_json(tmp_path / "data" / "partition" / "partition.json")
    assert len(record["clients"]) == record["num_examples"]
    assert len(record["clients"]) + len(record["dropped"]) == 2000
    assert {client["num_examples"] for client in record["clients"].values()} == {1}


def write_clients(folder: Path, sizes: dict[str, int]) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for client, size in sizes.items():
        y = np.arange(size) % 2
        np.savez(folder / f"{client}.npz", x=rng.normal(size=(size, 3)).astype(np.float32), y=y.astype(np.int32))


def test_step_keeps_the_datas_own_clients(tmp_path: Path) -> None:
    write_clients(tmp_path / "raw", {"ward-b": 20, "ward-a": 30, "test": 10})
    partition(parse({"data": {"kind": "clients", "path": "raw"}, "partition": {"kind": "natural"}}), tmp_path)
    record = json.loads((tmp_path / "data" / "partition" / "partition.json").read_text())
    assert {client: described["num_examples"] for client, described in record["clients"].items()} == {
        "ward-a": 30,
        "ward-b": 20,
    }
    assert record["images"] is False
    x = read_client(tmp_path / "data" / "partition", "ward-b")[0]
    np.testing.assert_array_equal(x, np.load(tmp_path / "raw" / "ward-b.npz")["x"])


def test_step_names_the_natural_client_that_is_too_small(tmp_path: Path) -> None:
    write_clients(tmp_path / "raw", {"ward-b": 4, "ward-a": 30, "test": 10})
    settings = parse({"data": {"kind": "clients", "path": "raw"}, "partition": {"kind": "natural"}})
    with pytest.raises(
        DataError, match=r"partition\.min_examples is 10, but natural leaves client ward-b with 4 of the 34"
    ):
        partition(settings, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"num_clients": 100, "alpha": 0.01}, "partition.min_examples is 10, but the best of 1000 draws"),
        ({"num_clients": 500}, "partition.num_clients * partition.min_examples must be <="),
        ({"kind": "classes", "classes_per_client": 11}, "partition.classes_per_client must be <= 10"),
        ({"kind": "natural"}, "partition.kind natural needs data that name"),
        ({"kind": "feature_noise", "sigma": 1e200}, "partition.sigma is too large"),
    ],
)
def test_step_that_fails_leaves_no_folder_behind(chosen: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run(tmp_path, **chosen)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_step_that_fails_leaves_the_earlier_result_as_it_was(tmp_path: Path) -> None:
    run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(DataError):
        run(tmp_path, num_clients=100, alpha=0.01)
    assert contents(tmp_path) == before


def test_step_replaces_the_clients_of_an_earlier_run(tmp_path: Path) -> None:
    run(tmp_path, num_clients=12, kind="iid")
    run(tmp_path, num_clients=3, kind="iid")
    assert clients_in(tmp_path / "data" / "partition") == ["00", "01", "02"]


@pytest.mark.parametrize(("num_clients", "num_classes"), [(1, 2), (2, 100), (100, 2), (100, 100), (10, 10), (400, 10)])
def test_picture_of_labels_is_drawn_for_any_number(num_clients: int, num_classes: int, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 3, (num_clients, num_classes))
    counts[0, 0] = 1
    # A dollar sign is text and not the start of a formula.
    names = [rf"$\{label}$ a rather long name" for label in range(num_classes)]
    draw_label_counts(tmp_path / "labels.png", counts, [f"hospital_{k}" for k in range(num_clients)], names)
    with Image.open(tmp_path / "labels.png") as picture:
        assert picture.format == "PNG"
        assert picture.width == 1080
        assert 400 <= picture.height <= 1080


def test_partition_seed_keeps_the_clients_while_the_runs_seed_changes(tmp_path: Path) -> None:
    for name, seed, chosen in (("a", 0, {}), ("b", 7, {"seed": 0}), ("c", 7, {})):
        partition(parse({"seed": seed, "partition": chosen}), tmp_path / name)
    a, b, c = (contents(tmp_path / name / "data") for name in "abc")
    assert a == b
    assert a != c


def test_a_picture_of_too_many_clients_shows_quantiles_and_the_farthest() -> None:
    names = [f"{k:03}" for k in range(301)]
    counts = np.full((301, 2), 10)
    counts[17], counts[200] = (0, 20), (5_000, 5_000)  # one class only; by far the largest
    drawn, sizes, shown = drawn_clients(counts, names)
    assert (shown[:3], len(shown)) == (["all: 95 %", "all: median", "all: 5 %"], 25)
    assert (drawn[:3].tolist(), sizes[:3].tolist()) == ([[10, 10]] * 3, [20] * 3)
    assert (drawn[shown.index("017")].tolist(), sizes[shown.index("200")]) == ([0, 20], 10_000)
    drawn, sizes, shown = drawn_clients(counts[:300], names[:300])
    assert (drawn.tolist(), sizes.tolist(), shown) == (counts[:300].tolist(), counts[:300].sum(1).tolist(), names[:300])
