"""Who sends something odd, by the log, and who sends something else than it trained, by a round that is run again."""

from dataclasses import replace

import numpy as np
import pytest
from diagnosis_logs import CLIENTS, client_rows, round_rows, write

from tasks.diagnose.evidence.sent_otherwise import sent_otherwise
from tasks.diagnose.replay.engine import replayer
from tasks.diagnose.standing.senders import odd_senders
from tasks.federate import federate
from tasks.round_log.read import read_clients


@pytest.fixture
def odd(tmp_path):
    """(change of a row, columns to leave out) -> the odd senders of ten clients over 30 rounds."""

    def find(change=lambda _: {}, drop=(), seed=0):
        rows = [{**row, **change(row)} for row in client_rows(seed)]
        for row in rows:
            row["num_steps"] = row.get("num_steps", 5)
        folder = write(tmp_path, round_rows([1.0] * 30), rows, drop)
        return odd_senders(with_steps(read_clients(folder / "reports/clients.csv"), rows), 0.01)

    return find


def with_steps(log, rows):
    """The log with the column num_steps, which `write` does not have; rows are in the order of the log."""
    steps = np.array([np.nan if row["num_steps"] is None else row["num_steps"] for row in rows], np.float64)
    return replace(log, signals={**log.signals, "num_steps": steps})


def only(client, first=1, last=30, **values):
    return lambda row: values if row["client"] == client and first <= row["round"] <= last else {}


def test_equal_clients_are_not_odd_in_any_of_twenty_logs(odd):
    """At a level of 0.01, one log in a hundred may have an odd client: 20 logs without one have a chance of 0.8."""
    assert [odd(seed=seed) for seed in range(20)] == [()] * 20


@pytest.mark.parametrize(("first", "last"), [(1, 30), (1, 15), (16, 30)])
def test_an_update_that_is_longer_in_half_of_the_run_is_odd(odd, first, last):
    assert odd(only("03", first, last, update_norm=4.0)) == ("03",)


def test_a_longer_update_of_more_steps_is_not_odd(odd):
    assert odd(only("03", update_norm=4.0, num_steps=20)) == ()


def test_updates_of_fewer_steps_are_compared_by_the_step(odd):
    assert odd(only("03", num_steps=1)) == ("03",)


def test_an_update_that_points_elsewhere_is_odd(odd):
    assert odd(only("03", update_cosine_robust=-0.3)) == ("03",)
    assert odd(only("03", 16, 30, update_cosine_robust=-0.3)) == ("03",)


def test_an_update_that_works_against_the_others_is_odd_even_if_theirs_are_spread(odd):
    """Honest cosines from 0.1 to 0.9: their spread hides -0.1."""
    spread = {client: 0.1 + 0.1 * place for place, client in enumerate(CLIENTS)}

    def cosine(row):
        return {"update_cosine_robust": -0.1 if row["client"] == "03" else spread[row["client"]]}

    assert odd(cosine) == ("03",)
    assert odd(lambda row: {"update_cosine_robust": spread[row["client"]]}) == ()


@pytest.mark.parametrize(("turn", "found"), [(0.5, ("03",)), (0.1, ())])
def test_a_mean_cosine_is_negative_beyond_its_own_noise_only(odd, turn, found):
    """In a half of 15 rounds, with a spread of 1: the standard error is 1 / sqrt(15) = 0.26, and 1.645 of it are 0.42.

    The others' cosines are 0 to 0.9, so a mean of -0.5 does not stand apart.
    """
    noise = np.random.default_rng(5).standard_normal(30)
    for half in (noise[:15], noise[15:]):
        half -= half.mean()
        half /= half.std(ddof=1)

    def cosine(row):
        place = CLIENTS.index(row["client"])
        own = -turn + noise[row["round"] - 1] if row["client"] == "03" else 0.1 * place
        return {"update_cosine_robust": own}

    assert odd(cosine) == found


def test_rows_of_failed_clients_and_empty_cells_do_not_count(odd):
    assert odd(only("03", update_norm=4.0, finite=False)) == ()
    assert odd(only("03", update_norm=None, update_cosine_robust=None)) == ()


def test_a_log_without_the_columns_has_no_odd_sender(odd):
    assert odd(only("03", update_norm=4.0), drop=["update_cosine_robust"]) == ()


def test_three_clients_have_no_odd_one(tmp_path):
    rows = [{**row, "num_steps": 5} for row in client_rows(0) if row["client"] in CLIENTS[:3]]
    for row in rows:
        row["update_cosine_robust"] = -0.9 if row["client"] == "01" else row["update_cosine_robust"]
    folder = write(tmp_path, round_rows([1.0] * 30), rows)
    assert odd_senders(with_steps(read_clients(folder / "reports/clients.csv"), rows), 0.01) == ()


def test_equal_numbers_of_all_clients_are_not_odd(odd):
    assert odd(lambda _: {"update_norm": 1.0, "update_cosine_robust": 0.5}) == ()


ROUNDS, EVERY = 12, 2
BASE = {
    "federate.model": "logistic",
    "federate.rounds": ROUNDS,
    "federate.checkpoint_every": EVERY,
    "federate.client.batch_size": 10,
    "federate.client.learning_rate": 0.2,
}
FAULT = {"federate.faults.clients": ["02"], "federate.faults.from_round": 5}
REVERSED = {**FAULT, "federate.faults.kind": "reversed_update", "federate.faults.factor": 1.0}
SCALED = {**FAULT, "federate.faults.kind": "scaled_update", "federate.faults.factor": 3.0}


@pytest.fixture(scope="module")
def ran(make_clients, settings_of, tmp_path_factory, computations):
    """(faults) -> (settings, workspace) of a run of six clients."""

    def run(faults):
        settings = settings_of({**BASE, **faults})
        folder = make_clients(sizes=(30,) * 6, num_test=90).write(tmp_path_factory.mktemp("run"))
        federate(settings, folder)
        return settings, folder

    return run


@pytest.fixture(scope="module")
def of_reversed(ran):
    return ran(REVERSED)


def sent(settings, folder, suspects, computations, log=None):
    log = log or read_clients(folder / "reports/clients.csv")
    with replayer(settings, folder, computations) as replays:
        replays.go_to(0)
        found = sent_otherwise(replays, log, suspects)
        return found.since, dict(found.by_client), replays.spent


def test_a_reversed_update_is_found_and_dated(of_reversed, computations):
    since, found, spent = sent(*of_reversed, ["00", "02"], computations)
    # Checkpoints are after rounds 2, 4, ..., and the fault begins in round 5, the round after one of them.
    assert since == 5
    assert list(found) == ["02"]
    assert found["02"].value == pytest.approx(-1, abs=0.01)
    assert "client 02 sent the reverse of what training on its data gives." in found["02"].says
    # The last known round, the first one, and a search by halves among the six before the last.
    assert spent <= 2 + 3


def test_honest_suspects_are_cleared(of_reversed, computations):
    assert sent(*of_reversed, ["00", "01", "03"], computations)[:2] == (0, {})


def test_checkpoints_of_other_settings_are_not_the_runs(of_reversed, settings_of, computations):
    """Only the first round can be run again then, before the fault."""
    _, folder = of_reversed
    since, found, _ = sent(settings_of({**BASE}), folder, ["02"], computations)
    assert (since, found) == (0, {})


def test_a_scaled_update_is_measured(ran, computations):
    since, found, _ = sent(*ran(SCALED), ["02", "04"], computations)
    assert (since, list(found)) == (5, ["02"])
    assert found["02"].value == pytest.approx(3, rel=1e-3)
    assert "3 times as long" in found["02"].says


def test_a_run_with_other_settings_tells_nothing(of_reversed, settings_of, computations):
    """At half the rate, all updates of round 1 are half as long: no client sent anything else."""
    _, folder = of_reversed
    settings = settings_of({**BASE, "federate.client.learning_rate": 0.1})
    assert sent(settings, folder, ["00", "02"], computations)[:2] == (0, {})


def test_a_log_with_a_client_that_is_excluded_today_is_not_compared(of_reversed, settings_of, computations):
    _, folder = of_reversed
    settings = settings_of({**BASE, "federate.exclude": ["01"]})
    assert sent(settings, folder, ["02"], computations)[:2] == (0, {})


def test_a_length_that_was_not_logged_is_no_other_length(of_reversed, computations):
    settings, folder = of_reversed
    log = read_clients(folder / "reports/clients.csv")
    norms = np.where(log.of("02"), np.nan, log.signals["update_norm"])
    log = replace(log, signals={**log.signals, "update_norm": norms})
    assert sent(settings, folder, ["00"], computations, log)[:2] == (0, {})


def test_a_client_that_failed_in_the_round_is_not_among_the_senders(of_reversed, computations):
    settings, folder = of_reversed
    log = read_clients(folder / "reports/clients.csv")
    log = replace(log, failed=log.failed | log.of("05"))
    assert sent(settings, folder, ["05"], computations, log)[:2] == (0, {})


def without_rows(log, client, rounds):
    kept = ~(log.of(client) & np.isin(log.rounds, rounds))
    return replace(
        log,
        rounds=log.rounds[kept],
        clients=tuple(np.array(log.clients)[kept].tolist()),
        signals={name: values[kept] for name, values in log.signals.items()},
        failed=log.failed[kept],
        not_finite=log.not_finite[kept],
    )


def test_a_suspect_that_was_not_drawn_is_compared_in_the_last_known_round_in_which_it_was(of_reversed, computations):
    settings, folder = of_reversed
    log = read_clients(folder / "reports/clients.csv")
    with replayer(settings, folder, computations) as replays:
        known = [saved + 1 for saved in replays.saved if saved + 1 in log.rounds]
        replays.go_to(0)
        some = sent_otherwise(replays, without_rows(log, "02", [known[0], known[-1]]), ["02"])
        never = sent_otherwise(replays, without_rows(log, "02", known), ["02"])
    assert (list(some.by_client), some.compared) == (["02"], {"02"})
    assert (never.since, dict(never.by_client), never.compared) == (0, {}, frozenset())
