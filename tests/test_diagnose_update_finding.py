"""The rules about a client's update, each just below and just above its bound."""

from dataclasses import replace

import pytest

from tasks.diagnose.evidence.update_finding import UpdateFinding

HONEST = UpdateFinding(
    norm=1.0, norm_per_step=1.0, grown=1.0, slope=-0.9, cosine=0.5, cosine_before=0.5, cosine_during=0.5, left_out=0.0
)
NAN = float("nan")


def sent(**changes: float) -> UpdateFinding:
    return replace(HONEST, **changes)


@pytest.mark.parametrize(
    ("ratio", "expected"), [(NAN, None), (1.0, True), (1.049, True), (1.051, False), (0.951, True), (0.949, False)]
)
def test_update_within_5_percent_of_what_training_gives_is_verified(ratio: float, expected: bool | None) -> None:
    assert sent(sent_over_trained=ratio).verified is expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"cosine": -0.39}, False),  # less than half of the earlier cosine, reversed
        ({"cosine": -0.4}, False),
        ({"cosine_before": 0.29}, False),  # the update did not agree with the others before
        ({"cosine_before": 0.3}, False),
        ({"cosine_before": 0.31}, True),
        ({"cosine_before": NAN}, False),
        ({"norm": 0.5}, False),  # too short
        ({"cosine_during": 0.01}, False),  # reversed from one model only
        ({"cosine_during": 0.0}, True),
        ({"cosine_during": NAN}, True),
    ],
)
def test_update_is_turned_that_agreed_and_is_reversed(changes: dict, expected: bool) -> None:
    base = {"cosine": -0.41, "cosine_before": 0.8, "cosine_during": -0.1, "norm": 0.51}
    assert sent(**base | changes).turned is expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"grown": 2.0}, False),
        ({"cosine": 0.15}, False),
        ({"cosine_before": 0.4, "cosine": 0.11}, False),  # fell by less than 0.3
        ({"cosine_before": 0.4, "cosine": 0.09}, True),
        ({"norm": 0.99}, False),
    ],
)
def test_update_is_turned_that_grew_and_points_elsewhere(changes: dict, expected: bool) -> None:
    assert sent(**{"grown": 2.01, "cosine": 0.14} | changes).turned is expected


@pytest.mark.parametrize(
    ("slope", "norm", "expected"),
    [(0.26, 0.2, True), (0.25, 0.2, False), (0.26, 0.19, False), (0.26, NAN, True), (NAN, 1.0, False)],
)
def test_update_goes_uphill_from_a_cosine_of_a_quarter(slope: float, norm: float, expected: bool) -> None:
    assert sent(slope=slope, norm=norm).uphill is expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"norm": 3.0}, False),
        ({"norm_per_step": 3.0}, False),  # more steps explain it
        ({"grown": 3.0}, False),  # the updates were always long
        ({"grown": NAN}, True),  # no past to compare with
    ],
)
def test_update_is_oversized_beyond_three_times_the_others_and_its_own(changes: dict, expected: bool) -> None:
    assert sent(**{"norm": 3.01, "norm_per_step": 3.01, "grown": 3.01} | changes).oversized is expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"slope": 0.01}, True),
        ({"slope": 0.0}, False),
        ({"grown": 2.01}, True),
        ({"grown": 2.0}, False),
        ({"norm": 3.01, "norm_per_step": 3.01}, True),
        ({"norm": 3.01, "norm_per_step": 3.0}, False),
        ({"cosine": -0.5, "cosine_during": -0.4}, True),
    ],
)
def test_odd_updates_get_a_second_look(changes: dict, expected: bool) -> None:
    assert sent(**changes).odd is expected


def test_nothing_is_odd_of_a_client_that_sent_nothing() -> None:
    nothing = UpdateFinding()
    assert (nothing.odd, nothing.turned, nothing.uphill, nothing.oversized) == (False,) * 4
    assert nothing.verified is None
