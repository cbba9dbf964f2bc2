"""The sentences about single clients: what they did, who has nothing unusual, and who was not looked at."""

from collections.abc import Iterator, Sequence

from tasks.diagnose.diagnosis import Diagnosis, Evidence
from tasks.diagnose.observe.client_signals import ClientSignal
from tasks.diagnose.phrases import count, every_client, figure, span
from tasks.diagnose.report.vocabulary import SIGNALS
from tasks.errors import listed

TITLE = "What the clients did"
NOT_LOOKED_AT = "Not looked at:"
HEADS = ("client", "signal", "value", "median client", "before", "unusual", "in words")
_ONLY_THE_LOG = (
    "Their data and updates were not compared with anything. The log shows only that none of them failed, and that no "
    "single round of them is far outside the usual range."
)
_LISTED = 100
"""Most ids of clients with nothing unusual that a report lists."""


def signal(measured: Evidence | ClientSignal) -> str:
    """Returns what was measured, in words."""
    return SIGNALS.get(measured.signal, measured.signal.replace("_", " "))


def observed(measured: ClientSignal) -> list[str]:
    """Returns the row of a table with HEADS."""
    figures = [figure(value) for value in (measured.value, measured.expected, measured.before)]
    return [measured.client, signal(measured), *figures, "yes" if measured.unusual else "no", measured.says]


def remark(observations: Sequence[ClientSignal]) -> str:
    """Returns what stands with the table of `observed`."""
    if any(each.unusual for each in observations):
        return "Unusual does not mean faulty: an honest client whose data changed looks the same."
    return "None of these signals is unusual. They are the ones that come nearest to it."


def healthy(clients: Sequence[str]) -> str:
    """Returns the ids of clients, of more than 100 the first and how many more; empty for none."""
    return listed(clients, _LISTED) + (" (all are in diagnosis.json)" if len(clients) > _LISTED else "")


def looked_title(diagnosis: Diagnosis) -> str:
    """Returns the heading of what was looked at: where nothing rose, that has to be said first."""
    return "Clients with nothing unusual" if diagnosis.rise.detected else "What was looked at"


def nothing_unusual(diagnosis: Diagnosis) -> str:
    """Returns at how many clients nothing unusual was found, and what was looked at; of none, why.

    Empty if no client was looked at.
    """
    if not (diagnosis.rise.detected or diagnosis.looked_for):
        return ""
    if not (diagnosis.healthy or diagnosis.named or diagnosis.not_looked_at):  # the log has no client
        return ""
    if not diagnosis.healthy:
        return "Each client that was looked at failed, is unusual, or is named by a rise or by a possible cause"
    clients = count(len(diagnosis.healthy), "client")
    if diagnosis.looked_at is not None:
        return f"Nothing unusual was found in {span(*diagnosis.looked_at)} at {clients}"
    if diagnosis.rise.detected:
        return f"No failed update, and no round far outside the usual range, was found at {clients}"
    return f"Nothing unusual was found at {clients}"


def not_looked_at(diagnosis: Diagnosis) -> Iterator[str]:
    """Yields which clients were not looked at, if `not_examined` does not say so; nothing if all were."""
    if not diagnosis.not_looked_at:
        return
    clients = f"{NOT_LOOKED_AT} {every_client(diagnosis.not_looked_at)}."
    if diagnosis.looked_at:
        yield f"{clients} The log has no rows to compare in {span(*diagnosis.looked_at)}."
    elif not diagnosis.looked_for:
        yield f"{clients} {_ONLY_THE_LOG}"


def not_examined(diagnosis: Diagnosis) -> list[str]:
    """Returns what was not looked at where nothing rose, as items below NOT_LOOKED_AT."""
    clients = diagnosis.not_looked_at if diagnosis.looked_for else ()
    return [*([f"The data of {every_client(clients)}."] if clients else []), *diagnosis.not_examined]
