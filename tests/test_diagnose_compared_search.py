"""Which of several differences takes a gap away, and whether a run is worse than another: on plain numbers."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from tasks.diagnose.compared.compare import compare
from tasks.diagnose.compared.comparison import is_worse
from tasks.diagnose.compared.differences import Difference
from tasks.diagnose.compared.search import responsible


def asked(culprits, weight=1.0):
    """(items -> share of the gap that goes away, the list of what was asked); all culprits are needed together."""
    seen = []

    def share(items):
        seen.append(list(items))
        return weight if culprits <= {*items} else 0.0

    return share, seen


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7, 16, 100])
def test_the_one_responsible_difference_is_found_wherever_it_stands(number):
    for culprit in range(number):
        share, seen = asked({culprit})
        assert responsible(range(number), share) == [culprit]
        # Both halves of each of log2(N) levels, the last three one by one.
        assert len(seen) <= 2 * np.ceil(np.log2(max(number, 2))) + 3


@pytest.mark.parametrize("number", [2, 3, 5, 8])
def test_two_that_only_together_take_it_away_are_returned_together_with_what_could_not_be_told_apart(number):
    for pair in itertools.combinations(range(number), 2):
        found = responsible(range(number), asked({*pair})[0])
        assert {*pair} <= {*found}


def test_nothing_is_responsible_if_all_together_take_away_too_little():
    assert responsible(range(6), asked(set(), weight=0.49)[0]) == []
    assert responsible([], asked(set())[0]) == []


def test_what_cannot_be_replayed_is_not_responsible():
    assert responsible(range(5), lambda items: None) == []


def test_the_strongest_of_several_is_taken():
    shares = {0: 0.6, 1: 0.9, 2: 0.55}
    assert responsible([0, 1, 2], lambda items: shares[items[0]] if len(items) == 1 else 1.0) == [1]


def test_a_run_is_worse_beyond_the_noise_of_both_runs():
    # ln 0.31 - ln 0.19 = 0.49; the log losses vary by 0.01, so their means by 0.006 each.
    assert is_worse([0.310, 0.313, 0.307], [0.190, 0.192, 0.188], 0.01)
    assert not is_worse([0.190, 0.192, 0.188], [0.310, 0.313, 0.307], 0.01)
    assert not is_worse([0.20, 0.19, 0.21], [0.195, 0.185, 0.205], 0.01)


def test_one_known_loss_is_taken_to_vary_like_the_other_run():
    # sd 0.0161 of the log losses of three; of the difference to one loss sqrt(1/3 + 1) times that, 0.0186. Student's t
    # with 2 degrees of freedom is 6.96 at 0.01, so 0.13 is needed: 0.22 / 0.20 is ln 1.1 = 0.095, 0.25 / 0.20 is 0.22.
    other = [0.20]
    assert not is_worse([0.2200, 0.2235, 0.2165], other, 0.01)
    assert is_worse([0.2500, 0.2540, 0.2460], other, 0.01)


def test_equal_runs_are_called_worse_as_often_as_the_significance_says():
    rng = np.random.default_rng(0)
    runs = np.exp(rng.normal(0, 0.1, (4000, 2, 3)))
    alarms = sum(is_worse(this, other, 0.05) for this, other in runs)
    # One-sided: 5 % of 4,000 is 200, with a standard deviation of 14. Welch's test is a little below its level.
    assert 120 < alarms < 256


def test_without_noise_any_higher_loss_is_worse():
    assert is_worse([0.3] * 3, [0.2] * 3, 0.01)
    assert not is_worse([0.2] * 3, [0.2] * 3, 0.01)


class Losses:
    """Losses of runs of one round: 2 as it is, 0.5 with `cause` taken back, which cannot be run with seed 1."""

    this = SimpleNamespace(settings=SimpleNamespace(federate=SimpleNamespace(rounds=1)))
    spent = 0

    def __init__(self):
        self.refused = {}

    def knows(self, taken_back, seed):
        return True

    def losses(self, taken_back, seed):
        if taken_back and seed == 1:
            self.refused[frozenset(taken_back)] = "the other run's code fails in federate: no memory"
        return None if frozenset(taken_back) in self.refused else {1: (0.5 if taken_back else 2) + seed / 100}


def test_a_cause_that_another_seed_cannot_confirm_says_why_and_not_that_the_budget_ended():
    code = Difference("code", ("tasks/federate",), "The code differs.", "with the code of last night")
    found = compare(Losses(), [code], 1, (0.5, 0.51, 0.52), budget=10, significance=0.05)
    assert (found.worse, found.causes, found.ruled_out) == (True, (), ())
    assert [each.why for each in found.not_finished] == ["the other run's code fails in federate: no memory"]
