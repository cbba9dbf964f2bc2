import re
from typing import Any

import pytest
from diagnosis_pages import Page, page_of
from diagnosis_values import diagnosis, partition

from tasks.diagnose.report.holdings import read_holdings


def test_labels_are_those_of_the_named_clients_in_percent() -> None:
    held = partition(["00", "03"], ["cat", "dog"])  # 03 holds 20 cats and 10 dogs: 67 % and 33 %
    page = page_of(diagnosis(), partition=held)
    labels = next(svg for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if "share of each class" in svg)
    # All clients together hold 30 cats and 20 dogs.
    assert re.findall(r">(\d+)</text>", labels) == ["03", "60", "40", "67", "33"]
    assert "all clients" in labels


def test_clients_that_the_partition_does_not_know_are_said_to_be_missing() -> None:
    page = Page(page_of(diagnosis(client="99"), partition=partition(["00", "03"], ["cat", "dog"]))).said
    assert "No named client is in data/partition/partition.json" in page


@pytest.mark.parametrize(
    "held",
    [
        [],
        {},
        {"clients": {}, "classes": ["cat"]},
        {"clients": {"00": 3}, "classes": ["cat"]},
        {"clients": {"00": {"counts": [1, 2]}}, "classes": ["cat"]},
        {"clients": {"00": {"counts": [-1]}}, "classes": ["cat"]},
        {"clients": {"00": {"counts": [float("nan")]}}, "classes": ["cat"]},
        {"clients": {"00": {"counts": [10**400]}}, "classes": ["cat"]},
        {"clients": {"00": {"counts": [True]}}, "classes": ["cat"]},
    ],
)
def test_partition_of_another_form_is_not_known(held: Any) -> None:
    assert read_holdings(held) is None
    assert "are not known" in page_of(diagnosis(), partition=held)


def test_many_clients_are_a_band_and_not_a_mark_each() -> None:
    sizes = [
        len(page_of(diagnosis(), partition=partition([f"{k:04}" for k in range(number)], ["cat", "dog"])))
        for number in (301, 3_000)
    ]
    assert abs(sizes[1] - sizes[0]) < 2_000
