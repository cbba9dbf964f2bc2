"""The verdict of a diagnosed run, as Prefect shows it: a state's name, a tag on the flow run, an event."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.events import emit_event

from tasks.files import read_json

EVENTS = {
    "LossRose": "undrift.loss.rose",
    "LossHigh": "undrift.loss.high",
    "Worse": "undrift.run.worse",
    "RunEnded": "undrift.run.ended",
}
"""Tag on the flow run → its event. The tag is the name of the final state too, unless the run failed."""

_MARKUP = re.compile(r"\\(.)|`+")


@dataclass(frozen=True)
class Verdict:
    """What went wrong.

    Attributes:
        tag: a key of EVENTS.
        says: the answer in one sentence.
        cause: the first proven cause; `none` if no cause is proven.
        clients: of the proven causes.
        round: in which the loss rose, the run ended or the first cause began to act; None if it is not known.
    """

    tag: str
    says: str
    cause: str
    clients: tuple[str, ...]
    round: int | None


def read_verdict(reports: Path) -> Verdict | None:
    """Returns the verdict of the diagnosis in the folder `reports`; None if nothing is wrong, or if there is none."""
    path = reports / "diagnosis.json"
    if not path.is_file():
        return None
    content: Mapping[str, Any] = read_json(path)
    tag = _tag(content)
    if tag is None:
        return None
    answer = (reports / "diagnosis.md").read_text(encoding="utf-8").split("\n\n")[1]
    clients = dict.fromkeys(str(client) for cause in content["causes"] for client in cause["clients"])
    return Verdict(tag, _MARKUP.sub(r"\1", answer), content["verdict"], (*clients,), _round(content))


def _tag(content: Mapping[str, Any]) -> str | None:
    question = content["question"]
    if question == "ended":
        return "RunEnded"
    if question == "against":
        return "Worse" if content["worse"] else None
    if question == "standing":
        return "LossHigh" if content["causes"] else None
    return "LossRose" if content["increase"]["detected"] or content["causes"] else None


def _round(content: Mapping[str, Any]) -> int | None:
    first = next((cause["rounds"][0] for cause in content["causes"]), None)
    at = content["ending"]["round"] if "ending" in content else content["increase"]["round"]
    return first if at is None else at


def announce(verdict: Verdict | None, report: Path) -> None:
    """Tags this flow run with the verdict, and emits its event. Removes the tag of an earlier attempt.

    Args:
        verdict: of this flow run; None if nothing is wrong.
        report: the page of the diagnosis, for the event.
    """
    run_id = UUID(str(runtime.flow_run.id))
    with get_client(sync_client=True) as client:
        before = set(client.read_flow_run(run_id).tags)
        tags = (before - set(EVENTS)) | ({verdict.tag} if verdict else set())
        if tags != before:
            client.update_flow_run(run_id, tags=sorted(tags))
    if verdict is not None:
        emit_event(
            EVENTS[verdict.tag],
            resource={
                "prefect.resource.id": f"prefect.flow-run.{run_id}",
                "prefect.resource.name": str(runtime.flow_run.name),
            },
            payload={
                "says": verdict.says,
                "cause": verdict.cause,
                "clients": list(verdict.clients),
                "round": verdict.round,
                "report": str(report),
            },
        )
