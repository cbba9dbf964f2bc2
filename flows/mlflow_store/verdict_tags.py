"""The verdict of a run's diagnosis in MLflow: as tags, by which runs are found, and first in the run's description."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import DataError
from tasks.files import read_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "diagnosis."
NOTE = "mlflow.note.content"
"""MLflow's tag for the description of a run."""
_OURS = tuple(f"{PREFIX}{name}" for name in ("verdict", "question", "clients", "round", "answer", "recovers"))
_LONGEST = 5000
"""Most characters of a tag; MLflow allows 8,000."""


def verdict_tags(reports: Path) -> dict[str, str]:
    """Returns the tags of the diagnosis in the folder `reports`; {} if there is none.

    `diagnosis.verdict` and `.question` are as in diagnosis.json, `.clients` are the clients of all causes, `.round` is
    where the rise began or the run ended, `.answer` is the answer in one sentence, and `.recovers` the share of the
    harm that the first cause's remedy takes back. A tag without a value is left out.
    """
    content = _content(reports)
    if "verdict" not in content:
        return {}
    causes = content.get("causes") or []
    clients = dict.fromkeys(str(client) for cause in causes for client in cause.get("clients", []))
    remedy = (causes[0].get("remedy") if causes else None) or {}
    begun = (content.get("ending") or {}).get("round") or (content.get("increase") or {}).get("round")
    values = {
        "verdict": content["verdict"],
        "question": content.get("question"),
        "clients": ",".join(clients),
        "round": begun,
        "answer": _plain(_answer(reports)),
        "recovers": None if remedy.get("recovers") is None else f"{remedy['recovers']:.2f}",
    }
    return {f"{PREFIX}{name}": str(value)[:_LONGEST] for name, value in values.items() if value not in (None, "")}


def is_clean(reports: Path) -> bool:
    """Returns whether the diagnosis in `reports` found nothing: no cause, no rise, and no early end."""
    content = _content(reports)
    risen = (content.get("increase") or {}).get("detected")
    return content.get("verdict") == "none" and not risen and not content.get("harm") and "ending" not in content


def mark(client: "MlflowClient", run_id: str, reports: Path, note: str | None = None) -> None:
    """Sets the tags of the diagnosis in `reports`, and puts its answer first in the run's description.

    Args:
        client: the store's client.
        run_id: the run.
        reports: the folder with diagnosis.json and .md.
        note: the rest of the description; None: it stays as it is, without the answer of an earlier diagnosis.
    """
    tags = verdict_tags(reports)
    if not tags and note is None:
        return
    before: Mapping[str, str] = client.get_run(run_id).data.tags
    rest = _rest(before) if note is None else note
    for name in _OURS:
        if name in tags:
            client.set_tag(run_id, name, tags[name])
        elif name in before:
            client.delete_tag(run_id, name)
    answer = _answer(reports) if tags else ""
    client.set_tag(run_id, NOTE, "\n\n".join(part for part in (answer, rest) if part))


def _rest(tags: Mapping[str, str]) -> str:
    """Returns a run's description without the answer, which is its first paragraph if the run has a verdict."""
    note = tags.get(NOTE, "")
    return note.partition("\n\n")[2] if f"{PREFIX}verdict" in tags else note


def _content(reports: Path) -> dict[str, Any]:
    try:
        content = read_json(reports / "diagnosis.json")
    except DataError:  # missing, or damaged: the run has other results
        return {}
    return content if isinstance(content, dict) else {}


def _answer(reports: Path) -> str:
    """Returns the answer as Markdown: the paragraph after the title of diagnosis.md."""
    path = reports / "diagnosis.md"
    parts = path.read_text(encoding="utf-8").split("\n\n") if path.is_file() else []
    return parts[1].strip() if len(parts) > 1 else ""


def _plain(markdown: str) -> str:
    return re.sub(r"\\(.)", r"\1", markdown.replace("`", ""))
