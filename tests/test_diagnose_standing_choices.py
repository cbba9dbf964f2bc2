"""Settings that may be in the way, from how a run went, in plain numbers."""

from pathlib import Path

import numpy as np
import pytest
from diagnosis_logs import client_rows, round_rows, write

from tasks.diagnose.standing.choices import Course, course_of, of_settings
from tasks.round_log.read import read_clients, read_rounds

GOOD = Course(first=2.3, last=0.3, path=5.0, undone=0.0, swing=0.2, raises=0.0)


@pytest.fixture
def suspected(settings_of):
    """(course, settings, label skew, slope) -> the suspicions of settings."""

    def suspect(course, settings=None, label_skew=0.0, slope=1.0):
        return list(of_settings(course, settings_of(settings or {}), label_skew, lambda: slope))

    return suspect


def changed(course, **values):
    return Course(**{**vars(course), **values})


def rates(suspicion, name):
    return [option.remedy.settings.get(name) for option in suspicion.options]


def test_a_run_that_learned_is_not_suspected_and_its_slope_is_not_computed(settings_of):
    def never():
        raise AssertionError("the slope is not needed")

    assert list(of_settings(GOOD, settings_of({}), 0.0, never)) == []


def test_steps_that_lead_nowhere_even_straight_downhill_make_the_client_rate_suspect(suspected):
    # 0.5 of the way times a slope of 2 lowers the loss by at most 1.0, less than half of 2.3.
    (found,) = suspected(changed(GOOD, last=2.2, path=0.5), slope=2.0)
    assert (found.cause, found.fault, found.clients, found.choice) == ("client_learning_rate", "too_low", (), True)
    assert rates(found, "federate.client.learning_rate") == [0.5, 5.0, 50.0]
    assert (found.evidence[0].value, found.evidence[0].expected) == (1.0, 2.3)


@pytest.mark.parametrize(
    ("reach", "least"),
    [
        (1.0, 10),  # 2.3 / 1 is 2.3: the next power of ten
        (0.024, 100),  # 2.3 / 0.024 is 96
        (0.022, 1000),  # 2.3 / 0.022 is 105
        (0.0, 1_000_000),  # nothing moved at all: not known
    ],
)
def test_a_low_rate_is_multiplied_by_what_the_steps_fall_short_of(suspected, reach, least):
    """The factor is the least power of ten with which the steps, straight downhill, could lower the loss to 0."""
    (found,) = suspected(changed(GOOD, last=2.2, path=reach), {"federate.client.learning_rate": 1e-5})
    expected = [1e-5 * least, 1e-4 * least, 1e-3 * least]
    assert rates(found, "federate.client.learning_rate") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("last", "path"),
    [
        (1.1, 0.5),  # the loss fell by more than half: it moved
        (2.2, 0.6),  # 0.6 * 2 = 1.2 is more than 1.15: it moved, and got nowhere
        (2.2, np.nan),  # a log without the server's steps
        (np.nan, 0.5),
    ],
)
def test_a_rate_is_not_too_low_if_the_model_moved_or_that_is_not_known(suspected, last, path):
    found = suspected(changed(GOOD, last=last, path=path), slope=2.0)
    assert [each for each in found if each.fault == "too_low"] == []


def test_a_loss_that_begins_at_0_makes_nothing_suspect(suspected):
    assert suspected(changed(GOOD, first=0.0, last=0.0, path=0.0)) == []


def test_a_server_optimizer_comes_before_the_client_rate(suspected):
    slow = {"federate.server_optimizer.kind": "adam", "federate.server_optimizer.learning_rate": 1e-5}
    server, client = suspected(changed(GOOD, last=2.2, path=0.01), slow)
    assert (server.cause, client.cause) == ("server_learning_rate", "client_learning_rate")
    plain, *higher = server.options
    assert plain.remedy.settings["federate.server_optimizer.kind"] == "sgd"
    assert plain.remedy.settings["federate.server_optimizer.learning_rate"] == 1.0
    found = [option.remedy.settings["federate.server_optimizer.learning_rate"] for option in higher]
    # 2.3 / 0.01 is 230: from 1,000 on.
    assert found == pytest.approx([1e-2, 1e-1, 1.0])


def test_plain_averaging_is_no_suspect(suspected):
    assert [each.cause for each in suspected(changed(GOOD, undone=1.0))] == ["client_learning_rate"]


def test_a_loss_that_goes_up_and_down_makes_a_rate_suspect_of_being_too_high(suspected):
    (found,) = suspected(changed(GOOD, undone=0.5))
    assert (found.cause, found.fault) == ("client_learning_rate", "")
    assert rates(found, "federate.client.learning_rate") == [0.0167, 0.005, 0.0005]
    assert [each.signal for each in found.evidence] == ["undone"]
    assert suspected(changed(GOOD, undone=0.49)) == []
    assert suspected(changed(GOOD, undone=0.9, swing=0.09)) == []  # near its lowest, a loss goes up and down a little


def test_a_model_that_moved_and_got_nowhere_makes_a_rate_suspect_of_being_too_high(suspected):
    # 5.0 of the way times a slope of 1 is more than half of 2.3, and 1.2 is left of 2.3.
    (found,) = suspected(changed(GOOD, last=1.2))
    assert (found.cause, found.fault) == ("client_learning_rate", "")
    assert [each.signal for each in found.evidence] == ["last_over_first"]
    assert suspected(changed(GOOD, last=1.1)) == []


def test_training_that_raises_the_clients_own_loss_speaks_for_a_rate_but_not_alone(suspected):
    (found,) = suspected(changed(GOOD, raises=0.6, undone=1.0))
    assert [(each.signal, each.value) for each in found.evidence][1:] == [("raises", 0.6)]
    assert suspected(changed(GOOD, raises=1.0)) == []


def test_no_sentence_has_a_number_that_is_not_known(suspected):
    for course in (changed(GOOD, undone=0.5, raises=np.nan), changed(GOOD, undone=np.nan, raises=1.0)):
        for found in suspected(course, {"federate.server_optimizer.learning_rate": 2.0}):
            assert not any("nan" in each.says for each in found.evidence)


def test_long_local_work_is_suspect_on_skewed_labels_only(suspected):
    long = {"federate.local_work.epochs": 10}
    (found,) = suspected(GOOD, long, label_skew=0.9)
    assert (found.cause, found.choice) == ("label_skew", True)
    assert found.change is not None
    assert {"federate.local_work.epochs": 1} in [option.remedy.settings for option in found.options]
    assert suspected(GOOD, long, label_skew=0.4) == []
    assert suspected(GOOD, {}, label_skew=0.9) == []


def course(folder: Path, rounds, clients, drop=()):
    write(folder, rounds, clients, drop)
    log = read_rounds(folder / "reports/rounds.csv"), read_clients(folder / "reports/clients.csv")
    return course_of(*log, 2.3, 0.3)


def test_rises_of_the_second_half_undo_a_share_of_its_falls(tmp_path):
    # The second half of ten rounds is rounds 6 to 10: rises by ln 2 and ln 2, falls by ln 4 and ln 2.
    losses = [9.0, 8.0, 7.0, 6.0, 5.0, 1.0, 2.0, 0.5, 1.0, 0.5]
    found = course(tmp_path, round_rows(losses), client_rows(0, 10))
    assert found.undone == pytest.approx(2 / 3)
    assert found.swing == pytest.approx(5 / 4 * np.log(2))


def test_rounds_that_were_not_measured_do_not_count(tmp_path):
    # Rounds 2, 4, 6, 8 and 10 were measured. Their second half is 1.0, 0.9 and 0.8.
    losses = [9.0, 2.0, 9.0, 1.5, 9.0, 1.0, 9.0, 0.9, 9.0, 0.8]
    assert course(tmp_path, round_rows(losses, every=2), client_rows(0, 10)).undone == 0.0


def test_a_loss_that_never_falls_undoes_everything(tmp_path):
    assert course(tmp_path, round_rows([1.0, 1.0, 1.0, 2.0]), client_rows(0, 4)).undone == np.inf


def test_one_measured_round_swings_by_nothing(tmp_path):
    assert course(tmp_path, round_rows([1.0, 0.9], every=2), client_rows(0, 2)).swing == 0.0


def test_rounds_of_pruning_are_not_the_course_of_training(tmp_path):
    losses = [1.0, 0.9, 0.8, 0.7, 5.0, 9.0]
    phases = ["federate"] * 4 + ["prune"] * 2
    assert course(tmp_path, round_rows(losses, phase=phases), client_rows(0, 4)).undone == 0.0


def test_raises_count_the_rows_of_the_second_half(tmp_path):
    rows = client_rows(0, 4)
    for row in rows:
        row["loss_before"] = 1.0
        # In rounds 3 and 4, clients 00 and 01 of ten raise their own loss.
        row["loss_after"] = 2.0 if row["round"] <= 2 or row["client"] in ("00", "01") else 0.5
    assert course(tmp_path, round_rows([1.0] * 4), rows).raises == pytest.approx(0.2)


def test_a_log_without_a_column_tells_nothing_of_it(tmp_path):
    found = course(tmp_path, round_rows([1.0] * 4), client_rows(0, 4), drop=["loss_after"])
    assert np.isnan(found.raises)
    assert np.isnan(found.path)
