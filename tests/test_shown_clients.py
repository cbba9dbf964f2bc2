"""The clients that a picture shows if it cannot show all: the named, the failed, then the farthest from the others."""

import numpy as np

from tasks.shown_clients import mean_of_known, quantiles, shown_clients

NONE = np.zeros(6, dtype=np.int64)
NAN = np.nan


def test_all_are_shown_in_their_order_if_they_fit() -> None:
    assert shown_clients([np.arange(6.0)], NONE, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_largest_deviations_of_each_measure_take_turns() -> None:
    # By the first measure 5, 4, 3, ...; by the second 0, 1, 2, ...; the third is known of client 2 only.
    first, second = np.arange(6.0), -np.arange(6.0)
    assert shown_clients([first], NONE, 2).tolist() == [4, 5]
    assert shown_clients([first, second], NONE, 2).tolist() == [0, 5]
    assert shown_clients([first, second], NONE, 4).tolist() == [0, 1, 4, 5]
    assert shown_clients([np.array([NAN, NAN, -1, NAN, NAN, NAN])], NONE, 1).tolist() == [2]
    assert shown_clients([], NONE, 2).tolist() == [0, 1]


def test_named_clients_come_first_and_once_and_failed_ones_take_half_of_the_rest() -> None:
    deviation, failures = np.arange(6.0), np.array([1, 3, 2, 0, 0, 0])
    assert shown_clients([deviation], failures, 5, [4, 4]).tolist() == [4, 1, 2, 3, 5]
    assert shown_clients([deviation], failures, 2, [3, 2, 1]).tolist() == [3, 2]
    assert shown_clients([deviation], failures, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_failures_of_nearly_all_do_not_hide_the_largest_deviation() -> None:
    assert shown_clients([np.arange(6.0)], np.array([9, 9, 9, 9, 9, 0]), 4).tolist() == [0, 1, 4, 5]


def test_quantiles_are_over_the_clients_with_a_value() -> None:
    # 0 to 100: the quantiles are 95, 50 and 5. A column without a value has none.
    values = np.stack([np.r_[np.arange(101.0), NAN, np.inf], np.full(103, NAN)], axis=1)
    np.testing.assert_allclose(quantiles(values), [[95, NAN], [50, NAN], [5, NAN]])
    np.testing.assert_allclose(quantiles(np.arange(101.0)), [95, 50, 5])


def test_mean_of_a_client_without_a_value_is_not_known() -> None:
    np.testing.assert_allclose(mean_of_known(np.array([[1.0, NAN, 3], [NAN, NAN, NAN]])), [2, NAN])
