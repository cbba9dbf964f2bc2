"""One round from any state: what it does not change, and which draws follow which seed."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest

from tasks.federate.cohort import cohort_of
from tasks.federate.computations import build_computations
from tasks.federate.runner import Phase, Runner
from tasks.models import build
from tests.rounds import kept_of

SIZES = (7, 4, 11)
# The batch holds all data, so the order of the examples does not matter. Client 02 has noise for features.
DOTTED = {
    "federate.model": "logistic",
    "federate.client.kind": "scaffold",
    "federate.client.learning_rate": 0.1,
    "federate.client.batch_size": 50,
    "federate.faults.kind": "noisy_features",
    "federate.faults.clients": ["02"],
}


@pytest.fixture(scope="module")
def runner_of(make_clients, settings_of, one_thread, tmp_path_factory):
    """({setting: value}, ...) -> a runner of three clients; the mask of round 2 prunes every other parameter."""
    folder = make_clients(sizes=SIZES).write(tmp_path_factory.mktemp("clients"))
    cohort = cohort_of(settings_of(DOTTED), folder)
    model = build("logistic", (3, 3, 1), 3, 0)
    computations = build_computations(settings_of(DOTTED), cohort, model, masked=True)

    def next_mask(round_num, params):
        return np.arange(len(params), dtype=np.float32) % 2 if round_num == 2 else None

    def made(changes=None, first=1, last=10, **chosen):
        phase = Phase("prune", first, last, next_mask)
        return Runner(settings_of({**DOTTED, **(changes or {})}), cohort, model, phase, computations, **chosen)

    with one_thread():
        yield made


def assert_same(one, other):
    """Asserts that two states have the same bits; `np.testing.assert_equal` compares dictionaries, lists and arrays."""
    np.testing.assert_equal(one.nested, other.nested)
    np.testing.assert_equal(dict(one.kept or {}), dict(other.kept or {}))


@pytest.mark.parametrize("round_num", [1, 2, 3])
def test_round_leaves_the_state_that_it_begins_with_alone(runner_of, round_num):
    runner = runner_of()
    state = runner.step(runner.fresh(), 1).state
    before = deepcopy(state)
    first = runner.step(state, round_num, {"01"})
    assert_same(state, before)
    again = runner.step(state, round_num, {"01"})
    assert_same(again.state, first.state)
    assert again.line == first.line
    # The round did change every part that it could have changed in place.
    for part in ("params", "shared"):
        assert np.any(getattr(first.state, part) != getattr(before, part))
    assert np.any(first.state.kept["00"] != before.kept["00"])
    np.testing.assert_array_equal(first.state.kept["01"], before.kept["01"])
    cut_off = first.state.params[::2] == 0
    assert cut_off.all() == (round_num == 2)


def test_a_fresh_state_stays_the_first_after_rounds_that_were_measured(runner_of):
    runner = runner_of()
    fresh = runner.fresh()
    stepped = runner.step(fresh, 1)
    # The round measured the hold-out loss, which writes the new parameters into the model.
    assert stepped.line.row["val_loss"] is not None
    assert np.any(stepped.state.params != fresh.params)
    np.testing.assert_array_equal(runner.fresh().params, fresh.params)


def test_server_vector_of_those_that_are_left_is_their_weighted_mean(runner_of):
    runner = runner_of()
    fresh = runner.fresh()
    size = len(fresh.params)
    kept = {client: np.full(size, value, np.float32) for client, value in (("00", 1), ("01", 2), ("02", 4))}
    state = replace(fresh, kept=kept_of(kept))
    # 7, 4 and 11 examples: (7 · 1 + 4 · 2 + 11 · 4) / 22, (7 · 1 + 11 · 4) / 18, and 4.
    for left, expected in ((["00", "01", "02"], 59 / 22), (["00", "02"], 51 / 18), (["02"], 4)):
        settled = runner.settled(state, left)
        np.testing.assert_allclose(settled.shared, np.full(size, expected), rtol=1e-6)
        assert settled.shared.dtype == np.float32
    np.testing.assert_array_equal(state.shared, fresh.shared)


@pytest.mark.parametrize("way", ["excluded by the guard", "absent in a replay"])
def test_round_adds_what_the_clients_that_are_left_learnt_by_their_share_of_the_whole(runner_of, way):
    excluded, absent = ({"01"}, ()) if way == "excluded by the guard" else ((), {"01"})
    runner = runner_of(absent=absent)
    after = runner.step(runner.fresh(), 1, excluded).state
    expected = (7 * after.kept["00"] + 11 * after.kept["02"]) / 18
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(after.shared, expected, atol=1e-6)


def test_noise_of_a_faulty_client_follows_the_seed_of_the_run_not_of_a_replay(runner_of):
    runner, replay, other = runner_of(), runner_of(local_seed=77), runner_of({"seed": 77})
    state = runner.fresh()
    own, replayed, of_other = (each.updates(state, 1, ["00", "02"]) for each in (runner, replay, other))
    for client in ("00", "02"):
        # Only the order of the examples differs, and with it the rounding.
        np.testing.assert_allclose(own[client].update, replayed[client].update, atol=1e-6)
    np.testing.assert_allclose(own["00"].update, of_other["00"].update, atol=1e-6)
    assert np.abs(own["02"].update - of_other["02"].update).max() > 1e-3
    assert not np.array_equal(runner.order("02", 1), replay.order("02", 1))
    np.testing.assert_array_equal(replay.order("02", 1), other.order("02", 1))


def test_who_is_drawn_follows_the_seed_of_the_run_not_of_a_replay(runner_of):
    chosen = {"federate.sampling.kind": "uniform", "federate.sampling.clients_per_round": 1}

    def drawn(runner):
        state = runner.fresh()
        return [runner.step(state, t).line.clients[0]["client"] for t in range(1, 9)]

    assert (
        drawn(runner_of(chosen)) == drawn(runner_of(chosen, local_seed=77)) != drawn(runner_of({**chosen, "seed": 77}))
    )


def test_learning_rate_falls_from_the_first_round_of_the_phase(runner_of):
    decay = {"federate.client.schedule.kind": "exponential", "federate.client.schedule.decay": 0.5}
    runner = runner_of(decay, first=11, last=20)
    state = runner.fresh()
    (whole,), *rest = ([result.update for result in runner.updates(state, t, ["00"]).values()] for t in (11, 12, 14))
    # Each round is one step of gradient descent: half as long in the second round, an eighth in the fourth.
    for (update,), factor in zip(rest, (1 / 2, 1 / 8), strict=True):
        np.testing.assert_allclose(update, factor * whole, atol=1e-7)
    (constant,) = runner_of().updates(state, 1, ["00"]).values()
    np.testing.assert_allclose(whole, constant.update, atol=1e-7)


@pytest.mark.parametrize(("every", "measured"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (3, [3, 5]), (9, [5])])
def test_model_is_tested_every_so_many_rounds_and_after_the_last(runner_of, every, measured):
    runner = runner_of({"federate.evaluate_every": every}, last=5, validate=lambda params: (0.5, 0.25))
    state = runner.fresh()
    rows = [runner.step(state, t).line.row for t in range(1, 6)]
    assert [row["round"] for row in rows if row["val_loss"] == 0.5] == measured
    assert all(row["val_loss"] is None for row in rows if row["round"] not in measured)


def test_round_is_healthy_if_its_validation_loss_is_finite_or_was_not_measured(runner_of):
    for loss, healthy in ((0.5, True), (np.inf, False), (np.nan, False)):
        runner = runner_of({"federate.evaluate_every": 2}, validate=lambda params, loss=loss: (loss, 0.25))
        state = runner.fresh()
        assert [runner.step(state, t).healthy for t in (1, 2)] == [True, healthy]
