import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.clients import TEST, Form, digest_of, read_checked, read_preprocessed
from tasks.errors import DataError
from tasks.files import read_json, write_json
from tasks.local.description import describe, read_descriptions
from tasks.local.moments import merged, moments
from tasks.preprocess import preprocess
from tasks.preprocess.standardise import standardisations, standardise
from tasks.settings import parse
from tests.shards import members_of, npy, put, read_client, write_client, write_folders, write_sites


def random_images(n, height, width, channels, seed=0):
    return np.random.default_rng(seed).random((n, height, width, channels), dtype=np.float32)


def make_partition(folder, sites, images):
    """Writes data/partition with `sites`, {client id or `test`: x}, and two classes in turn."""
    source = folder / "data" / "partition"
    write_sites(source, {site: (x, np.arange(len(x)) % 2) for site, x in sites.items()})
    write_json(
        source / "partition.json",
        {
            "input_shape": list(sites[TEST].shape[1:]),
            "images": images,
            "classes": ["no", "yes"],
            "clients": {site: {"num_examples": len(x)} for site, x in sites.items() if site != TEST},
        },
    )


FILES = ["clients_000.npz", "clients_001.npz", "clients_002.npz", "descriptions.json", "preprocess.json", "test.npz"]


def image_sites(seed=0):
    # Three clients with different brightness and spread, so that their statistics differ from the global ones.
    return {
        site: random_images(n, 8, 6, 2, seed + n) * scale + np.float32(shift)
        for site, n, scale, shift in (
            ("00", 5, 0.2, 0.0),
            ("01", 9, 0.5, 0.3),
            ("02", 2, 0.1, 0.9),
            (TEST, 4, 0.9, 0.0),
        )
    }


def run(folder, **chosen):
    preprocess(parse({"preprocess": chosen}), folder)
    return folder / "data" / "clients"


# statistics


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e6])
def test_global_statistics_are_those_of_the_pooled_values(offset):
    rng = np.random.default_rng(1)
    clients = {f"{k:02}": (offset + rng.normal(k, 1 + k, (3 + 7 * k, 4))).astype(np.float32) for k in range(6)}
    by = standardisations("global", clients.items())["03"]
    pooled = np.concatenate(list(clients.values())).astype(np.float64)
    np.testing.assert_allclose(by.mean, pooled.mean(axis=0), rtol=1e-14, atol=1e-14)
    # A mean of 1e6 has a rounding error of 1e6 * 2**-53 = 1e-10, here and in np.std. Sums of squares would lose 12 of
    # 16 digits, an error of 1e-4.
    np.testing.assert_allclose(by.sd, pooled.std(axis=0), rtol=1e-10)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(-1e6, 1e6), st.integers(0, 1000))
def test_merged_moments_do_not_depend_on_how_values_are_divided(sizes, offset, seed):
    x = (offset + np.random.default_rng(seed).normal(0, 3, (sum(sizes), 2))).astype(np.float32)
    parts = np.split(x, np.cumsum(sizes)[:-1])
    there, back = merged(moments(p) for p in parts), merged(moments(p) for p in reversed(parts))
    at_once = moments(x)
    for other in (there, back):
        assert other.count == at_once.count == len(x)
        np.testing.assert_allclose(other.mean, at_once.mean, rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(other.m2, at_once.m2, rtol=1e-9, atol=1e-9)


def test_moments_of_images_are_per_channel_over_all_pixels():
    # Channel 0 has 0 and 4: mean 2, and 4 deviations of 2 in 2 images of 1x2 pixels, so m2 = 4 * 4. Channel 1 is 7.
    x = np.array([[[[0, 7], [4, 7]]], [[[4, 7], [0, 7]]]], np.float32)
    own = moments(x)
    assert own.count == 4
    assert own.mean.tolist() == [2, 7]
    assert own.m2.tolist() == [16, 0]


def test_moments_and_standardisation_work_in_blocks():
    x = random_images(50, 3, 3, 2)
    own = moments(x, block_values=14)
    np.testing.assert_allclose(own.mean, x.mean(axis=(0, 1, 2), dtype=np.float64), rtol=1e-14)
    np.testing.assert_allclose(own.m2 / own.count, x.var(axis=(0, 1, 2), dtype=np.float64), rtol=1e-12)
    by = standardisations("client", [("00", x)])["00"]
    np.testing.assert_allclose(standardise(x, by, block_values=14), (x - by.mean) / by.sd, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("normalize", ["global", "client"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e8 / 3, -1e-20])
def test_constant_feature_has_sd_1_and_becomes_exactly_0(normalize, value):
    # 0.1 and 1/3 are no binary fractions, so a naive mean of 1,001 equal ones differs from them.
    rng = np.random.default_rng(0)
    sites = {}
    for site, n in (("00", 1001), ("01", 37), (TEST, 5)):
        sites[site] = np.stack([np.full(n, value), rng.normal(size=n)], axis=1).astype(np.float32)
    by_site = standardisations(normalize, sites.items())
    for site, x in sites.items():
        assert by_site[site].sd[0] == 1
        assert by_site[site].sd[1] != 1
        assert not standardise(x, by_site[site])[:, 0].any()


# the step


def test_preprocess_global_gives_the_pooled_training_data_mean_0_and_sd_1(tmp_path):
    make_partition(tmp_path, image_sites(), images=True)
    target = run(tmp_path, normalize="global")
    pooled = np.concatenate([read_client(target, site)[0] for site in ("00", "01", "02")])
    np.testing.assert_allclose(pooled.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(pooled.std(axis=(0, 1, 2)), 1, rtol=1e-5)


def test_preprocess_global_does_not_look_at_the_test_set(tmp_path):
    sites = image_sites()
    make_partition(tmp_path / "a", sites, images=True)
    make_partition(tmp_path / "b", sites | {TEST: sites[TEST] * 0 + 5}, images=True)
    a, b = (read_json(run(tmp_path / name, normalize="global") / "preprocess.json") for name in "ab")
    assert a["statistics"] == b["statistics"]
    # The test set is standardised with the clients' mean and sd: (5 - mean) / sd.
    by = a["statistics"]["of_all"]
    x, _ = read_client(tmp_path / "b" / "data" / "clients", TEST)
    np.testing.assert_allclose(x[0, 0, 0], (5 - np.array(by["mean"])) / np.array(by["sd"]), rtol=1e-6)


def test_preprocess_client_gives_every_site_its_own_statistics(tmp_path):
    sites = image_sites()
    make_partition(tmp_path, sites, images=True)
    target = run(tmp_path, normalize="client")
    statistics = read_json(target / "preprocess.json")["statistics"]["by_client"]
    for site, raw in sites.items():
        x, _ = read_client(target, site)
        np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(x.std(axis=(0, 1, 2)), 1, rtol=1e-5)
        np.testing.assert_allclose(statistics[site]["mean"], raw.mean(axis=(0, 1, 2), dtype=np.float64), rtol=1e-12)
        np.testing.assert_allclose(statistics[site]["sd"], raw.std(axis=(0, 1, 2), dtype=np.float64), rtol=1e-12)


def test_preprocess_none_without_resize_copies_the_data(tmp_path):
    sites = image_sites()
    make_partition(tmp_path, sites, images=True)
    target = run(tmp_path, normalize="none")
    for site, raw in sites.items():
        x, y = read_client(target, site)
        assert np.array_equal(x, raw)
        assert np.array_equal(y, np.arange(len(raw)) % 2)
    assert read_json(target / "preprocess.json") == {
        "input_shape": [8, 6, 2],
        "num_classes": 2,
        "clients": {"00": 5, "01": 9, "02": 2},
        "classes": ["no", "yes"],
        "images": True,
        "normalize": "none",
        "statistics": {"of_all": {"mean": [0, 0], "sd": [1, 1]}},
    }


def test_preprocess_leaves_images_at_the_size_that_partition_gave_them(tmp_path):
    make_partition(tmp_path, image_sites(), images=True)
    target = run(tmp_path, resize=[8, 6], normalize="none", augment={"flip": True, "brightness": 0.2})
    assert read_json(target / "preprocess.json")["input_shape"] == [8, 6, 2]
    for site, raw in image_sites().items():
        # Flip and brightness are drawn during training, so the files have the unchanged images.
        assert np.array_equal(read_client(target, site)[0], raw)


@pytest.mark.parametrize("size", [16, [6, 8], [8, 5]])
def test_images_of_another_size_than_asked_for_are_refused(tmp_path, size):
    """If `partition` is not run again after a change of `resize`, training would use images of the old size."""
    make_partition(tmp_path, image_sites(), images=True)
    with pytest.raises(DataError, match=r"^preprocess.resize must be .*\[8, 6\], got .*: run the step partition again"):
        run(tmp_path, resize=size)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["partition"]


def test_preprocess_of_a_table_is_per_feature(tmp_path):
    rng = np.random.default_rng(3)
    sites = {site: rng.normal([1, -50, 3], [1, 20, 0.1], (30, 3)).astype(np.float32) for site in ("00", "01", TEST)}
    make_partition(tmp_path, sites, images=False)
    target = run(tmp_path, normalize="global")
    pooled = np.concatenate([read_client(target, site)[0] for site in ("00", "01")])
    np.testing.assert_allclose(pooled.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(pooled.std(axis=0), 1, rtol=1e-5)


def test_preprocess_writes_the_same_bytes_twice(tmp_path):
    make_partition(tmp_path, image_sites(), images=True)
    contents = []
    for _ in range(2):
        target = run(tmp_path)
        contents.append({path.relative_to(target): path.read_bytes() for path in target.rglob("*") if path.is_file()})
    assert contents[0] == contents[1]
    assert {str(path) for path in contents[0]} == set(FILES)


def test_preprocess_replaces_clients_of_an_earlier_partition(tmp_path):
    make_partition(tmp_path, image_sites(), images=True)
    many = {f"{k:02}": (np.zeros((1, 8, 6, 2)), np.zeros(1)) for k in range(9)}
    write_sites(tmp_path / "data" / "clients", many)
    assert sorted(path.name for path in run(tmp_path).iterdir()) == FILES


def test_preprocess_describes_the_clients_as_they_are_after_it(tmp_path):
    make_partition(tmp_path, image_sites(), images=True)
    target = run(tmp_path)
    form, descriptions = Form((8, 6, 2), 2), read_descriptions(target)
    assert descriptions == {c: describe(c, read_client(target, c), form) for c in ("00", "01", "02")}


def test_preprocess_logs_one_line(tmp_path, caplog):
    make_partition(tmp_path, image_sites(), images=True)
    with caplog.at_level(logging.INFO):
        run(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        "3 clients and the test set: examples of (8, 6, 2), normalize global"
    ]


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        ({"resize": 8}, "preprocess.resize"),
        ({"augment": {"flip": True}}, "preprocess.augment.flip"),
        ({"augment": {"brightness": 0.2}}, "preprocess.augment.brightness"),
    ],
)
def test_settings_of_images_are_refused_for_a_table(tmp_path, chosen, name):
    make_partition(tmp_path, {site: np.ones((3, 4), np.float32) for site in ("00", TEST)}, images=False)
    with pytest.raises(DataError, match=rf"^{name} needs images"):
        run(tmp_path, **chosen)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["partition"]


def _truncate(folder):
    path = folder / "clients_001.npz"
    path.write_bytes(path.read_bytes()[:200])


def _put(x):
    return lambda folder: write_client(folder, "01", x, np.zeros(len(x)))


def _half_a_character(folder):
    return (folder / "partition.json").read_text().replace('"yes"', r'"\ud800"')


def _say(folder, clients=None, **changes):
    path = folder / "partition.json"
    write_json(path, read_json(path) | changes | ({} if clients is None else {"clients": clients}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_truncate, "client 01: cannot read"),
        (lambda folder: put(folder, "01", y=None), "client 01: .*clients_001.npz has no 01/y.npy"),
        (lambda folder: put(folder, "01", x=npy(np.zeros((9, 8, 6, 2)))), "client 01: x must be float32"),
        (lambda folder: put(folder, "01", x=npy(np.float32(3))), "client 01: x must be float32"),
        (
            _put(np.zeros((9, 8, 5, 2))),
            r"client 01: x must be \(N, 8, 6, 2\), .*, got \(9, 8, 5, 2\)",
        ),
        (_put(np.zeros((0, 8, 6, 2))), "client 01: must hold the 9 examples of partition.json, got 0"),
        (_put(np.full((9, 8, 6, 2), np.nan)), "client 01: x must be finite, got 864 values that are not"),
        (_put(np.zeros((8, 8, 6, 2))), "client 01: must hold the 9 examples of partition.json, got 8"),
        (lambda folder: (folder / "clients_001.npz").unlink(), "client 01: cannot read .*001.npz: No such file"),
        (lambda folder: (folder / "clients_003.npz").touch(), "got 1 more .clients_003.npz.: run"),
        (lambda folder: (folder / "07").mkdir(), "got 1 more .07.: run"),
        (lambda folder: (folder / "x.npy").touch(), "got 1 more .x.npy.: run"),
        (
            lambda folder: write_folders(folder, {site: (x, np.zeros(len(x))) for site, x in image_sites().items()}),
            "got 4 more .00, 01, 02, test.: run the step partition again",
        ),
        (
            lambda folder: (folder / "partition.json").unlink(),
            "partition.json is missing: run the step that makes it first$",
        ),
        (lambda folder: (folder / "partition.json").write_text("{}"), "must hold clients"),
        (lambda folder: (folder / "partition.json").write_text("[]"), "must hold clients"),
        (lambda folder: _say(folder, {"../x": 1}), "client id"),
        (
            lambda folder: _say(folder, {"00": 5, "01": 9}),
            "names, .*got 1 more .clients_002.npz.: run the step partition again",
        ),
        (lambda folder: _say(folder, {}), "names no client: run the step partition again"),
        (lambda folder: _say(folder, images="false"), "neither true nor false"),
        (lambda folder: (folder / "partition.json").write_text(_half_a_character(folder)), "UnicodeEncodeError"),
        (lambda folder: _say(folder, classes=[0, 1]), "classes that are no texts"),
        (lambda folder: _say(folder, input_shape=[8, "6", 2]), "a length must be an integer from 1 to 2147483647, got"),
    ],
)
def test_broken_partition_is_an_error_that_leaves_everything_as_it_was(tmp_path, spoil, message):
    make_partition(tmp_path, image_sites(), images=True)
    before = run(tmp_path)
    kept = {path: path.read_bytes() for path in before.rglob("*") if path.is_file()}
    spoil(tmp_path / "data" / "partition")
    with pytest.raises(DataError, match=message) as caught:
        run(tmp_path, normalize="client")
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in before.rglob("*") if path.is_file()} == kept
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["clients", "partition"]


# 8-bit images


def byte_sites(seed=0):
    rng = np.random.default_rng(seed)
    sizes = {"00": 5, "01": 9, "02": 2, TEST: 4}
    return {
        site: rng.integers(0, 60 + 30 * n, (n, 8, 6, 3)).clip(max=255).astype(np.uint8) for site, n in sizes.items()
    }


@pytest.mark.parametrize("normalize", ["none", "global", "client"])
def test_8_bit_images_are_copied_and_standardised_by_whoever_reads_them(normalize, tmp_path):
    sites = byte_sites()
    make_partition(tmp_path, sites, images=True)
    target = run(tmp_path, normalize=normalize)
    for shard in ("clients_000.npz", "clients_001.npz", "clients_002.npz", "test.npz"):
        assert (target / shard).read_bytes() == (tmp_path / "data" / "partition" / shard).read_bytes()
    preprocessed = read_preprocessed(target)
    pooled = np.concatenate([sites[site] for site in ("00", "01", "02")]) / 255
    for site, stored in {**preprocessed.stored, TEST: preprocessed.test}.items():
        whole = pooled if normalize == "global" else sites[site] / 255
        mean, sd = whole.mean(axis=(0, 1, 2)), whole.std(axis=(0, 1, 2))
        expected = sites[site] / 255 if normalize == "none" else (sites[site] / 255 - mean) / sd
        x, y = read_checked(stored)
        assert x.dtype == np.float32
        # Two roundings of values below 10 to 24 bits.
        np.testing.assert_allclose(x, expected, atol=2e-6)
        assert np.array_equal(y, np.arange(len(x)) % 2)
    descriptions = read_descriptions(target)
    assert descriptions["01"].digest == digest_of((sites["01"], (np.arange(9) % 2).astype(np.int32)))


def test_a_standardised_pixel_is_scaled_and_shifted_in_float32(tmp_path):
    sites = byte_sites()
    make_partition(tmp_path, sites, images=True)
    target = run(tmp_path, normalize="global")
    of_all = read_json(target / "preprocess.json")["statistics"]["of_all"]
    mean, sd = np.array(of_all["mean"]), np.array(of_all["sd"])
    scale, shift = (1 / (255 * sd)).astype(np.float32), (-mean / sd).astype(np.float32)
    x, _ = read_checked(read_preprocessed(target).stored["01"])
    np.testing.assert_array_equal(x, sites["01"].astype(np.float32) * scale + shift)


def test_8_bit_images_have_the_statistics_of_their_brightness_from_0_to_1(tmp_path):
    sites = byte_sites()
    make_partition(tmp_path / "bytes", sites, images=True)
    make_partition(tmp_path / "floats", {site: x / np.float32(255) for site, x in sites.items()}, images=True)
    for normalize in ("none", "global", "client"):
        one, other = (run(tmp_path / kind, normalize=normalize) for kind in ("bytes", "floats"))
        assert (one / "preprocess.json").read_bytes() == (other / "preprocess.json").read_bytes()


def test_8_bit_images_and_floats_cannot_be_mixed(tmp_path):
    sites = byte_sites()
    make_partition(tmp_path, sites | {"01": sites["01"] / np.float32(255)}, images=True)
    with pytest.raises(DataError, match=r"client 01: x must be uint8 as in test.npz, got float32 .run the step partit"):
        run(tmp_path)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["partition"]


def test_8_bit_images_without_statistics_are_refused(tmp_path):
    make_partition(tmp_path, byte_sites(), images=True)
    path = run(tmp_path) / "preprocess.json"
    write_json(path, read_json(path) | {"statistics": {}})
    with pytest.raises(DataError, match=r"preprocess.json must say client 01's mean and sd .run the step preprocess"):
        read_checked(read_preprocessed(path.parent).stored["01"])


def test_many_clients_are_in_128_shards(tmp_path):
    sites = {f"{k:03}": np.full((1, 2), k, np.float32) for k in range(300)} | {TEST: np.ones((1, 2), np.float32)}
    make_partition(tmp_path, sites, images=False)
    target = run(tmp_path, normalize="none")
    assert len(list(target.glob("*.npz"))) == 129
    stored = read_preprocessed(target).stored
    assert list(stored) == sorted(stored)
    assert all(read_checked(of)[0].tolist() == [[int(client)] * 2] for client, of in stored.items())
    # 300 = 128 * 2 + 44: each shard has two or three clients, and each client two members.
    sizes = [len(members_of(shard)) for shard in target.glob("clients_*.npz")]
    assert (sizes.count(4), sizes.count(6)) == (84, 44)
