"""Replays of real rounds, and what is found of clients from the model before the rise."""

import shutil
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tasks.diagnose import diagnosis
from tasks.diagnose.causes import Candidate, remedies
from tasks.diagnose.evidence.collect import _usual_losses
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.investigation import Proof
from tasks.diagnose.replay.change import NOTHING, Change
from tasks.diagnose.replay.effect import Effect
from tasks.diagnose.replay.engine import Course, replayer
from tasks.diagnose.replay.examine import (
    Probe,
    curvature,
    dissimilarity,
    expected,
    feature_distance,
    learnable,
    left_out_losses,
    local_path,
)
from tasks.diagnose.replay.prove import _Case, _Seat
from tasks.diagnose.replay.surgery import features_aligned, labels_changed_back, labels_dealt_evenly, sizes_made_equal
from tasks.federate import federate
from tasks.files import read_rows, write_json
from tasks.round_log.read import ClientLog, read_clients, read_rounds
from tasks.settings import Settings

BASE = {
    "federate.model": "logistic",
    "federate.rounds": 20,
    "federate.client.batch_size": 10,
    "federate.client.learning_rate": 0.2,
    "federate.sampling.kind": "uniform",
    "federate.sampling.clients_per_round": 4,
}
HEALTHY = Findings((), 0.0, 0.0, 0.5, 0.0, 0.0, 1.0, (), (), {}, 0.0)
ONSET = 13
FAULT = {
    "federate.faults.kind": "reversed_update",
    "federate.faults.clients": ["02"],
    "federate.faults.from_round": ONSET,
    "federate.faults.factor": 8.0,
    "federate.sampling.clients_per_round": 5,
}


@pytest.fixture(scope="module")
def folder(make_clients, settings_of, tmp_path_factory):
    """A finished run: 6 clients of which 4 take part in a round."""
    made = make_clients(sizes=(20, 24, 17, 30, 22, 25), num_test=60).write(tmp_path_factory.mktemp("run"))
    federate(settings_of(BASE), made)
    return made


@pytest.fixture(scope="module")
def broken(make_clients, settings_of, tmp_path_factory):
    """A run in which client 02 sends reversed updates from round 13 on."""
    made = make_clients(sizes=(30,) * 6, num_test=90).write(tmp_path_factory.mktemp("broken"))
    federate(settings_of({**BASE, **FAULT}), made)
    return made


def logged(folder, name="val_loss"):
    return [float(row[name]) for row in read_rows(folder / "reports/rounds.csv")]


def test_a_run_of_more_rounds_than_the_settings_have_is_not_replayed(broken, settings_of):
    settings = settings_of({**BASE, **FAULT, "federate.rounds": ONSET})
    logs = read_rounds(broken / "reports/rounds.csv"), read_clients(broken / "reports/clients.csv")
    found = diagnosis(*logs, settings, broken)
    assert found["increase"]["detected"]
    says = f"The log has {len(logged(broken))} rounds of training, and federate.rounds is {ONSET}: "
    assert found["limits"][0].startswith(says)
    assert found["causes"] == [] or all(cause["replay"] is None for cause in found["causes"])


def test_replay_that_changes_nothing_gives_the_run_again(folder, settings_of):
    with replayer(settings_of(BASE), folder) as replays:
        replays.go_to(11)
        assert replays.from_round == 10  # the last checkpoint before; every 5 rounds
        course = replays.course(NOTHING, 0)
        replays.advance(course, 16)
        # The log has seven digits.
        np.testing.assert_allclose(course.losses["val_loss"], logged(folder)[10:16], rtol=1e-6)
        np.testing.assert_allclose(course.losses["train_loss"], logged(folder, "train_loss")[10:16], rtol=1e-6)
        assert replays.loss == pytest.approx(logged(folder)[9], rel=1e-6)
        other = replays.course(NOTHING, 1)
        replays.advance(other, 16)
        sampled = [[[row["client"] for row in line["clients"]] for line in one.lines] for one in (course, other)]
        assert sampled[0] == sampled[1]  # another seed draws other orders, and the same clients
        assert course.losses != other.losses
        assert replays.spent == 12


def test_without_checkpoints_the_rounds_are_run_again_to_the_same_bits(folder, settings_of, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data")
    found = []
    for place in (folder, tmp_path):
        with replayer(settings_of(BASE), place) as replays:
            replays.go_to(7)
            found.append((replays.from_round, replays.params.tobytes()))
    assert found[0] == found[1]
    assert not (tmp_path / "models").exists()


def test_checkpoints_of_other_settings_are_not_used_and_stay(folder, settings_of):
    before = sorted((folder / "models/checkpoints/federate").iterdir())
    with replayer(settings_of({**BASE, "federate.client.learning_rate": 0.1}), folder) as replays:
        replays.go_to(7)
        course = replays.course(NOTHING, 0)
        replays.advance(course, 8)
        assert course.losses["val_loss"][-1] != logged(folder)[7]
    assert sorted((folder / "models/checkpoints/federate").iterdir()) == before


def test_clients_left_out_are_drawn_and_take_no_part(folder, settings_of):
    with replayer(settings_of(BASE), folder) as replays:
        replays.go_to(5)
        whole, part = replays.course(NOTHING, 0), replays.course(Change("", without=("01", "03")), 0)
        for course in (whole, part):
            replays.advance(course, 10)
        for all_of_them, some in zip(whole.lines, part.lines, strict=True):
            named = [[row["client"] for row in line["clients"]] for line in (all_of_them, some)]
            assert named[1] == [client for client in named[0] if client not in ("01", "03")]


def test_state_goes_on_under_other_algorithms(folder, settings_of):
    changes = [
        {"federate.client.kind": "scaffold"},
        {"federate.server_optimizer.kind": "adam", "federate.server_optimizer.learning_rate": 0.01},
        {"federate.aggregator.kind": "median"},
        {"federate.shared_fraction": 0.1},
        {"federate.exclude": ["02"]},
    ]
    with replayer(settings_of(BASE), folder) as replays:
        replays.go_to(10)
        first = replays.params.copy()
        for settings in changes:
            course = replays.course(Change("", settings), 0)
            np.testing.assert_array_equal(course.state["server"]["params"], first)
            replays.advance(course, 11)
            assert np.isfinite(course.losses["val_loss"]).all()


def test_examples_dealt_anew_leave_out_who_was_left_out_in_the_run(folder, settings_of, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data")
    shutil.rmtree(tmp_path / "data/clients/05")
    surgery = {"dealt": labels_dealt_evenly(0), "equal": sizes_made_equal(0)}
    with replayer(settings_of({**BASE, "federate.exclude": ["02"]}), tmp_path) as replays:
        course = replays.course(Change("", surgery=surgery), 0)
        cohort = course.runner._cohort
    assert list(cohort.clients) == ["00", "01", "03", "04"]
    assert list(cohort.broken) == ["05"]
    # 20, 24, 30 and 22 examples: 24 each.
    assert {info.num_examples for info in cohort.clients.values()} == {24}


@pytest.mark.parametrize(
    ("change", "weights"),
    [
        ({}, {"00": 20, "01": 24, "02": 17, "03": 30, "04": 22, "05": 25}),
        ({"federate.exclude": ["01"]}, {"00": 20, "02": 17, "03": 30, "04": 22, "05": 25}),
        ({"federate.aggregator.weighting": "uniform"}, dict.fromkeys(["00", "01", "02", "03", "04", "05"], 1)),
    ],
    ids=["as they were", "one excluded", "equal weights"],
)
def test_a_replay_begins_with_the_server_vector_of_its_clients_and_weights(change, weights, folder, settings_of):
    with replayer(settings_of({**BASE, "federate.client.kind": "scaffold"}), folder) as replays:
        replays.go_to(5)
        state = replays.course(Change("", change), 0).state
    kept = [weight * state["kept"][client] for client, weight in weights.items()]
    np.testing.assert_allclose(state["server"]["shared"], sum(kept) / sum(weights.values()), atol=1e-6)
    assert np.abs(state["server"]["shared"]).max() > 1e-3


def test_reversed_updates_are_found_proven_and_cured(broken, settings_of):
    settings = settings_of({**BASE, **FAULT})
    reports = broken / "reports"
    found = diagnosis(read_rounds(reports / "rounds.csv"), read_clients(reports / "clients.csv"), settings, broken)
    assert found["increase"]["detected"]
    assert ONSET <= found["increase"]["round"] <= ONSET + 2
    assert found["verdict"] == "faulty_clients"
    (cause, *_) = found["causes"]
    assert cause["clients"] == ["02"]
    assert cause["replay"]["change"] == {"leave out": ["02"]}
    assert cause["replay"]["removes"]["low"] > 0.2
    assert cause["remedy"]["settings"] == {"federate.exclude": ["02"]} or cause["remedy"]["recovers"] > 0.9
    assert found["replays"]["rounds"] <= found["replays"]["allowed"]
    write_json(broken / "found.json", found)  # holds nothing that JSON does not


@pytest.mark.slow
def test_a_client_with_flipped_labels_is_found_where_few_take_part(make_clients, settings_of, tmp_path):
    """Client 01 of 16 in whose rounds alone the training loss is up; 4 take part in each."""
    settings = settings_of(
        {
            **BASE,
            "federate.rounds": 30,
            "federate.faults.kind": "flipped_labels",
            "federate.faults.clients": ["01"],
            "federate.faults.from_round": 16,
        }
    )
    made = make_clients(sizes=(30,) * 16, num_classes=4, num_test=90)
    directions = np.random.default_rng(1).standard_normal((9, 4))
    for site, (x, _) in made.data.items():  # labels that a linear model learns well, so that flipped ones stand out
        centred = 4 * (x - 0.5)
        made.data[site] = centred, (centred.reshape(len(x), -1) @ directions).argmax(1).astype(np.int32)
    folder = made.write(tmp_path)
    federate(settings, folder)
    logs = read_rounds(folder / "reports/rounds.csv"), read_clients(folder / "reports/clients.csv")
    found = diagnosis(*logs, settings, folder)
    assert found["detection"]["clients"] == ["01"]
    rows = [row for row in read_rows(folder / "reports/clients.csv") if row["client"] == "01"]
    before = [float(row["loss_before"]) for row in rows if int(row["round"]) < 16][-4:]
    assert found["increase"]["loss_before"] == pytest.approx(np.mean(before))
    assert found["increase"]["loss_after"] > 2 * found["increase"]["loss_before"]
    (cause,) = found["causes"]
    assert (cause["cause"], cause["clients"]) == ("faulty_clients", ["01"])
    assert cause["remedy"]["settings"] == {"federate.exclude": ["01"]}
    assert found["replays"]["rounds"] <= found["replays"]["allowed"]


def test_data_that_do_not_give_the_rise_again_prove_nothing(broken, settings_of):
    honest = settings_of({**BASE, "federate.sampling.clients_per_round": 5})
    reports = broken / "reports"
    found = diagnosis(read_rounds(reports / "rounds.csv"), read_clients(reports / "clients.csv"), honest, broken)
    assert (found["verdict"], found["causes"]) == ("none", [])
    assert "something was different then" in found["limits"][0]


def test_logs_alone_prove_nothing_and_say_so(broken, settings_of):
    reports = broken / "reports"
    logs = read_rounds(reports / "rounds.csv"), read_clients(reports / "clients.csv")
    found = diagnosis(*logs, settings_of(BASE), None)
    assert (found["increase"]["detected"], found["verdict"], found["causes"]) == (True, "none", [])
    assert "data are not here" in found["limits"][0]


# What is looked at from the model before the rise

SCALE = 3.0


@pytest.fixture(scope="module")
def linear():
    """logits = x W, W (2, 2), no bias: a model whose curvature can be computed by hand."""
    layers = [tf.keras.Input((2,)), tf.keras.layers.Dense(2, use_bias=False)]
    model = tf.keras.Sequential(layers)
    return Probe(model)


def test_curvature_of_softmax_regression_by_hand(linear):
    # At W = 0 both classes have 1/2: the Hessian is xx' times [[1, -1], [-1, 1]] / 4, whose largest eigenvalue is
    # |x|^2 · 2/4. With x = (3, 0): 4.5.
    x = np.array([[SCALE, 0.0]] * 4, np.float32)
    y = np.array([0, 1, 0, 1], np.int32)
    assert curvature(linear, np.zeros(4, np.float32), (x, y)) == pytest.approx(SCALE**2 / 2, rel=1e-2)


def test_fit_and_expectation_by_hand(linear):
    x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    params = np.array([2.0, 0.0, 0.0, 2.0], np.float32)  # W = 2 I: the right class of (1, 0) is 0, of (0, 1) is 1
    right, wrong = np.log1p(np.exp(-2.0)), np.log1p(np.exp(2.0))
    fit = linear.fit(params, (x, np.array([0, 1, 1], np.int32)))
    assert fit.loss == pytest.approx((2 * right + wrong) / 3)
    assert fit.accuracy == pytest.approx(2 / 3)
    reference = linear.fit(params, (x[:2], np.array([0, 1], np.int32)))
    assert expected(fit, reference) == (pytest.approx(right), pytest.approx(1.0))


def test_gradient_and_path_of_one_example_by_hand(linear):
    x, y = np.array([[1.0, 0.0]], np.float32), np.array([0], np.int32)
    loss, gradient = linear.gradient(np.zeros(4, np.float32), (x, y))
    assert loss == pytest.approx(np.log(2))
    np.testing.assert_allclose(gradient, [-0.5, 0.5, 0, 0], atol=1e-7)  # p - onehot, times x
    path = local_path(linear, np.zeros(4, np.float32), (x, y), 0.1, 1, 2)
    assert path.distance[0] == pytest.approx(0.1 * np.sqrt(0.5), rel=1e-5)
    assert path.first_broken is None
    assert (np.diff(path.loss) < 0).all()


def test_path_says_where_it_breaks(linear):
    x, y = np.array([[1e30, 0.0], [1.0, 0.0]], np.float32), np.array([1, 0], np.int32)
    path = local_path(linear, np.ones(4, np.float32), (x, y), 1e10, 2, 3)
    assert path.first_broken == 1


def test_dissimilarity_by_hand():
    one, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    shares = np.array([0.5, 0.5])
    assert dissimilarity([one, one], shares) == pytest.approx(1.0)
    # Mean square 1, square of the mean 1/2.
    assert dissimilarity([one, other], shares) == pytest.approx(np.sqrt(2))
    assert dissimilarity([one, -one], shares) == np.inf


def test_leaving_out_by_hand():
    updates = {"a": np.array([1.0], np.float32), "b": np.array([4.0], np.float32)}
    together, without = left_out_losses(lambda p: float(p[0]), np.zeros(1, np.float32), updates, {"a": 3.0, "b": 1.0})
    assert together == pytest.approx(7 / 4)
    assert without == {"a": pytest.approx(4.0), "b": pytest.approx(1.0)}


def gaussians(rng, size, shift=0.0):
    y = rng.integers(0, 2, size).astype(np.int32)
    x = rng.normal(0, 0.3, (size, 2)) + np.eye(2)[y] + shift
    return x.astype(np.float32), y


def test_feature_distance_sees_shifts_and_neither_labels_nor_mixes(linear):
    rng = np.random.default_rng(0)
    params, base = np.array([5.0, 0.0, 0.0, 5.0], np.float32), gaussians(rng, 400)
    x, y = gaussians(rng, 300)
    same = feature_distance(linear, params, (x, y), base)
    flipped = feature_distance(linear, params, (x, 1 - y), base)
    one_label = feature_distance(linear, params, (x[y == 0], y[y == 0]), base)
    # The shift along (1, 1) leaves the class alone: 0.6 in units of sd 0.3 + 0.03 is about 1.8.
    shifted = feature_distance(linear, params, gaussians(rng, 300, 0.6), base)
    assert max(same, flipped, one_label) < 0.2
    assert shifted == pytest.approx(0.6 / 0.33, rel=0.15)


def test_noise_cannot_be_learnt_and_a_turned_meaning_can(linear):
    rng = np.random.default_rng(1)
    x, y = gaussians(rng, 200)
    params = np.array([1.0, 0.0, 0.0, 1.0], np.float32)
    accuracy, most = learnable(linear, params, (x, 1 - y), 0.1, 10)
    assert accuracy > most + 0.3
    noise = rng.normal(size=x.shape).astype(np.float32)
    accuracy, most = learnable(linear, params, (noise, y), 0.1, 10)
    assert accuracy < most + 0.15


def test_usual_loss_is_that_of_the_client_at_the_level_before_the_rise():
    """All losses fall alike, client 0's twice the others'; it was last drawn 12 rounds before the rise."""
    rows = [(r, c) for r in range(1, 21) for c in range(6) if c or r <= 8]
    losses = np.array([(4 if c == 0 else 2) * np.exp(-0.15 * r) for r, c in rows])
    no = np.zeros(len(rows), bool)
    log = ClientLog(np.array([r for r, _ in rows]), tuple(str(c) for _, c in rows), {"loss_before": losses}, no, no)
    usual = _usual_losses(log, first=21)
    # The median of the last five rounds is round 18's: 2 e^(-2.7) = 0.134, and twice that. What is added before the
    # logarithm bends that by a few per cent.
    assert usual["1"] == pytest.approx(2 * np.exp(-2.7), rel=0.05)
    assert usual["0"] == pytest.approx(4 * np.exp(-2.7), rel=0.15)


def course(val: Sequence[float], train: Sequence[float]) -> Course:
    return Course(NOTHING, None, None, 16 + len(val), {"val_loss": [*val], "train_loss": [*train]})


def case(unchanged: Course, first: int = 16, last: int = 19) -> _Case:
    """The tournament of a rise of val_loss from 0.3 in round 16; train_loss was 0.3 before it, too."""
    made = object.__new__(_Case)
    made._replays = SimpleNamespace(from_round=15, loss=0.3)
    made._loss, made._other, made._level, made._hidden = "val_loss", "train_loss", 0.3, ()
    made._first, made._last, made._telling, made._baselines = first, last, set(range(1, 31)), {0: unchanged}
    before = np.arange(1, 16)
    losses, no = np.full(15, 0.3), np.zeros(15, bool)
    made._log = ClientLog(before, ("00",) * 15, {"loss_before": losses}, no, no)
    return made


def seat(val: Sequence[float], train: Sequence[float]) -> _Seat:
    return _Seat(Candidate("", NOTHING), {0: course(val, train)})


def test_a_second_cause_is_asked_for_by_the_other_loss_where_that_is_still_up():
    low, high = [0.3] * 4, [1.2] * 4
    without_first, without_both = seat(low, high), seat(low, low)
    gain = case(course([2.0] * 4, [2.0] * 4))._gain
    # train_loss falls from 1.2 to 0.3, by ln 4, and val_loss has nothing left to fall by.
    assert gain(without_first, without_both, "faulty_clients") == (pytest.approx(np.log(4)), "train_loss")
    assert gain(without_first, without_both, "client_learning_rate")[0] == 0  # nothing speaks for it
    assert gain(without_both, without_both, "faulty_clients")[0] == 0  # nothing is left
    # A loss that rose only with the first change is no rise that a second one explains.
    assert case(course([2.0] * 4, low))._gain(without_first, without_both, "faulty_clients")[0] == 0
    # What falls of val_loss itself counts, too: from 0.6 to 0.3 is ln 2.
    assert gain(seat([0.6] * 4, low), without_both, "faulty_clients") == (pytest.approx(np.log(2)), "val_loss")


def test_replays_end_where_half_of_the_rise_is_seen():
    made = case(course([1.0] * 4, [1.0] * 4))
    made._rounds, made._losses, made._alarm = np.arange(14, 22), np.array([0.3, 0.3, 0.35, 0.5, 0.7, 1.2, 1.2, 1.2]), 21
    # From 0.3 to 1.2 is ln 4; half of it, 0.6, is passed in round 18.
    made._rise = SimpleNamespace(loss_after=1.2)
    assert made._half_risen() == 18
    made._rise = SimpleNamespace(loss_after=None)  # not finite
    assert made._half_risen() == 21


def test_remedies_of_a_second_cause_are_tried_beside_the_best_of_the_first():
    rates = [one.says for one in remedies("client_learning_rate", Settings(), (), HEALTHY)]
    robust = [one.says for one in remedies("faulty_clients", Settings(), ("03",), HEALTHY)]
    made = case(course([1.2] * 4, [1.2] * 4))
    made._replays = SimpleNamespace(from_round=15, loss=0.3, settings=Settings())
    # What each replay gives of the two losses, from 1.2 with nothing changed down to 0.3 before the rise.
    val, train, ran = {}, {}, []

    def run(one, seed):
        says = one.candidate.change.says
        ran.append(says)
        one.courses[seed] = course([val.get(says, 1.2)] * 4, [train.get(says, 1.2)] * 4)
        return True

    made._run = run
    proven = [
        Proof(Candidate("client_learning_rate", NOTHING), Effect((1.0,)), "val_loss", (), ()),
        Proof(Candidate("faulty_clients", NOTHING, ("03",)), Effect((1.0,)), "train_loss", (), ()),
    ]
    both = {says: f"{rates[0]}, and {says}" for says in robust}

    # The rate takes all of val_loss's rise back, and multi-Krum beside it all of train_loss's.
    val |= {rates[0]: 0.3, rates[1]: 0.6, **dict.fromkeys(both.values(), 0.3)}
    train[both["multi-Krum"]] = 0.3
    tried, proposed = made._remedies(proven, HEALTHY)
    assert ran == [*rates, *both.values()]
    assert sorted(one.remedy.says for one in tried) == sorted(ran)
    assert [one.recovers for one in tried] == sorted((one.recovers for one in tried), reverse=True)
    # 0.6 is half of the way from 1.2 to 0.3, on the logarithm.
    assert {one.remedy.says: one.recovers for one in tried}[rates[1]] == pytest.approx(0.5)
    assert {cause: one.remedy.says for cause, one in proposed.items()} == dict.fromkeys(
        ("client_learning_rate", "faulty_clients"), both["multi-Krum"]
    )
    assert proposed["faulty_clients"].against == ("client_learning_rate", "faulty_clients")
    # Where it takes nothing back beyond the first, the first alone is proposed, and nothing against the second.
    train.clear()
    _, proposed = made._remedies(proven, HEALTHY)
    assert {cause: one.remedy.says for cause, one in proposed.items()} == {"client_learning_rate": rates[0]}
    # What takes nothing back is not proposed.
    val.clear()
    assert made._remedies(proven[:1], HEALTHY)[1] == {}
    assert made._remedies([], HEALTHY) == ((), {})


@pytest.mark.slow
def test_failures_that_no_loss_shows_have_a_remedy(make_clients, settings_of, tmp_path):
    fault = {"kind": "not_finite", "clients": ["02"], "from_round": 7}
    settings = settings_of(
        {
            "federate.model": "logistic",
            "federate.rounds": 15,
            "federate.client.learning_rate": 0.02,
            "federate.guard": "continue",
            **{f"federate.faults.{name}": value for name, value in fault.items()},
        }
    )
    folder = make_clients(sizes=(30,) * 6, num_test=60).write(tmp_path)
    federate(settings, folder)
    logs = read_rounds(folder / "reports/rounds.csv"), read_clients(folder / "reports/clients.csv")
    found = diagnosis(*logs, settings, folder)
    cause = found["causes"][0]
    assert (cause["cause"], cause["clients"]) == ("non_finite", ["02"])
    # A failure in each of the rounds 7 to 15 that are compared, and none without the client.
    assert cause["remedy"] == {"settings": {"federate.exclude": ["02"]}, "recovers": 1.0}
    clipped = next(one for one in found["remedies"] if "clipped" in one["says"])
    assert clipped["recovers"] == 0
    assert clipped["against"] == ["non_finite"]


@pytest.mark.parametrize(
    "surgery",
    [labels_dealt_evenly(0), sizes_made_equal(0), features_aligned, labels_changed_back({"01": [0, 1, 2]})],
    ids=["labels", "sizes", "features", "mixed up"],
)
def test_a_run_that_left_clients_out_is_replayed_with_other_data(surgery, make_clients, settings_of, tmp_path):
    """What is operated on are the clients that take part; those that are out already stay out, by name."""
    settings = settings_of({**BASE, "federate.rounds": 4, "federate.exclude": ["02", "05"]})
    folder = make_clients(sizes=(20, 24, 17, 30, 22, 25), num_test=60).write(tmp_path)
    federate(settings, folder)
    with replayer(settings, folder) as replays:
        replays.go_to(2)
        further = {"federate.exclude": ["02", "03", "05"]}
        for change, left in (
            (Change("", surgery={"data": surgery}), {"00", "01", "03", "04"}),
            (Change("", further, surgery={"data": surgery}), {"00", "01", "04"}),
            (Change("", further), {"00", "01", "04"}),
        ):
            course = replays.course(change, 0)
            replays.advance(course, 4)
            assert np.isfinite(course.losses["val_loss"]).all()
            assert {row["client"] for line in course.lines for row in line["clients"]} <= left
            assert {*course.runner._cohort.clients} == left


@pytest.mark.slow
def test_after_a_remedy_left_clients_out_the_next_diagnosis_never_names_them(make_clients, settings_of, tmp_path):
    again = {"federate.exclude": ["02", "05"], "federate.faults.clients": ["02", "03"], "federate.guard": "continue"}
    settings = settings_of({**BASE, **FAULT, "federate.sampling.clients_per_round": 4, **again})
    folder = make_clients(sizes=(20, 24, 17, 30, 22, 25), num_test=60).write(tmp_path)
    federate(settings, folder)
    logs = read_rounds(folder / "reports/rounds.csv"), read_clients(folder / "reports/clients.csv")
    found = diagnosis(*logs, settings, folder)
    named = {client for cause in found["causes"] for client in cause["clients"]}
    assert found["causes"]
    assert not named & {"02", "05"}
    for cause in found["causes"]:
        left_out = ((cause["remedy"] or {}).get("settings") or {}).get("federate.exclude", ["02", "05"])
        assert {"02", "05"} <= {*left_out}
