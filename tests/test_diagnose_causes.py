"""From findings to candidates, effects and remedies: plain values, no replay."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tasks.diagnose.causes import CAUSES, Remedy, candidates, order, remedies
from tasks.diagnose.evidence.findings import ClientFinding, Findings, mean_label_distance
from tasks.diagnose.replay.change import NOTHING, Change
from tasks.diagnose.replay.effect import Effect, height, removed
from tasks.diagnose.replay.surgery import features_aligned, labels_dealt_evenly, sizes_made_equal
from tasks.errors import SettingsError
from tasks.settings import Settings, parse, with_settings
from tasks.skew import gini

HONEST = ClientFinding(
    client="00",
    labels=np.array([10, 10]),
    epochs=1.0,
    width=1.0,
    loss=0.3,
    accuracy=0.9,
    usual_loss=0.3,
    expected_loss=0.3,
    expected_accuracy=0.9,
    feature_distance=0.05,
    learnable=None,
    structure=float("nan"),
    norm=1.0,
    norm_per_step=1.0,
    grown=1.0,
    slope=-0.9,
    cosine=0.5,
    cosine_before=0.5,
    cosine_during=0.5,
    failed=None,
    first_broken=None,
    left_out=0.0,
)


def found(*changed: ClientFinding, **others: float) -> Findings:
    rest = [replace(HONEST, client=f"{k:02}") for k in range(5) if f"{k:02}" not in {one.client for one in changed}]
    clients = tuple(sorted([*changed, *rest], key=lambda one: one.client))
    known = {"label_skew": 0.1, "size_skew": 0.0, "steepness": 0.5, "train_trend": 0.3, "val_trend": 0.3, **others}
    return Findings(clients, dissimilarity=1.0, local_drift=(), cleared=(), local_models={}, objective_gap=0.0, **known)


def causes(findings: Findings, **dotted: object) -> list[str]:
    return [one.cause for one in candidates(findings, parse(_nested(dotted)))]


def _nested(dotted: dict[str, object]) -> dict[str, object]:
    raw: dict[str, object] = {}
    for name, value in dotted.items():
        at = raw
        *sections, last = name.split("__")
        for section in sections:
            at = at.setdefault(section, {})  # type: ignore[assignment]
        at[last] = value
    return raw


def test_client_rate_is_always_a_candidate_and_nothing_else_without_a_reason() -> None:
    assert causes(found()) == ["client_learning_rate"]


@pytest.mark.parametrize(
    ("changes", "faulty"),
    [
        ({"loss": 5.0, "accuracy": 0.1}, True),  # contradicts the model, looks like the others': wrong labels
        ({"loss": 5.0, "accuracy": 0.1, "feature_distance": 3.0, "learnable": (0.3, 0.3)}, True),  # noise
        ({"loss": 5.0, "accuracy": 0.1, "feature_distance": 3.0, "learnable": (0.8, 0.3)}, False),  # another scanner
        ({"loss": 5.0, "usual_loss": 4.5, "expected_loss": 4.0, "accuracy": 0.1, "expected_accuracy": 0.15}, False),
        ({"loss": 5.0, "expected_loss": 4.0, "accuracy": 0.1, "expected_accuracy": 0.15}, True),  # which it had not
        ({"loss": 0.5, "accuracy": 0.85}, False),
        ({"norm": 8.0, "norm_per_step": 8.0, "grown": 8.0}, True),
        ({"norm": 8.0, "norm_per_step": 8.0, "grown": float("nan")}, True),  # no past to compare with
        ({"norm": 8.0, "norm_per_step": 8.0}, False),  # has always been so
        ({"norm": 8.0, "norm_per_step": 1.1, "grown": 1.1}, False),  # more data, more steps
        (
            {"norm": 8.0, "norm_per_step": 8.0, "grown": 8.0, "epochs": 5.0},
            False,
        ),  # its work is another, which is another cause
        ({"norm": 8.0, "norm_per_step": 8.0, "grown": 8.0, "width": 0.5}, False),
        ({"norm": 2.0, "norm_per_step": 2.0, "grown": 4.0}, True),  # far longer than before, as nobody else's
        ({"norm": 2.0, "norm_per_step": 2.0, "grown": 1.5}, False),
        ({"norm": 0.2, "norm_per_step": 0.2, "grown": 4.0}, False),  # too short to move the others
        ({"slope": 0.4}, True),  # uphill on its own data
        ({"slope": 0.4, "norm": 0.1}, False),  # too short to have a direction
        ({"slope": 0.1}, False),
        ({"slope": 0.4, "epochs": float("nan")}, False),
        ({"norm": 3.5, "norm_per_step": 4.4, "grown": 2.3}, False),  # steps that overshoot on its data
        ({"cosine": -0.5, "cosine_during": -0.4}, True),
        ({"cosine": -0.5, "cosine_during": 0.4}, False),  # from one model only
        ({"loss": 5.0, "accuracy": 0.1, "expected_accuracy": 0.25}, True),  # the model gets its labels wrong anyway
        ({"loss": 5.0, "accuracy": 0.1, "expected_accuracy": 0.25, "usual_loss": float("nan")}, False),
        ({"loss": 5.0, "accuracy": 0.1, "usual_loss": 5.0}, False),  # has always contradicted the model
        ({"loss": 5.0, "accuracy": 0.1, "usual_loss": float("nan")}, True),  # no past to compare with
        ({"loss": 0.7, "usual_loss": 0.05, "accuracy": 0.85}, False),  # far worse than it was, and still right
        ({"norm": 8.0, "norm_per_step": 8.0, "grown": 8.0, "epochs": float("nan")}, False),  # took no part in the rise
        ({"loss": 5.0, "accuracy": 0.1, "epochs": float("nan")}, True),  # data that changed, whether drawn or not
        ({"cosine": -0.5, "cosine_before": -0.4}, False),  # has always been so: honest, with unusual data
        ({"loss": float("nan"), "accuracy": 0.1}, True),
    ],
)
def test_who_counts_as_faulty(changes: dict[str, object], faulty: bool) -> None:
    odd = replace(HONEST, client="02", **changes)  # type: ignore[arg-type]
    assert found(odd).faulty() == (("02",) if faulty else ())
    assert ("faulty_clients" in causes(found(odd))) is faulty


def test_updates_that_all_became_longer_make_nobody_faulty() -> None:
    assert found(*[replace(HONEST, client=f"{k:02}", grown=4.0) for k in range(5)]).faulty() == ()


def test_a_majority_is_not_called_faulty() -> None:
    odd = [replace(HONEST, client=f"{k:02}", loss=5.0, accuracy=0.1) for k in range(3)]
    assert "faulty_clients" not in causes(found(*odd))


def test_labels_are_dealt_among_all_where_the_data_of_all_have_changed() -> None:
    odd = [replace(HONEST, client=f"{k:02}", loss=5.0, accuracy=0.1) for k in range(5)]
    (even,) = [one for one in candidates(found(*odd, label_skew=1.0), Settings()) if one.cause == "label_skew"]
    (deal,) = even.change.surgery.values()
    sites = {one.client: (np.zeros((4, 1), np.float32), np.array([0, 0, 1, 1], np.int32)) for one in odd}
    assert sum(len(y) for _, y in deal(sites).values()) == 20


def test_shifted_features_that_make_sense_are_a_shift() -> None:
    odd = replace(HONEST, client="03", loss=5.0, accuracy=0.1, feature_distance=3.0, learnable=(0.8, 0.3))
    proposed = candidates(found(odd), Settings())
    assert [(one.cause, one.clients) for one in proposed[:2]] == [("feature_shift", ("03",))] * 2
    assert (list(proposed[0].change.surgery), proposed[1].change.without) == (
        ["features standardised by each client"],
        ("03",),
    )


def test_features_that_have_always_been_unlike_the_others_explain_no_rise() -> None:
    odd = replace(HONEST, client="03", loss=5.0, usual_loss=4.5, accuracy=0.1, feature_distance=3.0)
    assert causes(found(odd)) == ["client_learning_rate"]


@pytest.mark.parametrize(
    ("train", "val", "proposed"),
    [
        (-0.3, 0.2, True),
        (-0.3, 0.0, True),  # a loss that stays up while that of training falls
        (-0.3, -0.2, False),  # both fall
        (-0.05, 0.3, False),
        (0.3, 0.3, False),
        (float("nan"), 0.3, False),
    ],
)
def test_overfitting_is_possible_where_the_training_loss_alone_falls(train: float, val: float, proposed: bool) -> None:
    assert ("overfitting" in causes(found(train_trend=train, val_trend=val))) is proposed


def test_failed_clients_are_named_in_the_order_of_failing() -> None:
    odd = [replace(HONEST, client="04", failed=7), replace(HONEST, client="01", failed=9)]
    (first, *_) = candidates(found(*odd), Settings())
    assert (first.cause, first.clients) == ("non_finite", ("04", "01"))


def test_settings_make_candidates() -> None:
    unequal = replace(HONEST, client="01", epochs=8.0)
    work = {"kind": "per_client", "by_client": {"01": 8}}
    assert "unequal_local_work" in causes(found(unequal), federate__local_work=work)
    assert "architecture_variation" in causes(found(), federate__width={"01": 0.5})
    assert "server_learning_rate" in causes(found(), federate__server_optimizer__learning_rate=2.0)
    assert "server_learning_rate" in causes(found(), federate__server_optimizer={"kind": "adam", "learning_rate": 0.1})
    assert "label_skew" in causes(found(label_skew=0.9))
    assert "quantity_skew" in causes(found(size_skew=0.5))
    assert "overfitting" in causes(found(train_trend=-0.5))
    assert "overfitting" not in causes(found(train_trend=-0.5, val_trend=-0.1))


def test_every_proposed_change_is_allowed_and_takes_its_cause_away() -> None:
    raw = {
        "federate": {
            "width": {"01": 0.5},
            "server_optimizer": {"kind": "adam", "learning_rate": 0.1},
            "local_work": {"kind": "per_client", "by_client": {"02": 9}},
        }
    }
    settings, odd = parse(raw), replace(HONEST, client="02", epochs=9.0)
    for one in candidates(found(odd, label_skew=1.0, size_skew=0.6, train_trend=-1.0), settings):
        changed = with_settings(settings, one.change.settings).federate
        match one.cause:
            case "architecture_variation":
                assert set(changed.width.values()) == {1.0}
            case "server_learning_rate":
                assert (changed.server_optimizer.kind, changed.server_optimizer.learning_rate) == ("sgd", 1.0)
            case "unequal_local_work":
                assert {changed.local_work.epochs, *changed.local_work.by_client.values()} == {1}
            case "client_learning_rate":
                assert changed.client.learning_rate == pytest.approx(settings.federate.client.learning_rate / 5)


def test_rate_is_lowered_until_steps_no_longer_overshoot() -> None:
    for steepness, lower in ((0.5, 0.01), (float("nan"), 0.01), (20.0, 0.0025)):  # 0.05 / 5, / 5 and / 20
        (only,) = candidates(found(steepness=steepness), Settings())
        assert only.change.settings == {"federate.client.learning_rate": pytest.approx(lower)}


def test_steep_loss_puts_the_rate_before_the_skews() -> None:
    assert order(found()) == tuple(CAUSES)
    steep = order(found(steepness=10.0))
    assert sorted(steep) == sorted(CAUSES)
    assert steep.index("client_learning_rate") < steep.index("quantity_skew") < steep.index("label_skew")
    assert steep.index("client_learning_rate") > steep.index("faulty_clients")


@pytest.mark.parametrize("cause", CAUSES)
def test_remedies_are_settings_that_differ_and_that_mostly_fit(cause: str) -> None:
    raw = {"width": {"01": 0.5}, "local_work": {"kind": "range"}, "server_optimizer": {"kind": "momentum"}}
    for settings in (Settings(), parse({"federate": raw})):
        now = settings.model_dump(mode="json")
        fitting = 0
        for one in remedies(cause, settings, ("01",), found()):
            for name, value in one.settings.items():
                at = now
                for part in name.split("."):
                    at = at[part]
                assert at != value
            try:
                with_settings(settings, one.settings)
                fitting += 1
            except SettingsError:
                pass  # the replays pass it over
        assert fitting or (settings == Settings() and cause == "architecture_variation")


def test_two_remedies_at_once() -> None:
    slower = Remedy("slower", {"federate.client.learning_rate": 0.1})
    one, other = (Remedy(f"leave out {c}", {"federate.exclude": [c]}) for c in ("07", "03"))
    aligned = Remedy("aligned", {"preprocess.normalize": "client"}, aligned=True)
    both = one | slower
    assert both == Remedy("leave out 07, and slower", {**one.settings, **slower.settings})
    assert (one | other) == Remedy("leave out 07, and leave out 03", {"federate.exclude": ["03", "07"]})
    assert (slower | aligned) == Remedy("slower, and aligned", {**slower.settings, **aligned.settings}, aligned=True)
    assert (slower | Remedy("slowest", {"federate.client.learning_rate": 0.01})) is None  # one setting, two values
    assert (both and both | slower) is None  # nothing that is not in one of them


def test_effect_is_the_share_of_the_logarithm() -> None:
    # From 1 to 4 is ln 4; at 2 half of it is gone, at 1 all of it, at 1/2 it is three halves.
    assert height([4.0, 4.0], 1.0) == pytest.approx(np.log(4))
    assert removed([4.0], [2.0], 1.0) == pytest.approx(0.5)
    assert removed([4.0], [1.0], 1.0) == pytest.approx(1.0)
    assert removed([4.0], [0.5], 1.0) == pytest.approx(1.5)
    assert removed([2.0], [4.0], 1.0) == pytest.approx(-1.0)
    assert np.isnan(removed([0.9], [0.5], 1.0))


def test_losses_that_are_not_finite_count_as_ten_thousand_times_the_level() -> None:
    assert height([np.inf], 0.5) == height([np.nan], 0.5) == pytest.approx(np.log(1e4))
    # 100 times the level is half of it, on the logarithm.
    assert removed([np.inf], [50.0], 0.5) == pytest.approx(0.5)


def test_bound_is_students() -> None:
    # Mean 0.8, sd 0.1, n 3: 0.8 - 2.920 * 0.1 / sqrt(3).
    effect = Effect((0.7, 0.8, 0.9))
    assert effect.mean == pytest.approx(0.8)
    assert effect.low == pytest.approx(0.8 - 2.920 * 0.1 / np.sqrt(3), abs=1e-3)
    assert effect.proven
    assert not Effect((0.8,)).proven  # one seed shows no spread
    assert not Effect((0.1, 1.5)).proven
    # Falling below the level before is no doubt: 1 and 2.1 count as 1 and 1.
    assert Effect((1.0, 2.1)).low == Effect((1.0, 2.1)).mean == 1.0
    assert not Effect((0.3, 0.3, 0.3)).proven


def sites(rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    made = {}
    for k, (size, labels) in enumerate(((40, [0]), (7, [1, 2]), (23, [2]), (30, [0, 1, 2]))):
        x = rng.normal(k, 1 + k, (size, 4, 4, 1)).astype(np.float32)
        made[f"{k:02}"] = x, rng.choice(labels, size).astype(np.int32)
    return made


def test_dealing_keeps_sizes_and_examples_and_evens_the_labels() -> None:
    before = sites(np.random.default_rng(0))
    after = labels_dealt_evenly(5)(before)
    assert {c: len(y) for c, (_, y) in after.items()} == {c: len(y) for c, (_, y) in before.items()}
    pooled = [np.sort(np.concatenate([x.sum((1, 2, 3)) for x, _ in s.values()])) for s in (before, after)]
    np.testing.assert_array_equal(*pooled)
    whole = np.bincount(np.concatenate([y for _, y in before.values()]), minlength=3)
    for _, y in after.values():
        # Whole examples: each count within 2 of the client's share of the label.
        assert np.abs(np.bincount(y, minlength=3) - len(y) * whole / whole.sum()).max() <= 2


def test_dealing_leaves_kept_clients_alone() -> None:
    before = sites(np.random.default_rng(1))
    after = labels_dealt_evenly(5, kept=("02",))(before)
    np.testing.assert_array_equal(after["02"][0], before["02"][0])
    assert not set(after["00"][0].sum((1, 2, 3))) & set(before["02"][0].sum((1, 2, 3)))


def test_equal_sizes_keep_the_label_mix() -> None:
    before = sites(np.random.default_rng(2))
    after = sizes_made_equal(3)(before)
    assert {len(y) for _, y in after.values()} == {25}  # (40 + 7 + 23 + 30) / 4
    for client, (_, y) in after.items():
        had = np.bincount(before[client][1], minlength=3) / len(before[client][1])
        assert np.abs(np.bincount(y, minlength=3) / 25 - had).max() <= 1 / 25 + 1e-9


def test_aligned_features_have_mean_0_and_sd_1_at_every_client() -> None:
    for x, _ in features_aligned(sites(np.random.default_rng(3))).values():
        assert x.mean() == pytest.approx(0, abs=1e-5)
        assert x.std() == pytest.approx(1, abs=1e-5)


def test_changes_add_up() -> None:
    both = Change("without client 01", without=("01",)) | Change("at a rate of 1", {"a": 1})
    assert both.described() == {"a": 1, "leave out": ["01"]}
    assert (both | NOTHING) == both


def test_skew_measures_by_hand() -> None:
    # Two clients without a label in common: each is |1 - 1/2| + |0 - 1/2| = 1 from the whole.
    assert mean_label_distance({"a": np.array([5, 0]), "b": np.array([0, 5])}) == pytest.approx(1.0)
    assert mean_label_distance({"a": np.array([5, 5]), "b": np.array([1, 1])}) == 0.0
    assert gini(np.array([0.0, 0.0, 0.0, 8.0])) == pytest.approx(0.75)
    assert gini(np.full(4, 2.0)) == 0.0


@pytest.mark.parametrize(
    "raw",
    [
        {"aggregator": {"kind": "trimmed_mean", "trim": 0.1}},
        {"aggregator": {"kind": "clipped_mean", "clip_norm": 2.0, "zeroing": True, "weighting": "uniform"}},
        {"aggregator": {"kind": "mean", "weighting": "uniform"}},
    ],
)
def test_every_robust_aggregator_is_a_remedy_whatever_the_one_before_used(raw: dict[str, Any]) -> None:
    settings = parse({"federate": raw})
    for one in remedies("faulty_clients", settings, ("03",), found()):
        with_settings(settings, one.settings)
