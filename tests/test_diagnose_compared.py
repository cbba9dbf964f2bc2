"""One run beside another: real rounds on some of the digits, and one of several differences raises the loss."""

import json
import shutil

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tasks.diagnose.compared.code import OtherCode
from tasks.diagnose.compared.explain import AGAINST, diagnose_against, diagnose_if_worse, is_no_higher
from tasks.diagnose.compared.seeds import SEEDS_FILE, keep_seeds
from tasks.diagnose.compared.side import side_of
from tasks.diagnose.consistency import contradictions
from tasks.errors import InputError
from tasks.federate import federate
from tasks.files import read_rows
from tasks.partition import partition
from tasks.preprocess import preprocess

pytestmark = pytest.mark.slow

ROUNDS = 10
BASE = {
    "data.kind": "clients",
    "data.path": "raw",
    "partition.kind": "natural",
    "federate.model": "logistic",
    "federate.rounds": ROUNDS,
    "federate.client.batch_size": 10,
    "federate.client.learning_rate": 0.1,
    "federate.local_work.epochs": 1,
}


@pytest.fixture(scope="module")
def night(settings_of, tmp_path_factory):
    """(settings, changes of clients' (x, y) by client; None: the client is gone) -> the run as a Side."""

    def run(name, dotted=None, changes=None, clients=6):
        data = load_digits()
        order = np.random.default_rng(0).permutation(len(data.target))
        x, y = (data.images[order] / 16).astype(np.float32)[..., None], data.target[order].astype(np.int32)
        raw = {f"{k:02}": (x[400 + k : 880 : clients], y[400 + k : 880 : clients]) for k in range(clients)}
        for client, change in (changes or {}).items():
            raw[client] = change(*raw.get(client, (x[900:980], y[900:980])))
        folder = tmp_path_factory.mktemp("night")
        (folder / "raw").mkdir()
        for client, examples in {**raw, "test": (x[:400], y[:400])}.items():
            if examples is not None:
                np.savez(folder / "raw" / f"{client}.npz", x=examples[0], y=examples[1])
        settings = settings_of({**BASE, "data.path": str(folder / "raw"), **(dotted or {})})
        for step in (partition, preprocess, federate):
            step(settings, folder)
        shutil.rmtree(folder / "raw")
        return side_of(name, settings, folder)

    return run


@pytest.fixture(scope="module")
def last_night(night):
    """A run in which nothing is wrong."""
    return night("last night")


def answer(this, other):
    diagnose_against(this.workspace / "reports", this, other)
    found = json.loads((this.workspace / "reports/diagnosis.json").read_text())
    assert contradictions(found) == []
    assert (found["question"], found["other"]) == ("against", other.name)
    return found


def shifted(x, y):
    return x, (y + 1) % 10


def other_examples(x, y):
    return x[::-1].copy(), y[::-1].copy()


def ends(side):
    losses = [float(row["val_loss"]) for row in read_rows(side.workspace / "reports/rounds.csv")]
    return np.exp(np.mean(np.log(losses[-5:])))


def test_a_client_whose_data_changed_is_named_among_differences_that_do_no_harm(night, last_night):
    tonight = night("tonight", {"federate.client.momentum": 0.1}, {"02": shifted, "04": other_examples})
    found = answer(tonight, last_night)
    assert found["worse"] is True
    assert found["verdict"] == "faulty_clients"
    (cause,) = found["causes"]
    assert (cause["clients"], cause["fault"], cause["replay"]["seeds"]) == (["02"], "labels", 3)
    assert cause["remedy"] is None
    assert {(each["what"], each["name"]) for each in found["differences"]} == {
        ("setting", "federate.client.momentum"),
        ("client", "02"),
        ("client", "04"),
    }
    # Without the wrong labels the loss is last night's, up to the noise of the other two differences.
    assert cause["replay"]["removes"]["mean"] > 0.8
    assert found["harm"]["reference"] == pytest.approx(ends(last_night), rel=0.05)
    text = (tonight.workspace / "reports/diagnosis.md").read_text()
    assert "because the data of client 02 changed: with the data of client 02 of last night it is" in text
    assert "(3 of 3 seeds)" in text


def test_a_changed_setting_is_named_and_set_back(night, last_night):
    # 80 examples make 8 steps in batches of 10 and of 11, so the size of a batch changes the loss by little.
    tonight = night("tonight", {"federate.client.learning_rate": 0.005, "federate.client.batch_size": 11})
    found = answer(tonight, last_night)
    (cause,) = found["causes"]
    assert (cause["cause"], cause["clients"]) == ("changed_setting", [])
    assert cause["remedy"]["settings"] == {"federate.client.learning_rate": 0.1}
    assert cause["remedy"]["confirmed"] is True
    assert cause["evidence"][0]["says"] == "federate.client.learning_rate is 0.005, and in last night it was 0.1."


def test_a_run_that_is_not_worse_has_no_cause_and_replays_no_difference(night, last_night):
    tonight = night("tonight", {}, {"04": other_examples})
    found = answer(tonight, last_night)
    assert (found["worse"], found["verdict"], found["harm"], found["causes"]) == (False, "none", None, [])
    assert [each["tried"] for each in found["differences"]] == [False]


@pytest.mark.slow
def test_a_client_that_is_gone_is_missing(night, last_night):
    def keeps(labels):
        return lambda x, y: (x[np.isin(y, labels)], y[np.isin(y, labels)])

    # Client 05 knows the digits 7 to 9. Of the others, client 00 has one example of each.
    def nearly(x, y):
        few = np.concatenate([np.flatnonzero(y == label)[:1] for label in (7, 8, 9)])
        kept = np.sort([*np.flatnonzero(y < 7), *few])
        return x[kept], y[kept]

    known = {f"{k:02}": keeps(range(7)) for k in range(1, 5)} | {"00": nearly}
    before = night("last night", {}, {**known, "05": keeps(range(7, 10))})
    tonight = night("tonight", {}, {**known, "05": lambda x, y: None})
    found = answer(tonight, before)
    (cause,) = found["causes"]
    assert (cause["cause"], cause["clients"]) == ("missing_clients", ["05"])
    assert cause["advice"] == "bring client 05 back"


@pytest.mark.slow
def test_many_changed_clients_are_tried_in_halves_within_the_budget(night, last_night):
    changes = {f"{k:02}": other_examples for k in range(6)} | {"03": shifted}
    found = answer(night("tonight", {}, changes), last_night)
    assert found["causes"][0]["clients"] == ["03"]
    assert found["replays"]["rounds"] <= found["replays"]["allowed"]


def test_a_run_with_fewer_rounds_than_the_other_one_is_compared_with_its_end(night, last_night):
    found = answer(night("tonight", {"federate.rounds": 2}), last_night)
    (cause,) = found["causes"]
    assert cause["remedy"]["settings"] == {"federate.rounds": ROUNDS}
    assert found["differences"][0]["ends_at"] == pytest.approx(found["harm"]["reference"], rel=1e-4)
    assert found["harm"]["reference"] == pytest.approx(ends(last_night), rel=0.1)  # over seeds, of which it is one


def test_code_that_cannot_be_tried_is_not_hidden_by_a_replay_of_the_other_run(night, last_night):
    # Last night's log says what last night's code made of the data. Today's code would make the loss of today.
    tonight = night("tonight", {"federate.client.learning_rate": 0.005})
    as_before = side_of(last_night.name, tonight.settings, last_night.workspace)
    code = OtherCode(("tasks/federate",), says="The code differs, and was not tried.")
    diagnose_against(tonight.workspace / "reports", tonight, as_before, code)
    found = json.loads((tonight.workspace / "reports/diagnosis.json").read_text())
    assert (found["worse"], found["verdict"], found["causes"]) == (True, "none", [])
    assert found["harm"]["reference"] == pytest.approx(ends(last_night), rel=1e-3)
    assert code.says in found["limits"]
    assert [(each["what"], each["tried"]) for each in found["differences"]] == [("code", False)]


def test_a_loss_that_nothing_that_was_compared_explains_is_still_higher(night, last_night):
    # Without a dvc.lock, code is not compared. Here a setting stands for what differs and is not found.
    (last_night.workspace / SEEDS_FILE).unlink(missing_ok=True)
    tonight = night("tonight", {"federate.client.learning_rate": 0.005})
    as_before = side_of(last_night.name, tonight.settings, last_night.workspace)
    found = answer(tonight, as_before)
    assert (found["worse"], found["verdict"], found["differences"]) == (True, "none", [])
    assert found["harm"]["reference"] == pytest.approx(ends(last_night), rel=1e-3)
    assert found["harm"]["loss"] == pytest.approx(ends(tonight), rel=0.1)  # over seeds, of which it is one
    assert not (last_night.workspace / SEEDS_FILE).exists()  # no replay was one of last night
    equal = side_of("the same", tonight.settings, shutil.copytree(tonight.workspace, tonight.workspace.parent / "same"))
    assert answer(tonight, equal)["worse"] is False


def test_a_night_that_is_no_higher_costs_no_round_and_writes_nothing(night, last_night):
    better = night("tonight", {"federate.rounds": ROUNDS + 5})
    answered = diagnose_if_worse(better.workspace / "reports", better, last_night)
    assert answered.against.worse is False
    assert answered.budget.rounds == 0
    assert not (better.workspace / "reports" / AGAINST).exists()


def test_the_logs_say_that_a_night_is_no_higher_also_if_few_rounds_were_measured(night, last_night):
    few = {"federate.evaluate_every": 4, "federate.rounds": ROUNDS}  # rounds 4, 8 and 10, of which 8 and 10 are the end
    equal, longer = night("tonight", few), night("tonight", {**few, "federate.rounds": ROUNDS + 5})
    lower = night("tonight", {**few, "federate.client.learning_rate": 0.01})
    assert [is_no_higher(this, equal) for this in (equal, longer, lower)] == [True, True, False]
    assert is_no_higher(longer, last_night)
    assert not is_no_higher(last_night, longer)
    cut = side_of("tonight", equal.settings, shutil.copytree(longer.workspace, longer.workspace.parent / "cut"))
    assert not is_no_higher(cut, equal)  # its log is of 15 rounds and its settings name 10, so it says nothing


def test_a_worse_night_is_explained_beside_its_own_diagnosis_and_the_noise_is_measured_once(night, last_night):
    (last_night.workspace / SEEDS_FILE).unlink(missing_ok=True)
    tonight = night("tonight", {"federate.rounds": 2, "federate.client.momentum": 0.1})
    reports = tonight.workspace / "reports"
    (reports / "diagnosis.json").write_text("its own")
    first = diagnose_if_worse(reports, tonight, last_night)
    found = json.loads((reports / AGAINST / "diagnosis.json").read_text())
    assert (found["question"], found["worse"], found["verdict"]) == ("against", True, "changed_setting")
    assert (reports / AGAINST / "diagnosis.html").is_file()
    assert (reports / "diagnosis.json").read_text() == "its own"
    seeds = json.loads((last_night.workspace / SEEDS_FILE).read_text())["val_loss"]
    assert len(seeds) == 3
    assert seeds[0] == pytest.approx(ends(last_night), rel=1e-6)
    assert found["harm"]["noise"] == pytest.approx(
        np.std(np.log(seeds), ddof=1) * np.exp(np.mean(np.log(seeds))), rel=1e-3
    )
    again = diagnose_if_worse(reports, tonight, last_night)
    # The second time, two seeds of last night are known; its third is in its log.
    assert first.budget.rounds - again.budget.rounds == 2 * ROUNDS


def test_the_noise_is_measured_again_if_the_other_run_has_other_losses_now(night, last_night):
    # `dvc repro` with other code, but with the same settings and data, writes a new log beside the old seeds.json.
    keep_seeds(last_night, [2.0, 2.1, 2.2])
    tonight = night("tonight", {"federate.rounds": 2})
    assert diagnose_if_worse(tonight.workspace / "reports", tonight, last_night).against.worse is True
    seeds = json.loads((last_night.workspace / SEEDS_FILE).read_text())["val_loss"]
    assert seeds[0] == pytest.approx(ends(last_night), rel=1e-6)


def test_a_run_that_ended_early_or_has_no_raw_data_is_refused(night, last_night):
    tonight = night("tonight")
    with pytest.raises(
        InputError, match=r"gone cannot be compared, because the folder of the run, with params\.yaml and"
    ):
        side_of("gone", tonight.settings, None)
    shutil.rmtree(tonight.workspace / "data/partition")
    with pytest.raises(InputError, match=r"partition\.json is missing: run it again, or restore it with `dvc pull`"):
        side_of("tonight", tonight.settings, tonight.workspace)
