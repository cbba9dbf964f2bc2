import pytest

from tasks.diagnose.phrases import count, every_client, figure, joined, measured, percent, span, who


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "client 0"),
        (2, "clients 0 and 1"),
        (5, "clients 0, 1, 2, 3 and 4"),
        (6, "clients 0, 1, 2, 3, 4 and 1 more"),
        (9, "clients 0, 1, 2, 3, 4 and 4 more"),
    ],
)
def test_five_clients_are_named_and_more_are_counted(number: int, text: str) -> None:
    assert who([str(k) for k in range(number)]) == text


def test_every_client_is_named_where_all_must_be() -> None:
    assert every_client(["03"]) == "client 03"
    assert every_client([str(k) for k in range(7)]) == "clients 0, 1, 2, 3, 4, 5 and 6"


def test_parts_are_joined_as_in_a_sentence() -> None:
    assert [joined(parts) for parts in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_one_round_is_no_span() -> None:
    assert (span(3, 3), span(3, 5)) == ("round 3", "rounds 3 to 5")


def test_one_of_a_kind_has_no_plural() -> None:
    assert [count(number, "seed") for number in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]


def test_percentages_are_whole_and_nothing_is_less_than_nothing() -> None:
    assert [percent(value) for value in (0.956, -0.004, -0.006, None)] == ["96 %", "0 %", "-1 %", "–"]


def test_figures_have_three_digits_and_a_dash_for_none() -> None:
    assert [figure(value) for value in (None, 0.12345, 12345.0, 0.0)] == ["–", "0.123", "1.23e+04", "0"]


def test_what_was_not_measured_is_not_known() -> None:
    assert [measured(value) for value in (0.12345, float("nan"), float("inf"))] == ["0.123", "not known", "not known"]
