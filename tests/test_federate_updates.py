"""Statistics of updates that come one after the other, against all of them in memory."""

import resource

import numpy as np
import pytest

from tasks.federate import statistics
from tasks.federate.statistics import SKETCH, few, sketch
from tasks.federate.updates import FewUpdates, ManyUpdates, updates_of

EXACT = ("norm", "cosine", "distance", "drift", "gradient_diversity")


def collected(collector, vectors, weights):
    with collector:
        for vector, weight in zip(vectors, weights, strict=True):
            collector.add(vector, weight)
        return collector.statistics()


def drawn(num_clients, num_params, seed=0, apart=1.0):
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(num_params)
    vectors = common + apart * rng.standard_normal((num_clients, num_params))
    return vectors.astype(np.float32), rng.integers(1, 50, num_clients).astype(float)


@pytest.mark.parametrize(("num_clients", "num_params"), [(1, 7), (5, 1), (700, 3000), (33, 40_001), (9, 300_000)])
@pytest.mark.parametrize("apart", [1.0, 1e-4])
def test_many_updates_have_the_exact_statistics_of_few(num_clients, num_params, apart, tmp_path):
    vectors, weights = drawn(num_clients, num_params, apart=apart)
    share, few_of_them = collected(FewUpdates(), vectors, weights)
    np.testing.assert_array_equal(share, weights / weights.sum())
    also, many = collected(ManyUpdates(num_params, tmp_path), vectors, weights)
    np.testing.assert_array_equal(also, share)
    for name in EXACT:
        np.testing.assert_allclose(getattr(many, name), getattr(few_of_them, name), rtol=1e-6, err_msg=name)
    assert list(tmp_path.iterdir()) == []


def test_update_of_zero_and_updates_that_cancel(tmp_path):
    vectors = np.array([[1, 2, 0], [-1, -2, 0], [0, 0, 0]], np.float32)
    _, found = collected(ManyUpdates(3, tmp_path), vectors, [1, 1, 1])
    assert found.norm.tolist() == pytest.approx([5**0.5, 5**0.5, 0])
    assert np.isnan(found.cosine).all()  # the mean is zero
    assert np.isnan(found.gradient_diversity)  # the sum is zero
    assert found.drift == pytest.approx((10 / 3) ** 0.5)


def test_cosines_to_the_geometric_median_are_near_the_exact_ones_with_a_minority_of_liars(tmp_path):
    # 60 honest clients around one direction, 40 that send ten times its opposite.
    rng = np.random.default_rng(3)
    common = rng.standard_normal(20_000)
    honest = common + rng.standard_normal((60, 20_000))
    liars = -10 * (common + rng.standard_normal((40, 20_000)))
    vectors = np.concatenate([honest, liars]).astype(np.float32)
    _, exact = collected(FewUpdates(), vectors, np.ones(100))
    _, found = collected(ManyUpdates(20_000, tmp_path), vectors, np.ones(100))
    np.testing.assert_allclose(found.cosine_robust, exact.cosine_robust, atol=0.02)
    assert (found.cosine_robust[:60] > 0.5).all()
    assert (found.cosine_robust[60:] < -0.5).all()


def test_sketched_distances_have_the_stated_error():
    # The variance of ‖s‖² is at most 2/m of its square. A mean of squared relative errors over 400 pairs has a standard
    # error of about √(2/400) of itself, so 1.3 times the bound is 4 standard errors away.
    rng = np.random.default_rng(0)
    pairs = rng.standard_normal((400, 2, 5000)).astype(np.float32)
    difference = pairs[:, 0] - pairs[:, 1]
    sketched = sketch(pairs[:, 0]).astype(np.float64) - sketch(pairs[:, 1])
    ratio = np.square(sketched).sum(axis=1) / np.square(difference, dtype=np.float64).sum(axis=1)
    # All pairs share one draw of the sketch, whose own deviation is common to them: hence vectors without structure.
    assert np.mean((ratio - 1) ** 2) < 1.3 * 2 / SKETCH
    assert abs(ratio.mean() - 1) < 4 * np.sqrt(2 / SKETCH / 400)


def test_sketch_keeps_sums_and_is_the_same_for_one_vector_and_many():
    rng = np.random.default_rng(1)
    vectors = rng.integers(-9, 9, (12, 4000)).astype(np.float32)  # whole numbers: sums have no rounding
    together = sketch(vectors)
    assert together.shape == (12, SKETCH)
    for vector, own in zip(vectors, together, strict=True):
        np.testing.assert_array_equal(sketch(vector[None])[0], own)
    np.testing.assert_array_equal(sketch(vectors.sum(axis=0)[None])[0], together.sum(axis=0))


def test_few_clients_of_few_parameters_are_compared_pair_by_pair_and_others_are_not():
    assert isinstance(updates_of(100, 1_200_000, None), FewUpdates)
    assert not few(129, 10)
    assert not few(128, 1_100_000)  # 563 MB
    with updates_of(10_000, 10, None) as many:
        assert isinstance(many, ManyUpdates)


def test_full_disk_is_an_error_that_names_the_folder(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    vectors, weights = drawn(4, 1_000_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            collected(ManyUpdates(1_000_000, tmp_path), vectors, weights)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path)


def test_same_updates_give_the_same_bits_on_any_number_of_cores(tmp_path, monkeypatch):
    vectors, weights = drawn(40, 50_000)  # in parts of the parameters, and of the updates
    found = []
    for cores in (1, 7):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: range(cores))
        found.append(collected(ManyUpdates(50_000, tmp_path), vectors, weights)[1])
    for name in (*EXACT, "cosine_robust"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))


def test_statistics_of_a_run_do_not_depend_on_where_the_bound_lies(tmp_path, make_clients, settings_of, monkeypatch):
    # The same run with every update in memory, and with none: every number of the log agrees to its precision.
    from tasks.federate import federate
    from tasks.files import read_rows

    settings = settings_of({"federate.model": "logistic", "federate.rounds": 2})
    logs = []
    for most in (128, 0):
        monkeypatch.setattr(statistics, "_MOST_PAIRED", most)
        folder = make_clients(sizes=(9, 30, 17, 5, 12)).write(tmp_path / str(most))
        federate(settings, folder)
        logs.append([read_rows(folder / "reports" / name) for name in ("rounds.csv", "clients.csv")])
    for one, other in zip(*logs, strict=True):
        for row, same in zip(one, other, strict=True):
            for name in row:
                if name == "update_cosine_robust":
                    assert float(row[name]) == pytest.approx(float(same[name]), abs=0.05)
                elif name in ("client", "phase", "finite", "failure"):
                    assert row[name] == same[name]
                elif row[name]:
                    assert float(row[name]) == pytest.approx(float(same[name]), rel=2e-6)
