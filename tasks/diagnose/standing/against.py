"""What speaks against a client's data beside the hold-out data, in sentences."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tasks.diagnose.causes.base import Indication
from tasks.diagnose.phrases import measured
from tasks.diagnose.standing.labels import mistake
from tasks.diagnose.thresholds import SHIFTED

if TYPE_CHECKING:  # causes are imported where no data are read
    from tasks.diagnose.standing.examine import Examined


def against(client: "Examined") -> Iterator[Indication]:
    """Yields what speaks against one client's data, beside the hold-out data."""
    who = f"client {client.client}"
    judged = client.judgement
    if judged is not None:
        wrong = "" if client.is_far else mistake(judged)  # the judge has never seen such features
        how = f" So {wrong}." if wrong else ""
        yield Indication(
            "agreement_with_hold_out",
            judged.accuracy,
            judged.expected,
            f"A classifier that was trained on the hold-out data gives {100 * judged.accuracy:.0f} % of the "
            f"examples of {who} the client's own label. Of hold-out examples with the same labels, which it was not "
            f"trained on, it gets {100 * judged.expected:.0f} % right.{how}",
        )
    if client.is_far:
        yield Indication(
            "feature_distance",
            client.distance,
            SHIFTED,
            f"The features of {who} are {measured(client.distance)} standard deviations away from hold-out data of "
            "the same classes. Chance and the distances of the other clients do not explain that.",
        )
    if client.learnable is not None and not client.makes_sense:
        accuracy, most_frequent = client.learnable
        yield Indication(
            "learnable",
            accuracy,
            most_frequent,
            f"A classifier that is trained on one part of the data of {who} gets {100 * accuracy:.0f} % of the rest "
            f"right. The most frequent label alone gives {100 * most_frequent:.0f} %.",
        )
