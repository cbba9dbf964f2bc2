"""The remedies that are tried against a proven cause."""

from typing import Any

import numpy as np
import pytest

from tasks.diagnose.causes import CAUSES, remedies
from tasks.diagnose.causes.base import Remedy
from tasks.diagnose.replay.surgery import features_aligned
from tasks.errors import SettingsError
from tasks.settings import Settings, parse, value_at, with_settings
from tests.plain_findings import EVERYTHING, MIXED_UP, WRONG_LABELS, a_client, everything, findings

RATE = Settings().federate.client.learning_rate


@pytest.mark.parametrize("federate", [{}, EVERYTHING], ids=["defaults", "EVERYTHING"])
@pytest.mark.parametrize("cause", CAUSES)
def test_remedies_are_settings_that_differ(cause: str, federate: dict[str, Any]) -> None:
    settings = parse({"federate": federate})
    now = settings.model_dump(mode="json")
    for remedy in remedies(cause, settings, ("01",), findings()):
        same = [name for name, value in remedy.settings.items() if value_at(now, name) == value]
        assert not same, f"{cause}: {remedy.says} leaves {same} as they are"


def fits(remedy: Remedy, settings: Settings) -> bool:
    try:
        with_settings(settings, remedy.settings)
    except SettingsError:
        return False  # the replays skip it
    return True


@pytest.mark.parametrize("cause", [cause for cause in CAUSES if cause != "changed_setting"])
def test_a_remedy_fits_where_the_cause_is_possible(cause: str) -> None:
    """Apart from a changed setting, whose remedy is the other run's."""
    settings = parse({"federate": EVERYTHING})
    tried = remedies(cause, settings, ("01",), everything())
    says = [remedy.says for remedy in tried]
    assert any(fits(remedy, settings) for remedy in tried), f"{cause}: the settings refuse all of {says}"


@pytest.mark.parametrize(
    ("cause", "says"),
    [
        ("non_finite", ["clip gradients at norm 1", "{third}", "{fifth}", "leave out clients 01 and 02"]),
        (
            "faulty_clients",
            [
                "aggregate with the geometric median (RFA)",
                "aggregate with multi-Krum",
                "aggregate with the coordinate-wise median",
                "leave out clients 01 and 02",
            ],
        ),
        ("architecture_variation", ["train the whole model at every client"]),
        (
            "unequal_local_work",
            ["do the same local work at every client", "use normalised averaging (FedNova)", "{third}"],
        ),
        (
            "feature_shift",
            [
                "let each client standardise its own features",
                "add a proximal term (FedProx, mu 0.1)",
                "leave out clients 01 and 02",
            ],
        ),
        ("server_learning_rate", ["use plain averaging on the server", "set the server learning rate to 0.01"]),
        (
            "quantity_skew",
            [
                "give every client the same aggregation weight",
                "use normalised averaging (FedNova)",
                "use control variates (SCAFFOLD)",
                "{third}",
            ],
        ),
        (
            "label_skew",
            [
                "use control variates (SCAFFOLD)",
                "use dynamic regularisation (FedDyn)",
                "add a proximal term (FedProx, mu 0.1)",
                "{third}",
                "{fifth}",
                "give every client a public set of 5 % of the examples",
            ],
        ),
        ("client_learning_rate", ["{third}", "{fifth}", "clip gradients at norm 1"]),
        (
            "overfitting",
            ["end training after round 15", "set the weight decay to 0.02", "set the weight decay to 0.1", "{third}"],
        ),
    ],
)
def test_remedies_in_their_order(cause: str, says: list[str]) -> None:
    rates = {
        "third": f"set the client learning rate to {RATE / 3:.3g}",
        "fifth": f"set the client learning rate to {RATE / 5:.3g}",
    }
    settings = parse({"federate": EVERYTHING})
    tried = remedies(cause, settings, ("01", "02"), everything(), 15)
    assert [remedy.says for remedy in tried] == [text.format(**rates) for text in says]


def test_one_local_epoch_is_tried_against_label_skew_where_all_do_the_same_and_more() -> None:
    for work, tried in (
        ({"epochs": 2}, True),
        ({"epochs": 1}, False),
        ({"kind": "per_client", "epochs": 2, "by_client": {"01": 8}}, False),
    ):
        settings = parse({"federate": {"local_work": work}})
        says = [remedy.says for remedy in remedies("label_skew", settings, (), findings())]
        assert ("train one local epoch a round" in says) is tried


def test_clients_that_the_run_excludes_stay_excluded() -> None:
    settings = parse({"federate": {"exclude": ["05"]}})
    for cause in ("non_finite", "faulty_clients", "feature_shift"):
        tried = [one.settings for one in remedies(cause, settings, ("03",), findings()) if "leave out" in one.says]
        assert tried == [{"federate.exclude": ["03", "05"]}]


def test_multi_krum_expects_as_many_faulty_clients_as_were_found() -> None:
    (krum,) = [one for one in remedies("faulty_clients", Settings(), ("01", "02"), findings()) if "Krum" in one.says]
    assert krum.settings["federate.aggregator.num_faulty"] == 2


def test_only_features_that_are_standardised_anew_need_surgery() -> None:
    for cause in CAUSES:
        for remedy in remedies(cause, parse({"federate": EVERYTHING}), ("01",), everything()):
            assert bool(remedy.surgery) is ("preprocess.normalize" in remedy.settings)


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
    for remedy in remedies("faulty_clients", settings, ("03",), findings()):
        with_settings(settings, remedy.settings)


def test_two_remedies_at_once() -> None:
    slower = Remedy("slower", {"federate.client.learning_rate": 0.1})
    one, other = (Remedy(f"leave out {c}", {"federate.exclude": [c]}) for c in ("07", "03"))
    surgery = {"features standardised by each client": features_aligned}
    aligned = Remedy("aligned", {"preprocess.normalize": "client"}, surgery)
    both = one | slower
    assert both == Remedy("leave out 07, and slower", {**one.settings, **slower.settings})
    assert (one | other) == Remedy("leave out 07, and leave out 03", {"federate.exclude": ["03", "07"]})
    assert (slower | aligned) == Remedy("slower, and aligned", {**slower.settings, **aligned.settings}, surgery)
    assert (slower | Remedy("slowest", {"federate.client.learning_rate": 0.01})) is None  # one setting, two values
    assert (both and both | slower) is None  # one contains the other


def test_own_standardisation_is_the_setting_that_there_is() -> None:
    (own, *_) = remedies("feature_shift", Settings(), ("01",), findings())
    assert own.settings == {"preprocess.normalize": "client"}
    assert with_settings(Settings(), own.settings).preprocess.normalize == "client"


def test_clients_that_are_excluded_already_are_not_left_out_again() -> None:
    # The list is not sorted, so equal sets are not equal lists.
    settings = parse({"federate": {"exclude": ["05", "03"]}})
    for cause in ("non_finite", "faulty_clients", "feature_shift"):
        assert not [one for one in remedies(cause, settings, ("03", "05"), findings()) if "leave out" in one.says]


def test_clients_are_left_out_only_after_every_remedy_that_keeps_them() -> None:
    for cause in ("non_finite", "faulty_clients", "feature_shift"):
        leaves_out = ["federate.exclude" in one.settings for one in remedies(cause, Settings(), ("03",), findings())]
        assert leaves_out == sorted(leaves_out)
        assert any(leaves_out)


def test_labels_that_were_changed_are_advice_without_settings() -> None:
    mixed_up = a_client("01", memory=MIXED_UP, **WRONG_LABELS)
    *_, advice = remedies("faulty_clients", Settings(), ("01",), findings(mixed_up))
    assert advice.settings == {}
    # MIXED_UP has two labels, 0 and 1, which were reversed.
    assert advice.says == "correct the labels of client 01 (they were changed: y to 1 - y)"
    (surgery,) = advice.surgery.values()
    x, y = np.zeros((2, 1), np.float32), np.array([0, 1], np.int32)
    assert surgery({"01": (x, y)})["01"][1].tolist() == [1, 0]
    # Of client 02, nobody knows what the labels were.
    both = remedies("faulty_clients", Settings(), ("01", "02"), findings(mixed_up))
    assert all(one.settings for one in both)


@pytest.mark.parametrize(
    ("steepness", "over"),
    [(0.5, [3, 5]), (20.0, [3, 10, 20]), (4000.0, [3, 10, 30, 100, 300, 1000, 4000])],
)
def test_lower_rates_are_tried_in_steps_of_three_the_highest_first(steepness: float, over: list[float]) -> None:
    # The last one makes the steepness 1, or is a fifth. Below a thousandth, only a steeper loss asks for a rate.
    tried = remedies("client_learning_rate", Settings(), (), findings(steepness=steepness))
    rates = [one.settings["federate.client.learning_rate"] for one in tried if one.says.startswith("set")]
    assert rates == pytest.approx([RATE / by for by in over], rel=5e-3)
