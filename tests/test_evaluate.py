import json
import logging
import math
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss

from tasks.clients import TEST
from tasks.errors import DataError
from tasks.evaluate.curves import Curves, read_curves, read_updates
from tasks.evaluate.metrics import (
    ClientScores,
    area_under_roc,
    mean_cross_entropy,
    over_clients,
    predict,
    score,
    score_client,
    worst,
)
from tasks.evaluate.pictures import draw_confusion, draw_curves, draw_drift, save
from tasks.files import read_json, read_rows, write_json, write_rows
from tasks.heat_map import Grid
from tasks.settings import parse
from tests.shards import damage, npy, put, read_client, rewrite, sites_of, write_client, write_folders, write_sites

LN = math.log


def logits_for(predictions, num_classes, margin=5.0):
    return (margin * np.eye(num_classes)[np.asarray(predictions)]).astype(np.float32)


def labelled(min_classes=2, max_classes=5):
    """Random labels and logits, with ties."""

    def draw(args):
        num_classes, n, seed = args
        rng = np.random.default_rng(seed)
        return rng.integers(0, num_classes, n), rng.integers(-3, 4, (n, num_classes)).astype(np.float32)

    return st.tuples(st.integers(min_classes, max_classes), st.integers(1, 30), st.integers(0, 10_000)).map(draw)


# metrics


def test_scores_of_a_hand_made_confusion():
    # Labels 0 0 0 0 1 1 2, predictions 0 0 0 1 1 0 2: confusion [[3, 1, 0], [1, 1, 0], [0, 0, 1]].
    y = np.array([0, 0, 0, 0, 1, 1, 2])
    scores = score(y, logits_for([0, 0, 0, 1, 1, 0, 2], 3))
    assert scores.confusion.tolist() == [[3, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert scores.accuracy == pytest.approx(5 / 7)
    assert [of.recall for of in scores.per_class] == pytest.approx([3 / 4, 1 / 2, 1])
    assert [of.precision for of in scores.per_class] == pytest.approx([3 / 4, 1 / 2, 1])
    assert [of.support for of in scores.per_class] == [4, 2, 1]
    assert scores.balanced_accuracy == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert scores.macro_f1 == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert scores.auc is None
    # A right answer costs ln(1 + 2 e^-5), a wrong one 5 nats more; two of seven are wrong.
    assert scores.loss == pytest.approx(LN(1 + 2 * math.exp(-5)) + 2 * 5 / 7, rel=1e-6)


def test_perfect_classifier_scores_1():
    y = np.arange(12) % 3
    scores = score(y, logits_for(y, 3, margin=200))
    assert (scores.accuracy, scores.balanced_accuracy, scores.macro_f1) == (1, 1, 1)
    assert scores.loss == pytest.approx(0, abs=1e-30)


def test_constant_classifier_scores_1_over_c_balanced_and_ln_c_nats():
    y = np.array([0] * 6 + [1] * 3 + [2])
    scores = score(y, np.zeros((10, 3), np.float32))  # ties go to class 0
    assert scores.accuracy == pytest.approx(6 / 10)
    assert scores.balanced_accuracy == pytest.approx(1 / 3)
    assert scores.loss == pytest.approx(LN(3))
    # F1 of class 0: precision 6/10, recall 1: 2 * 0.6 / 1.6 = 0.75. The others are never predicted, F1 0.
    assert scores.macro_f1 == pytest.approx(0.75 / 3)
    assert [of.precision for of in scores.per_class] == [pytest.approx(0.6), None, None]


def test_class_without_examples_is_undefined_and_out_of_the_means():
    y = np.array([0, 0, 2, 2])
    scores = score(y, logits_for([0, 0, 2, 0], 4))
    assert scores.per_class[1].recall is None
    assert scores.per_class[1].f1 is None  # neither a label nor a prediction
    assert scores.per_class[1].support == 0
    assert scores.balanced_accuracy == pytest.approx((1 + 1 / 2) / 2)
    # F1 of class 0: 2*2 / (2*2 + 1 + 0) = 4/5; of class 2: 2*1 / (2*1 + 0 + 1) = 2/3.
    assert scores.macro_f1 == pytest.approx((4 / 5 + 2 / 3) / 2)


@given(labelled())
def test_scores_agree_with_scikit_learn_and_a_count_of_cells(drawn):
    y, logits = drawn
    num_classes = logits.shape[1]
    predictions, scores = predict(logits), score(y, logits)
    counted = np.zeros((num_classes, num_classes), int)
    for label, prediction in zip(y, predictions, strict=True):
        counted[label, prediction] += 1
    assert np.array_equal(scores.confusion, counted)
    assert scores.accuracy == pytest.approx(np.trace(counted) / len(y))
    present = counted.sum(axis=1) > 0
    assert scores.balanced_accuracy == pytest.approx(np.mean(np.diag(counted)[present] / counted.sum(axis=1)[present]))
    if set(predictions) <= set(y) and len(set(y)) > 1:  # elsewhere scikit-learn warns
        assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(y, predictions))
    assert scores.macro_f1 == pytest.approx(f1_score(y, predictions, average="macro", zero_division=0))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert scores.loss == pytest.approx(log_loss(y, probabilities, labels=range(num_classes)), rel=1e-5)


def test_mean_cross_entropy_neither_clips_nor_overflows():
    # Certain and wrong by 1e5 nats: a clipped probability would say 36.
    assert mean_cross_entropy(np.array([1]), np.array([[1e5, 0]], np.float32)) == pytest.approx(1e5)
    assert mean_cross_entropy(np.array([0]), np.array([[3e38, -3e38]], np.float32)) == 0


@given(labelled(2, 2))
def test_auc_is_the_chance_that_a_positive_beats_a_negative(drawn):
    y, logits = drawn
    margins = logits[:, 1] - logits[:, 0]
    pairs = [(a > b) + (a == b) / 2 for a in margins[y == 1] for b in margins[y == 0]]
    expected = sum(pairs) / len(pairs) if pairs else None
    assert score(y, logits).auc == (None if expected is None else pytest.approx(expected))


def test_auc_of_perfect_reversed_and_constant_margins():
    positive = np.array([False, False, True])
    assert area_under_roc(positive, np.array([-1.0, 0, 2])) == 1
    assert area_under_roc(positive, np.array([1.0, 0, -2])) == 0
    assert area_under_roc(positive, np.zeros(3)) == 0.5
    assert area_under_roc(~positive & positive, np.zeros(3)) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logit_that_is_not_finite_is_a_wrong_answer_without_a_loss(bad):
    y = np.array([0, 1, 1, 0])
    logits = logits_for(y, 2)
    logits[0, 0] = bad
    scores = score(y, logits)
    assert scores.non_finite == 1
    assert scores.loss is None
    assert scores.auc is None
    assert scores.accuracy == 3 / 4
    assert scores.balanced_accuracy == pytest.approx((1 / 2 + 1) / 2)
    assert scores.confusion.tolist() == [[1, 0], [0, 2]]
    # F1 of class 0: 2*1 / (2*1 + 0 + 1) = 2/3; of class 1: 1. NO_CLASS does not count as a third class.
    assert scores.macro_f1 == pytest.approx((2 / 3 + 1) / 2)


def test_model_that_is_not_finite_anywhere_scores_0():
    scores = score(np.array([0, 1]), np.full((2, 2), np.nan, np.float32))
    assert (scores.accuracy, scores.balanced_accuracy, scores.macro_f1) == (0, 0, 0)


def test_over_clients_takes_the_bad_end_of_both():
    clients = {f"{k:02}": ClientScores(10, loss=k / 10, accuracy=1 - k / 10) for k in range(11)}
    # Accuracies 0, 0.1, ..., 1: the 10th percentile is the second smallest; losses 0 .. 1: the second largest.
    assert over_clients(clients) == {
        "client_accuracy_worst": 0,
        "client_accuracy_p10": pytest.approx(0.1),
        "client_accuracy_mean": pytest.approx(0.5),
        "client_loss_worst": 1,
        "client_loss_p90": pytest.approx(0.9),
        "client_loss_mean": pytest.approx(0.5),
    }


def test_over_clients_leaves_out_what_is_undefined():
    assert over_clients({}) == {}
    assert "client_loss_mean" not in over_clients({"00": ClientScores(3, None, 0.5)})


def test_no_client_is_ranked_by_fewer_than_10_examples():
    clients = {"few": ClientScores(9, 5.0, 0.0), "many": ClientScores(10, 1.0, 0.6), "best": ClientScores(99, 0.5, 0.9)}
    summary = over_clients(clients)
    assert (summary["client_accuracy_worst"], summary["client_loss_worst"]) == (0.6, 1.0)
    assert summary["client_accuracy_mean"] == pytest.approx(0.5)
    assert set(over_clients({"few": clients["few"]})) == {"client_accuracy_mean", "client_loss_mean"}


def test_the_worst_of_all_is_named_with_its_support_and_never_for_two_examples():
    # The hospital has two examples of class b, both wrong, and 30 of class a, of which 27 are right.
    y = np.array([0] * 30 + [1] * 2)
    logits = logits_for(np.array([0] * 27 + [1] * 3 + [0] * 2), 2)
    hospital = score_client(y, logits)
    assert (hospital.support, hospital.recall) == ((30, 2), (0.9, 0.0))
    other = score_client(np.array([1] * 20), logits_for(np.array([1] * 19 + [0]), 2))
    assert other.recall == (None, 0.95)
    test = score(np.array([0] * 9 + [1] * 12), logits_for(np.array([1] * 9 + [1] * 6 + [0] * 6), 2))
    assert worst(["a", "b"], test, {"hospital": hospital, "other": other}) == {
        "client": {"client": "hospital", "accuracy": 27 / 32, "num_examples": 32},
        "class": {"class": "b", "recall": 0.5, "num_examples": 12},  # a has only 9 hold-out examples
        "client_class": {"client": "hospital", "class": "a", "recall": 0.9, "num_examples": 30},
    }


# the round log


def test_the_updates_say_who_was_not_sampled_and_who_failed(tmp_path):
    path = tmp_path / "clients.csv"
    path.write_text(
        "round,client,update_norm,update_cosine,finite\n1,a,0.5,0.9,True\n1,b,,,False\n3,a,nan,,True\n3,c,2.0,-0.5,1\n"
    )
    updates = read_updates(path, dict.fromkeys("abcd", 10), 4)
    assert updates.clients == ["a", "b", "c", "d"]
    assert updates.rounds.tolist() == [1, 2, 3, 4]
    nan = np.nan
    norms, cosines = updates.signals["update_norm"], updates.signals["update_cosine"]
    np.testing.assert_array_equal(norms, [[0.5, nan, nan, nan], [nan] * 4, [nan, nan, 2, nan], [nan] * 4])
    np.testing.assert_array_equal(cosines, [[0.9, nan, nan, nan], [nan] * 4, [nan, nan, -0.5, nan], [nan] * 4])
    assert updates.failed.tolist() == [[False, False, True, False], [True, False, False, False], *[[False] * 4] * 2]


def test_read_curves_skips_empty_cells_and_finds_the_prune_phase(tmp_path):
    path = tmp_path / "rounds.csv"
    path.write_text(
        "round,phase,train_loss,val_loss,val_accuracy\n1,federate,2.5,,\n2,federate,1.5,1.6,0.5\n3,prune,,1.7,0.4\n"
    )
    curves = read_curves(path)
    np.testing.assert_array_equal(curves.train_loss, [2.5, 1.5, np.nan])
    np.testing.assert_array_equal(curves.val_accuracy, [np.nan, 0.5, 0.4])
    assert curves.prune_from == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "round,phase,train_loss,val_loss,val_accuracy\n",
            "rounds of federate and then of prune, got no round",
        ),
        ("round,phase,train_loss,val_loss\n1,federate,1,1\n", "column val_accuracy"),
        (
            "round,phase,train_loss,val_loss,val_accuracy\n1,federate,x,1,1\n2,prune,1,1,1\n",
            "row 1, column train_loss must be a number or empty, got 'x'",
        ),
        (
            "round,phase,train_loss,val_loss,val_accuracy\n1.5,federate,1,1,1\n",
            "the rounds 1 to 1 .*got '1.5'",
        ),
    ],
)
def test_broken_round_log_is_named(tmp_path, text, message):
    path = tmp_path / "rounds.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_curves(path)


# pictures


def pixels(path):
    """Opens a picture, which must be as wide as a README and not blank."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    assert picture.width == 960
    assert len(picture.getcolors(maxcolors=2**24)) > 20
    return np.asarray(picture)


def drawn(figure, tmp_path):
    save(figure, tmp_path / "picture.png")
    return pixels(tmp_path / "picture.png")


def has_colour(picture, colour, at_least=200):
    return (picture == np.array(colour)).all(axis=2).sum() >= at_least


def made_updates(num_clients=6, num_rounds=9):
    rng = np.random.default_rng(0)
    shape = num_clients, num_rounds
    ids = [f"{k:04}" for k in range(num_clients)]
    cosine = rng.uniform(0.2, 1, shape)
    signals = {"update_cosine": cosine, "update_norm": rng.lognormal(size=shape)}
    return Grid(ids, np.arange(1, num_rounds + 1), signals, np.zeros(shape, bool))


def test_loss_picture_is_drawn_without_validation_and_from_one_round(tmp_path):
    empty = np.array([np.nan])
    drawn(draw_curves(Curves(np.array([1]), np.array([2.0]), empty, empty, None)), tmp_path)


def test_loss_picture_marks_the_prune_phase_and_survives_an_explosion(tmp_path):
    rounds = np.arange(1, 21)
    loss = np.where(rounds < 15, 1.0, 1e30)
    loss[3] = np.inf
    accuracy = np.linspace(0, 1, 20)
    without = drawn(draw_curves(Curves(rounds, loss, loss, accuracy, None)), tmp_path)
    marked = drawn(draw_curves(Curves(rounds, loss, loss, accuracy, 15)), tmp_path)
    assert (without != marked).any()


def test_drift_picture_shows_failed_black_and_not_sampled_grey(tmp_path):
    grey, whole = (0xCC, 0xCC, 0xCC), made_updates()
    picture = drawn(draw_drift(whole, None), tmp_path)
    assert not has_colour(picture, grey)
    whole.signals["update_norm"][2, 3] = whole.signals["update_cosine"][2, 3] = np.nan
    assert has_colour(drawn(draw_drift(whole, None), tmp_path), grey)
    whole.failed[2, 3] = True
    failed = drawn(draw_drift(whole, None), tmp_path)
    assert not has_colour(failed, grey)
    black = [(image < 5).all(axis=2).sum() for image in (failed, picture)]
    assert black[0] > black[1] + 1000  # two cells of 90 x 29 pixels, and the legend


def test_drift_picture_of_too_many_clients_and_rounds_keeps_the_worst(tmp_path):
    updates = made_updates(300, 450)
    updates.failed[250, 17] = True
    updates.signals["update_cosine"][123] = -0.9
    figure = draw_drift(updates, 400)
    drawn(figure, tmp_path)
    norms, cosines = figure.axes[:2]
    assert figure.get_suptitle().startswith("30 of 300 clients")
    # 450 rounds in blocks of 3: 150 columns, each the lowest cosine of its block.
    shown = np.asarray(cosines.images[0].get_array())
    assert shown.shape == (33, 150)  # three quantiles over all clients, then 30 clients
    assert (shown == -0.9).all(axis=1).sum() == 1
    of_all = [np.fmin.reduce(np.quantile(updates.signals["update_cosine"], q, axis=0)[:3]) for q in (0.95, 0.5, 0.05)]
    np.testing.assert_allclose(shown[:3, 0], of_all)
    assert np.nansum(norms.images[1].get_array()) == 1


def test_drift_picture_is_drawn_when_every_client_failed(tmp_path):
    nothing = np.full((2, 3), np.nan)
    signals = {"update_cosine": nothing, "update_norm": nothing}
    drawn(draw_drift(Grid(["a", "b"], np.arange(3), signals, np.ones((2, 3), bool)), None), tmp_path)


@pytest.mark.parametrize("num_classes", [2, 10, 62])
def test_confusion_picture_is_drawn_for_any_number_and_name_of_classes(tmp_path, num_classes):
    matrix = np.random.default_rng(0).integers(0, 50, (num_classes, num_classes))
    matrix[0] = 0
    names = [f"$class_{{{k}" for k in range(num_classes)]
    drawn(draw_confusion({"global": matrix, "pruned": matrix}, names), tmp_path)


def test_picture_has_the_same_bytes_twice(tmp_path):
    for name in "ab":
        save(draw_drift(made_updates(), 5), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# the step

ROUNDS = ["round", "phase", "train_loss", "val_loss", "val_accuracy"]
CLIENTS = ["round", "client", "update_norm", "update_cosine", "finite"]
SIZES = {"global_h5": 900, "pruned_h5": 890, "pruned_tflite": 300}


def describe(folder, shape, num_classes):
    """Writes preprocess.json for the clients that are there."""
    clients = folder / "data" / "clients"
    sizes = {client: len(y) for client, (_, y) in sites_of(clients).items()}
    del sizes[TEST]
    write_json(clients / "preprocess.json", {"input_shape": list(shape), "num_classes": num_classes, "clients": sizes})


def save_logistic(folder, name, shape, kernel, bias):
    from tasks.models import build, save_model

    model = build("logistic", shape, len(bias), seed=0)
    model.set_weights([kernel, bias])
    save_model(model, folder / "models" / f"{name}.h5")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: logistic regression on 8x8 images of three classes, class k bright in row k."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    sizes = {"00": 12, "01": 7, "02": 1, TEST: 10}
    sites = {}
    for site, n in sizes.items():
        y = np.arange(n) % 3
        x = rng.normal(0, 0.1, (n, 8, 8, 1))
        x[np.arange(n), y] += 1
        sites[site] = x, y
    write_sites(folder / "data" / "clients", sites)
    write_json(
        folder / "data" / "partition" / "partition.json",
        {"classes": ["zero", "one", "two"], "clients": {site: {} for site in sizes if site != TEST}},
    )
    describe(folder, (8, 8, 1), 3)
    for name, seed in (("global", 0), ("pruned", 1)):
        kernel = np.random.default_rng(seed).normal(0, 0.3, (64, 3))
        save_logistic(folder, name, (8, 8, 1), kernel, np.array([0.1, 0.2, -0.3]))
    reports = folder / "reports"
    write_rows(
        reports / "rounds.csv",
        ROUNDS,
        [
            dict(
                zip(ROUNDS, (t, "federate" if t < 5 else "prune", 2 / t, 2.2 / t if t % 2 else None, 0.8), strict=True)
            )
            for t in range(1, 8)
        ],
    )
    write_rows(
        reports / "clients.csv",
        CLIENTS,
        [dict(zip(CLIENTS, (t, c, 1 / t, 0.5, True), strict=True)) for t in range(1, 8) for c in ("00", "02")],
    )
    write_json(
        reports / "prune.json",
        {
            "sparsity": 0.8,
            "size_bytes": SIZES | {f"{name}_gzip": size // 2 for name, size in SIZES.items()},
            "accuracy": {"before": 0.9, "after": 0.8, "tflite_float": 0.8, "tflite_quantised": 0.7},
        },
    )
    return folder


@pytest.fixture
def workspace(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def run(folder, **chosen):
    from tasks.evaluate import evaluate

    evaluate(parse({"federate": {"model": "logistic"}, "evaluate": chosen}), folder)
    reports = folder / "reports"
    return read_json(reports / "metrics.json"), read_json(reports / "evaluation.json")


def reference(folder, model, site):
    """Loss and accuracy by hand from the weights in the H5 file."""
    import h5py

    with h5py.File(folder / "models" / f"{model}.h5") as opened:
        found = {}
        opened["model_weights"].visititems(
            lambda name, item: found.update({name.split("/")[-1]: item[()]}) if hasattr(item, "shape") else None
        )
    x, y = read_client(folder / "data" / "clients", site)
    logits = x.reshape(len(x), -1).astype(float) @ found["kernel:0"].astype(float) + found["bias:0"]
    losses = [LN(np.exp(row).sum()) - row[label] for row, label in zip(logits, y, strict=True)]
    return np.mean(losses), np.mean(logits.argmax(axis=1) == y)


def test_evaluate_scores_both_models_on_test_set_and_clients(workspace):
    metrics, evaluation = run(workspace, batch_size=4)  # the last part-batch counts too
    for model, prefix in (("global", ""), ("pruned", "pruned_")):
        loss, accuracy = reference(workspace, model, TEST)
        assert metrics[f"{prefix}loss"] == pytest.approx(loss, rel=1e-5)
        assert metrics[f"{prefix}accuracy"] == pytest.approx(accuracy)
        clients = evaluation[model]["clients"]
        assert sorted(clients) == ["00", "01", "02"]
        for client, of in clients.items():
            loss, accuracy = reference(workspace, model, client)
            assert of["loss"] == pytest.approx(loss, rel=1e-5)
            assert of["accuracy"] == pytest.approx(accuracy)
            assert sum(of["support"]) == of["num_examples"]
            right = [n * recall for n, recall in zip(of["support"], of["recall"], strict=True) if n]
            assert sum(right) / of["num_examples"] == pytest.approx(accuracy)
        ranked = [of for of in clients.values() if of["num_examples"] >= 10]
        assert 0 < len(ranked) < 3
        assert metrics[f"{prefix}client_accuracy_worst"] == min(of["accuracy"] for of in ranked)
        assert metrics[f"{prefix}client_loss_worst"] == max(of["loss"] for of in ranked)
        assert evaluation[model]["worst"]["client"]["accuracy"] == min(of["accuracy"] for of in ranked)
        confusion = np.array(evaluation[model]["test"]["confusion"])
        assert np.trace(confusion) / confusion.sum() == pytest.approx(metrics[f"{prefix}accuracy"])
        per_class = evaluation[model]["test"]["per_class"]
        assert [(of["class"], of["support"]) for of in per_class] == [("zero", 4), ("one", 3), ("two", 3)]
    assert evaluation["left_out"] == {}
    assert evaluation["classes"] == ["zero", "one", "two"]


def test_evaluate_metrics_are_flat_numbers_with_those_of_pruning(workspace):
    metrics, _ = run(workspace)
    assert all(isinstance(value, int | float) and math.isfinite(value) for value in metrics.values())
    assert (metrics["rounds"], metrics["prune_rounds"]) == (4, 3)
    assert metrics["sparsity"] == 0.8
    assert (metrics["size_bytes"], metrics["size_bytes_gzip"]) == (900, 450)
    assert (metrics["pruned_h5_size_bytes"], metrics["pruned_size_bytes_gzip"]) == (890, 150)
    assert metrics["pruned_tflite_accuracy"] == 0.7
    assert "auc" not in metrics


def test_evaluate_draws_every_picture(workspace):
    run(workspace)
    for name in ("loss", "drift", "confusion"):
        pixels(workspace / "reports" / f"{name}.png")


def test_evaluate_writes_the_same_bytes_twice(workspace):
    names = ("metrics.json", "evaluation.json", "loss.png", "drift.png", "confusion.png")
    contents = []
    for _ in range(2):
        run(workspace)
        contents.append([(workspace / "reports" / name).read_bytes() for name in names])
    assert contents[0] == contents[1]


def test_evaluate_names_a_client_with_broken_files_and_goes_on(workspace, caplog):
    whole, _ = run(workspace)
    damage(workspace / "data" / "clients", "02", "x", lambda content: content[:150])
    put(workspace / "data" / "clients", "01", y=npy(np.full(7, 3, np.int32)))
    with caplog.at_level(logging.WARNING):
        metrics, evaluation = run(workspace)
    assert sorted(evaluation["left_out"]) == ["01", "02"]
    assert "labels must be 0 to 2, as preprocess.json says, got 7 others" in evaluation["left_out"]["01"]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("tasks")]
    (message,) = said
    assert message.startswith("2 clients are left out of the scores over clients: client 01: ")
    assert "; client 02: " in message
    assert list(evaluation["global"]["clients"]) == ["00"]
    assert metrics["client_accuracy_worst"] == metrics["client_accuracy_mean"] == metrics["client_accuracy_p10"]
    assert metrics["accuracy"] == whole["accuracy"]


def test_evaluate_names_a_client_with_another_number_of_examples(workspace):
    write_client(workspace / "data" / "clients", "00", np.zeros((5, 8, 8, 1)), np.zeros(5))
    _, evaluation = run(workspace)
    assert evaluation["left_out"] == {"00": "client 00: must hold the 12 examples of preprocess.json, got 5"}


def test_evaluate_names_a_client_that_the_model_fails_on_and_goes_on(workspace, monkeypatch):
    from tasks.evaluate import evaluate
    from tasks.models import build, save_model

    (workspace / "ids.py").write_text(
        "import tensorflow as tf\n"
        "from tensorflow.keras import Sequential, layers\n"
        "def small(shape, classes):\n"
        "    ids = layers.Lambda(lambda x: tf.cast(tf.abs(x), tf.int32))\n"
        "    last = [layers.Flatten(), layers.Dense(classes)]\n"
        "    return Sequential([layers.Input(shape), layers.Flatten(), ids, layers.Embedding(50, 2), *last])\n"
    )
    monkeypatch.syspath_prepend(workspace)
    for name in ("global", "pruned"):
        save_model(build("ids:small", (8, 8, 1), 3, seed=0), workspace / "models" / f"{name}.h5")
    x, y = read_client(workspace / "data" / "clients", "02")
    write_client(workspace / "data" / "clients", "02", np.full_like(x, 99), y)
    evaluate(parse({"federate": {"model": "ids:small"}}), workspace)
    evaluation = read_json(workspace / "reports" / "evaluation.json")
    assert sorted(evaluation["global"]["clients"]) == sorted(evaluation["pruned"]["clients"]) == ["00", "01"]
    (said,) = evaluation["left_out"].values()
    assert said.startswith("client 02: ")
    assert said.endswith("failed on the data: indices[...] = ... is not in [0, 50)")


def test_evaluate_without_any_readable_client_still_scores_the_test_set(workspace):
    for shard in (workspace / "data" / "clients").glob("clients_*.npz"):
        shard.unlink()
    metrics, evaluation = run(workspace)
    assert sorted(evaluation["left_out"]) == ["00", "01", "02"]
    assert "accuracy" in metrics
    assert not [name for name in metrics if "client" in name]


def test_evaluate_of_two_classes_has_the_auc(workspace):
    log = workspace / "reports" / "clients.csv"
    write_rows(log, CLIENTS, [row for row in read_rows(log) if row["client"] == "00"])
    for name, sign in (("global", 1), ("pruned", -1)):
        save_logistic(workspace, name, (1,), np.array([[0.0, sign]]), np.zeros(2))
    write_json(workspace / "data" / "partition" / "partition.json", {"classes": ["no", "yes"], "clients": {"00": {}}})
    # Pairs (negative, positive) of 0, 2 and 1, 3: 3 of 4 in order.
    examples = np.array([[0], [2], [1], [3]]), np.array([0, 0, 1, 1])
    rewrite(workspace / "data" / "clients", {"00": examples, TEST: examples})
    describe(workspace, (1,), 2)
    metrics, _ = run(workspace)
    assert metrics["auc"] == 3 / 4
    assert metrics["pruned_auc"] == 1 / 4


def test_evaluate_of_a_model_that_overflows_has_no_loss_and_says_so(workspace, caplog):
    save_logistic(workspace, "pruned", (8, 8, 1), np.full((64, 3), 3e38), np.zeros(3))
    with caplog.at_level(logging.WARNING):
        metrics, evaluation = run(workspace)
    assert "pruned_loss" not in metrics
    assert metrics["pruned_accuracy"] < 1
    assert evaluation["pruned"]["test"]["loss"] is None
    assert evaluation["pruned"]["test"]["non_finite"] > 0
    said = [record.getMessage() for record in caplog.records if record.name.startswith("tasks")]
    assert said == ["10 of 10 test examples have a logit that is not finite under models/pruned.h5: counted as wrong"]
    assert "NaN" not in json.dumps([metrics, evaluation])


def without_pruning(folder):
    """The log as the step `federate` leaves it: the pruned model belongs to an earlier run."""
    path = folder / "reports" / "rounds.csv"
    write_rows(path, ROUNDS, [row for row in read_rows(path) if row["phase"] == "federate"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "models" / "global.h5").unlink(), "global.h5 is missing"),
        (
            lambda folder: (folder / "models" / "pruned.h5").write_bytes(b"no"),
            "pruned.h5 must be federate.model",
        ),
        (lambda folder: (folder / "reports" / "rounds.csv").unlink(), "rounds.csv is missing"),
        (lambda folder: (folder / "reports" / "clients.csv").unlink(), "clients.csv is missing"),
        (lambda folder: write_json(folder / "reports" / "prune.json", {}), "prune.json must hold a number at sparsity"),
        (lambda folder: (folder / "data" / "clients" / "test.npz").unlink(), "client test: cannot read"),
        (
            lambda folder: write_folders(folder / "data" / "clients", sites_of(folder / "data" / "clients")),
            r"got 4 more \(00, 01, 02, test\): run the step preprocess again",
        ),
        (
            lambda folder: write_client(folder / "data" / "clients", TEST, np.zeros((2, 9, 8, 1)), np.zeros(2)),
            r"client test: x must be \(N, 8, 8, 1\), .* got \(2, 9, 8, 1\)",
        ),
        (lambda folder: describe(folder, (9, 8, 1), 3), r"x must be \(N, 9, 8, 1\), .* as preprocess.json says"),
        (
            lambda folder: describe(folder, (8, 8, 1), 4),
            "must say the 3 classes of partition.json, got 4",
        ),
        (
            lambda folder: write_json(folder / "data/clients/preprocess.json", {}),
            "must say input_shape and num_classes",
        ),
        (
            without_pruning,
            r"rounds.csv must hold rounds of federate and then of prune, got 'federate': run the step prune",
        ),
    ],
)
def test_evaluate_names_what_it_cannot_use_and_writes_nothing(workspace, spoil, message):
    spoil(workspace)
    with pytest.raises(DataError, match=message) as caught:
        run(workspace)
    assert "\n" not in str(caught.value)
    written = {path.name for path in (workspace / "reports").iterdir()}
    assert written <= {"rounds.csv", "clients.csv", "prune.json"}
