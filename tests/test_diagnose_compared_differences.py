"""What differs between two runs."""

import pytest

from tasks.diagnose.compared.differences import differences
from tasks.diagnose.compared.side import Side


@pytest.fixture
def side(settings_of, tmp_path):
    """(name, settings, {client: digest}) -> a run with these raw data."""

    def make(name, dotted=None, digests=None):
        clients = {c: {"num_examples": 7, "digest": d} for c, d in (digests or {"00": "a", "01": "b"}).items()}
        content = {"clients": clients, "classes": ["no", "yes"], "images": False, "input_shape": [3]}
        (tmp_path / "data/partition").mkdir(parents=True, exist_ok=True)
        return Side(name, settings_of({"data.kind": "npz", **(dotted or {})}), tmp_path, content)

    return make


def found(this, other, code=()):
    return [(each.what, each.name) for each in differences(this, other, code)]


def test_equal_runs_differ_in_nothing(side):
    assert found(side("b"), side("a")) == []


def test_settings_on_which_no_result_depends_are_no_difference(side):
    known = {
        "data.path": "elsewhere",
        "diagnose.budget": 9.0,
        "federate.runtime.threads": 3,
        "federate.checkpoint_every": 7,
    }
    assert found(side("b", known), side("a")) == []


def test_a_kind_and_its_fields_are_one_difference_and_other_settings_are_one_each(side):
    changed = {
        "federate.aggregator.kind": "krum",
        "federate.aggregator.num_faulty": 2,
        "federate.rounds": 7,
        "federate.client.learning_rate": 0.3,
    }
    assert sorted(found(side("b", changed), side("a"))) == [
        ("setting", "federate.aggregator.kind, federate.aggregator.num_faulty"),
        ("setting", "federate.client.learning_rate"),
        ("setting", "federate.rounds"),
    ]


def test_clients_that_changed_are_new_or_are_gone_are_one_difference_each(side):
    this = side("b", digests={"00": "a", "01": "x", "03": "d"})
    assert found(this, side("a", digests={"00": "a", "01": "b", "02": "c"})) == [
        ("client", "01"),
        ("missing_client", "02"),
        ("new_client", "03"),
    ]


def test_data_that_follow_from_a_changed_division_are_one_difference_with_it(side):
    this = side("b", {"partition.alpha": 0.1, "federate.rounds": 7}, {"00": "x", "01": "y"})
    whole, rounds = differences(this, side("a"))
    assert (whole.name, whole.whole, whole.clients) == ("partition.alpha", True, ())
    assert rounds.name == "federate.rounds"
    # The other way round: where the data are the same, the setting stands for itself.
    (alone,) = differences(side("b", {"seed": 3}), side("a"))
    assert (alone.name, alone.whole, alone.settings) == ("seed", False, {"seed": 0})


def test_data_of_another_path_are_compared_client_by_client(side):
    this = side("b", {"data.path": "monday"}, {"00": "a", "01": "x"})
    assert found(this, side("a", {"data.path": "sunday"})) == [("client", "01")]


def test_changed_code_is_the_last_difference_and_names_five_files(side):
    files = tuple(f"tasks/{number}.py" for number in range(7))
    (code,) = differences(side("b"), side("a"), files)
    assert code.what == "code"
    assert code.says.endswith("tasks/0.py, tasks/1.py, tasks/2.py, tasks/3.py and tasks/4.py and 2 more files.")
