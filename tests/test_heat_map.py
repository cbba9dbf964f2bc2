"""The heat map of clients by rounds: the values of its cells, and which clients and rounds it shows."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from tasks.heat_map import (
    COSINES,
    Grid,
    column_width,
    from_the_mean,
    from_the_median,
    grid_of,
    log2_ratios,
    paint,
    ratio_colours,
    ratio_labels,
    rows_of,
)
from tasks.round_log.read import ClientLog

NAN = np.nan


def grid(cosines, failures=None) -> Grid:
    values = np.array(cosines, dtype=np.float64)
    failed = np.zeros(values.shape, dtype=np.bool_)
    for row, number in (failures or {}).items():
        failed[row, :number] = True
    clients = [f"{row:02}" for row in range(len(values))]
    return Grid(clients, np.arange(1, values.shape[1] + 1), {"update_cosine": values}, failed)


def test_a_log_s_rows_stand_at_their_clients_and_rounds() -> None:
    failed = np.array([False, False, True])
    log = ClientLog(np.array([2, 5, 5]), ("b", "a", "b"), {"loss_before": np.array([1.0, 2.0, NAN])}, failed, failed)
    laid = grid_of(log, ["c"], [3])
    assert (laid.clients, laid.rounds.tolist()) == (["a", "b", "c"], [2, 3, 5])
    np.testing.assert_array_equal(laid.signals["loss_before"], [[NAN, NAN, 2], [1, NAN, NAN], [NAN] * 3])
    assert np.argwhere(laid.failed).tolist() == [[1, 2]]


def test_ratios_are_log2_of_the_value_over_the_median_of_its_round() -> None:
    norms = np.array([[1, 4.0, NAN, 0], [2, NAN, NAN, 0], [8, 4, NAN, 0]])
    # Medians 2, 4, none, 0. A round in which no client moves is no drift.
    np.testing.assert_allclose(log2_ratios(norms), [[-1, 0, NAN, 0], [0, NAN, NAN, 0], [2, 0, NAN, 0]])


@pytest.mark.parametrize(("ratios", "end"), [([[NAN]], 2.0), ([[0.5, -1.5]], 2.0), ([[-5.0, -5.0]], 5.0)])
def test_the_colours_of_ratios_end_at_a_quarter_and_four_times_at_least(ratios, end) -> None:
    assert ratio_colours(np.array(ratios)).end == end


def test_a_map_of_all_clients_has_their_rows_in_their_order() -> None:
    cosines = [[0.5, 0.3], [0.1, NAN], [NAN, NAN]]
    of = grid(cosines, {1: 1})
    rows = rows_of(of, [from_the_mean(of.signals["update_cosine"])], 3)
    assert (rows.places.tolist(), rows.left_out, rows.names(of.clients)) == ([0, 1, 2], False, ["00", "01", "02"])
    np.testing.assert_array_equal(rows.of(of.signals["update_cosine"]), cosines)
    np.testing.assert_array_equal(rows.of_failed(of.failed), of.failed)


def test_a_map_of_some_clients_shows_quantiles_over_all_above_them() -> None:
    # The cosines of round 1 are 0.00, 0.01, ... 1.00: the quantiles are 0.95, 0.50 and 0.05. In round 2, no one took
    # part. Client 00 is farthest from the mean; client 99 failed.
    of = grid(np.stack([np.arange(101) / 100, np.full(101, NAN)], axis=1), {99: 1})
    rows = rows_of(of, [from_the_mean(of.signals["update_cosine"])], 3, ["07"])
    assert rows.names(of.clients) == ["all: 95 %", "all: median", "all: 5 %", "07", "00", "99"]
    shown = rows.of(of.signals["update_cosine"])
    np.testing.assert_allclose(shown[:, 0], [0.95, 0.5, 0.05, 0.07, 0.0, 0.99])
    assert np.isnan(shown[:, 1]).all()
    assert rows.of_failed(of.failed).tolist() == [[False, False]] * 5 + [[True, False]]


def test_a_client_s_deviation_is_the_mean_over_its_rounds() -> None:
    np.testing.assert_allclose(from_the_median(np.array([[-2.0, 4], [1, NAN], [NAN, NAN]])), [3, 1, NAN])
    np.testing.assert_allclose(from_the_mean(np.array([[-0.5, 0.5], [1, NAN], [NAN, NAN]])), [1, 0, NAN])


def test_rounds_that_share_a_column_show_the_worst() -> None:
    assert [column_width(rounds, 2) for rounds in (1, 2, 3, 4, 5)] == [1, 1, 2, 2, 3]
    values = np.array([[0.5, -0.5, 0.2, NAN, NAN], [NAN, NAN, NAN, 0.4, 0.6]])
    failed = np.array([[False, False, False, True, False], [False] * 5])
    axes = Figure().subplots()
    image, marks = paint(axes, values, failed, COSINES, 3)
    np.testing.assert_array_equal(np.ma.filled(image.get_array(), NAN), [[-0.5, 0.2, NAN], [NAN, 0.4, 0.6]])
    np.testing.assert_array_equal(np.ma.filled(axes.images[1].get_array(), NAN), [[NAN, 1, NAN], [NAN] * 3])
    assert [mark.get_label() for mark in marks] == ["failed", "not sampled"]
    assert axes.get_xlim() == (-0.5, 4.5)


def test_a_map_without_gaps_needs_no_marks() -> None:
    axes = Figure().subplots()
    _, marks = paint(axes, np.ones((2, 3)), np.zeros((2, 3), dtype=np.bool_), COSINES, 10, left=0.5)
    assert marks == []
    assert axes.get_xlim() == (0.5, 3.5)


def test_ratios_are_labelled_as_ratios() -> None:
    plain, phone = ratio_labels(6), ratio_labels(3, "×")
    assert [plain(value, None) for value in (2, 0, -2)] == ["4", "1", "1/4"]
    assert [phone(value, None) for value in (2, 0, -2)] == ["4×", "1×", "1/4"]
