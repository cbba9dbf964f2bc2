"""Which causes of a run's end are proposed, in which order, and which client rates are tried."""

import numpy as np
import pytest

from tasks.diagnose.ended.ending import Ending
from tasks.diagnose.ended.suspects import Steepness, far_too_long, suspects
from tasks.round_log.read import ClientLog
from tests.plain_findings import a_client, findings


def log_of(norms):
    """One round in which each client sent an update of its length in `norms`."""
    none = np.zeros(len(norms), np.bool_)
    return ClientLog(
        np.ones(len(norms), np.int64), tuple(norms), {"update_norm": np.array([*norms.values()])}, none, none
    )


CALM = log_of({f"{k:02}": 1.0 for k in range(5)})
ALL = tuple(f"{k:02}" for k in range(5))


def ending(failed=ALL, not_finite=None, by_guard=False):
    unusable = failed if not_finite is None else not_finite
    return Ending(1, "federate", "clients failed", by_guard, failed, unusable, 5, 1, 0, None)


def steepness(rate=1.0, **by_client):
    return Steepness({**dict.fromkeys(ALL, 0.5 * rate), **by_client}, rate)


def proposed(settings_of, *changed, of=None, steep=None, log=CALM, dotted=None):
    found = suspects(of or ending(), findings(*changed), steep or steepness(), log, settings_of(dotted or {}), 0)
    return [(each.cause, each.clients) for each in found]


def test_without_any_sign_only_the_client_rate_is_possible(settings_of):
    assert proposed(settings_of) == [("client_learning_rate", ())]


def test_the_server_rate_comes_before_the_client_rate(settings_of):
    dotted = {"federate.server_optimizer.learning_rate": 30.0}
    assert proposed(settings_of, dotted=dotted) == [("server_learning_rate", ()), ("client_learning_rate", ())]


def test_clients_that_are_a_minority_are_suspected_of_their_failures(settings_of):
    of = ending(("00", "01"), not_finite=("01",), by_guard=True)
    assert proposed(settings_of, a_client("01", failed=1), of=of)[:2] == [
        ("faulty_clients", ("00",)),
        ("non_finite", ("01",)),
    ]


def test_a_client_whose_own_data_make_its_steps_overshoot_is_named(settings_of):
    steep = steepness(**{"03": 600.0})
    assert proposed(settings_of, steep=steep) == [
        ("feature_shift", ("03",)),
        ("faulty_clients", ("03",)),
        ("client_learning_rate", ()),
    ]
    failed = a_client("03", failed=1)
    # Without the guard, a client that fails is left out: what it sent before did the harm.
    assert ("non_finite", ("03",)) not in proposed(settings_of, failed, steep=steep)
    by_guard = ending(("03",), by_guard=True)
    assert proposed(settings_of, failed, of=by_guard, steep=steep)[0] == ("non_finite", ("03",))


@pytest.mark.parametrize(("median", "named"), [(0.5, True), (5.0, False)])
def test_a_far_too_long_update_is_a_sign_only_where_training_itself_does_not_diverge(median, named, settings_of):
    log = log_of({**{f"{k:02}": 1.0 for k in range(4)}, "04": 150.0})
    steep = Steepness(dict.fromkeys(ALL, median), 1.0)
    assert (("faulty_clients", ("04",)) in proposed(settings_of, steep=steep, log=log)) == named


def test_far_too_long_is_a_hundred_times_the_median():
    assert far_too_long(log_of({"00": 1.0, "01": 1.0, "02": 100.0}), 1) == ()
    assert far_too_long(log_of({"00": 1.0, "01": 1.0, "02": 101.0}), 1) == ("02",)
    assert far_too_long(log_of({"00": 1.0}), 2) == ()


def test_rates_are_tried_from_the_highest_at_which_the_median_client_does_not_overshoot():
    # Curvature 4: a rate below 0.5.
    rates = Steepness(dict.fromkeys(ALL, 12.0), 3.0).rates()
    assert rates[:3] == [0.3, 0.1, 0.03]
    assert Steepness(dict.fromkeys(ALL, 0.2), 0.05).rates()[:2] == [0.0167, 0.005]
    assert Steepness(dict.fromkeys(ALL, 4 * 5e18), 5e18).rates()[0] == pytest.approx(0.167)
    assert Steepness({}, 0.1).rates()[0] == pytest.approx(0.0333)
