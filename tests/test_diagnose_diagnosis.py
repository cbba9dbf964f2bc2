"""The diagnosis as a value: what follows from its fields, and its form in diagnosis.json."""

from dataclasses import replace

from diagnosis_values import (
    LOOKED_FOR,
    MEDIAN,
    MINIMAL,
    SCAFFOLD,
    diagnosis,
    standing,
    standing_ruled_out,
    standing_too_slow,
    with_cause,
    with_rise,
)

from tasks.diagnose.diagnosis import Harm, NotFinished, to_json
from tasks.diagnose.metrics import to_metrics


def test_verdict_is_the_first_cause() -> None:
    (cause,) = diagnosis().causes
    second = replace(cause, cause="client_learning_rate")
    assert replace(diagnosis(), causes=(cause, second)).verdict == "faulty_clients"
    assert MINIMAL.verdict == "none"


def test_clients_of_causes_come_first_and_clients_that_were_as_usual_are_not_named() -> None:
    answer = with_rise(with_cause(diagnosis(), clients=("05",)), clients=("02", "05"))
    (unusual,) = answer.observations
    as_usual = replace(unusual, client="08", unusual=False)
    assert replace(answer, observations=(unusual, as_usual)).named == ("05", "02", "03")
    assert replace(MINIMAL, observations=(as_usual,)).named == ()


def test_one_remedy_of_two_causes_is_proposed_once() -> None:
    (cause,) = diagnosis().causes
    second = replace(cause, cause="label_skew")
    answer = replace(diagnosis(), causes=(cause, second))
    assert answer.proposed == [([cause, second], SCAFFOLD)]
    other = replace(second, remedy=MEDIAN)
    answer = replace(answer, causes=(cause, other))
    assert answer.proposed == [([cause], SCAFFOLD), ([other], MEDIAN)]
    assert answer.not_proposed == ()


def test_remedy_is_that_of_the_first_cause_that_has_one() -> None:
    (cause,) = diagnosis().causes
    answer = replace(diagnosis(), causes=(replace(cause, remedy=None), replace(cause, remedy=MEDIAN)))
    assert answer.remedy == MEDIAN
    assert answer.not_proposed == (SCAFFOLD,)
    assert MINIMAL.remedy is None


def test_question_and_harm_follow_from_what_is_known() -> None:
    assert (MINIMAL.question, MINIMAL.harm) == ("rise", None)
    assert (diagnosis().question, diagnosis().harm) == ("rise", Harm(0.82, 0.41, 0.0123))  # 0.03 · 0.41
    assert (standing().question, standing().harm) == ("standing", Harm(0.31, 0.19, 0.012))
    assert (standing_ruled_out().question, standing_ruled_out().harm) == ("standing", Harm(0.31, None, 0.012))


def test_json_of_a_loss_that_did_not_rise() -> None:
    content = to_json(standing())
    assert (content["verdict"], content["question"]) == ("faulty_clients", "standing")
    assert content["harm"] == {"loss": 0.31, "reference": 0.19, "noise": 0.012}
    increase = content["increase"]
    assert (increase["detected"], increase["round"], increase["until"]) == (False, None, None)
    assert (content["looked_for"], content["not_examined"]) == (list(LOOKED_FOR), ["Client h9 has only 3 examples."])
    (cause,) = content["causes"]
    assert (cause["rounds"], cause["fault"], cause["replay"]["from_round"]) == ([1, 12], "labels", 0)
    (skew,) = content["ruled_out"]
    assert skew == {
        "cause": "label_skew",
        "says": "the same rounds with labels dealt evenly",
        "removes": 0.03,
        "why": "",
        "ends_at": 0.305,
    }
    (slow,) = to_json(standing_too_slow())["causes"]
    assert (slow["cause"], slow["fault"], slow["clients"]) == ("client_learning_rate", "too_low", [])


def test_metrics_are_the_verdict_its_round_and_loss() -> None:
    rise = {"verdict": "faulty_clients", "question": "rise", "round": 7, "loss": 0.82, "reference": 0.41}
    assert to_metrics(diagnosis()) == {"diagnosis": rise}
    from_the_start = {"verdict": "faulty_clients", "question": "standing", "round": 1, "loss": 0.31, "reference": 0.19}
    assert to_metrics(standing()) == {"diagnosis": from_the_start}
    nothing = {"verdict": "none", "question": "rise", "round": None, "loss": None, "reference": None}
    assert to_metrics(MINIMAL) == {"diagnosis": nothing}


def test_json_of_a_run_without_a_rise() -> None:
    assert to_json(replace(MINIMAL, healthy=("00",), limits=("Nothing.",))) == {
        "verdict": "none",
        "question": "rise",
        "increase": {
            "detected": False,
            "round": None,
            "until": None,
            "loss_before": None,
            "loss_after": None,
            "confidence": 0.0,
        },
        "harm": None,
        "causes": [],
        "healthy": ["00"],
        "not_looked_at": [],
        "looked_for": [],
        "not_examined": [],
        "limits": ["Nothing."],
        "detection": {
            "loss": "val_loss",
            "num_losses": 12,
            "kind": "none",
            "alarm": None,
            "phase": "",
            "sparsity": None,
            "noise": None,
            "correlation": None,
            "visible": None,
            "significance": 0.01,
            "clients": [],
            "chance": None,
            "events": [],
        },
        "observations": [],
    }


def test_harm_is_the_rise_with_the_noise_in_the_unit_of_the_loss() -> None:
    # A noise of 4 % of a loss of 0.5 is 0.02 nats.
    answer = with_rise(diagnosis(), loss_before=0.5, loss_after=0.8, noise=0.04, relative=True)
    assert to_json(answer)["harm"] == {"loss": 0.8, "reference": 0.5, "noise": 0.02}
    assert to_json(with_rise(answer, relative=False))["harm"]["noise"] == 0.04
    assert to_json(with_rise(answer, loss_before=None))["harm"] == {"loss": 0.8, "reference": None, "noise": None}
    assert to_json(with_rise(answer, loss_after=None))["harm"]["loss"] is None


def test_json_of_a_proven_cause() -> None:
    content = to_json(diagnosis())
    assert content["causes"] == [
        {
            "cause": "faulty_clients",
            "score": 0.9,
            "clients": ["03"],
            "rounds": [7, 12],
            "evidence": [{"signal": "update_norm", "value": 4.0, "expected": 1.0, "says": "Client 03 sent long ones."}],
            "replay": {
                "change": {"leave out": ["03"]},
                "says": "the same rounds without client 03",
                "from_round": 6,
                "rounds": 6,
                "loss": "val_loss",
                "loss_without": [0.8, 0.9, 0.8, 0.9, 0.8, 0.9],
                "loss_with": [0.4, 0.38, 0.4, 0.38, 0.4, 0.38],
                "seeds": 3,
                "of_log": False,
                "kind": "change",
                "removes": {"mean": 0.95, "low": 0.9, "high": 1.0},
            },
            "remedy": {
                "settings": {"federate.client.kind": "scaffold"},
                "says": "SCAFFOLD",
                "recovers": 0.86,
                "confirmed": True,
            },
        }
    ]
    assert content["observations"] == [
        {
            "client": "03",
            "signal": "update_norm",
            "value": 4.0,
            "expected": 1.0,
            "before": 1.0,
            "score": 9.0,
            "unusual": True,
            "rounds": [7, 12],
            "says": "Client 03 sent updates of length 4.",
        }
    ]
    assert content["ruled_out"] == [
        {"cause": "label_skew", "says": "the same rounds with labels dealt evenly", "removes": 0.1, "why": ""}
    ]
    assert content["not_finished"] == []
    unknown = replace(diagnosis(), not_finished=(NotFinished("overfitting", "the same rounds", None, "no rounds"),))
    assert to_json(unknown)["not_finished"] == [
        {"cause": "overfitting", "says": "the same rounds", "removes": None, "why": "no rounds"}
    ]
    assert content["remedies"][1] == {
        "settings": {"federate.aggregator.kind": "median"},
        "says": "the median",
        "recovers": 0.3,
        "loss_after": 0.7,
        "against": ["faulty_clients"],
        "confirmed": False,
        "ending": None,
    }
    assert content["replays"] == {
        "from_round": 6,
        "rounds": 42,
        "allowed": 54,
        "seeds": 3,
        "compared": [7, 12],
        "reproduced": True,
        "remedy_rounds": 0,
        "remedy_allowed": 0,
    }
    assert content["signals"] == {}
    assert to_json(with_cause(diagnosis(), fault="data"))["causes"][0]["fault"] == "data"
    assert to_json(with_cause(diagnosis(), remedy=None))["causes"][0]["remedy"] is None
