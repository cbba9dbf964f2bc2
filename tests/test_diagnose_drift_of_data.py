"""Did the data of most clients change, or were the clients divided anew? By plain numbers."""

from dataclasses import replace

import pytest

from tasks.diagnose.evidence.compared import ComparedLosses
from tasks.diagnose.evidence.drift_of_data import DataDrift, drift_of, explained
from tasks.diagnose.evidence.memory import Memory

FIRST = 14
"""First round of the rise."""


def compared(changed: int, num_clients: int = 5, now: float = 3.0, resized: int = 0) -> ComparedLosses:
    """Losses under the models before rounds 6, 11, 16 and 21; the data of `changed` clients changed after round 11."""
    memories = {}
    for number in range(num_clients):
        before = now if number < changed else 0.5
        memories[f"{number:02}"] = (
            *(Memory(r, 0.5, before) for r in (6, 11)),
            *(Memory(r, 0.7, 0.7) for r in (16, 21)),
        )
    return ComparedLosses(memories, frozenset(f"9{k}" for k in range(resized)))


def sizes(found: ComparedLosses) -> dict[str, int]:
    return dict.fromkeys(found.memories, 10)


def test_other_data_of_most_clients_are_a_drift_since_the_last_round_with_the_data_of_then() -> None:
    drift = drift_of(compared(changed=3), FIRST)
    assert drift is not None
    assert drift.clients == ("00", "01", "02")
    assert (drift.num_clients, drift.last_before, drift.first_after) == (5, 11, 16)


@pytest.mark.parametrize(("changed", "resized", "found"), [(2, 0, False), (3, 0, True), (3, 1, False), (4, 2, True)])
def test_most_are_more_than_half_of_the_clients_with_resized_ones(changed: int, resized: int, found: bool) -> None:
    # With r resized clients, 5 + r are known: 3 of 5 and 4 of 7 are most, 3 of 6 are not.
    assert (drift_of(compared(changed, resized=resized), FIRST) is not None) is found


def test_data_that_changed_after_the_rise_had_begun_are_no_drift() -> None:
    assert drift_of(compared(changed=5), first=10) is None


def test_without_a_later_model_it_is_not_known_since_when() -> None:
    early = ComparedLosses({client: memories[:2] for client, memories in compared(changed=5).memories.items()})
    drift = drift_of(early, FIRST)
    assert drift is not None
    assert (drift.last_before, drift.first_after) == (11, None)


def test_data_that_are_divided_anew_have_the_same_loss_over_all_clients() -> None:
    """Two clients exchange their data: one logged 0.2 and has 0.8 today, the other the other way round."""
    pair = {"00": (Memory(6, 0.2, 0.8),), "01": (Memory(6, 0.8, 0.2),)}
    anew = ComparedLosses(pair)
    drift = drift_of(anew, FIRST)
    assert drift is not None
    assert not explained(drift, anew, FIRST, sizes(anew))
    # Over all clients the loss becomes (0.8 + 0.8) / (0.2 + 0.8) = 1.6 times as high: more than WORSE, which is 1.5.
    worse = ComparedLosses({**pair, "01": (Memory(6, 0.8, 0.81),)})
    assert explained(drift, worse, FIRST, sizes(worse))


def test_one_relabelling_of_all_clients_is_no_new_division() -> None:
    anew = ComparedLosses({"00": (Memory(6, 0.2, 0.8),), "01": (Memory(6, 0.8, 0.2),)})
    drift = drift_of(anew, FIRST)
    assert isinstance(drift, DataDrift)
    assert explained(replace(drift, then=(1, 0)), anew, FIRST, sizes(anew))
