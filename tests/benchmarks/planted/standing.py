"""What is planted from round 1 to the end. The twin is the healthy run with the same settings."""

from bases import LARGE
from operations import flip, negative, noise, one_label, random_labels, renumber, rescale, shift_labels
from plants import (
    FACTOR,
    FAST,
    FAULTY,
    ONE_EACH,
    RATE,
    SERVER,
    SERVER_OPTIMIZER,
    SERVER_RATE,
    TWO_EACH,
    Operation,
    Plant,
    faults,
)

_SEVERAL = 0.3
_FEATURES = ("feature_shift",)
_ADAM = {f"{SERVER_OPTIMIZER}.kind": "adam", SERVER_RATE: 0.01}
_ALIKE = {"partition.kind": "iid", "federate.local_work.epochs": 20}
"""Many local epochs, which do no harm while the clients' data are alike."""


def _data(operation: Operation, share: float = 0.0, also: tuple[str, ...] = ()) -> Plant:
    return Plant(FAULTY, "standing", also, operation=operation, raw=True, share=share)


def _hold_out(operation: Operation) -> Plant:
    return Plant(("hold_out_shift",), "standing", of_hold_out=operation, raw=True)


STANDING: dict[str, Plant] = {
    "standing_flip": _data(flip),
    "standing_random": _data(random_labels),
    "standing_shifted": _data(shift_labels),
    "standing_renumbered": _data(renumber),
    "standing_one_label": _data(one_label),
    "standing_noise": _data(noise),
    "standing_negative": _data(negative, also=_FEATURES),
    "standing_rescaled": _data(rescale, also=_FEATURES),
    "standing_scaled": Plant(FAULTY, "standing", by_client=faults("scaled_update", 10.0), grows=FACTOR),
    "standing_reversed": Plant(FAULTY, "standing", by_client=faults("reversed_update", 1.0)),
    "standing_flip_several": _data(flip, _SEVERAL),
    "standing_random_several": _data(random_labels, _SEVERAL),
    "standing_renumbered_several": _data(renumber, _SEVERAL),
    "standing_noise_several": _data(noise, _SEVERAL),
    "standing_negative_several": _data(negative, _SEVERAL, _FEATURES),
    "standing_reversed_several": Plant(FAULTY, "standing", by_client=faults("reversed_update", 1.0), share=_SEVERAL),
    # Most clients agree with each other and not with the hold-out data: no cause of the vocabulary fits.
    "standing_flip_six": Plant(("unnamed",), "standing", operation=flip, raw=True, share=0.6),
    "standing_slow": Plant(
        ("client_learning_rate",),
        "standing",
        changed={RATE: 5e-5},
        of_base={base: {RATE: 1e-5} for base in LARGE},
    ),
    "standing_fast": Plant(("client_learning_rate",), "standing", changed=FAST, grows=RATE),
    "standing_server_slow": Plant(("server_learning_rate",), "standing", changed={SERVER_RATE: 1e-3}),
    "standing_server_fast": Plant(("server_learning_rate",), "standing", changed=SERVER, grows=SERVER_RATE),
    "standing_adam_slow": Plant(("server_learning_rate",), "standing", healthy=_ADAM, changed={SERVER_RATE: 1e-5}),
    "standing_adam_fast": Plant(("server_learning_rate",), "standing", healthy=_ADAM, changed={SERVER_RATE: 1.0}),
    "standing_one_class": Plant(("label_skew",), "standing", healthy=_ALIKE, changed=ONE_EACH),
    "standing_two_classes": Plant(("label_skew",), "standing", healthy=_ALIKE, changed=TWO_EACH),
    "standing_hold_out_labels": _hold_out(shift_labels),
    "standing_hold_out_negative": _hold_out(negative),
    "standing_hold_out_rescaled": _hold_out(rescale),
}

TRACEFL = {
    f"tracefl_{alpha}": Plant(
        FAULTY,
        "standing",
        healthy={"partition.kind": "dirichlet", "partition.alpha": alpha},
        operation=one_label,
        raw=True,
    )
    for alpha in (0.3, 0.7, 1.0)
}
"""The fault in the tables of FedDebug (Gill 2023) and of TraceFL: the labels of one client all become one class."""
STANDING |= TRACEFL
