"""Why did the loss go up? Detection and evidence; no cause is claimed before a replay has proven it."""

import logging
from pathlib import Path
from typing import Any

from tasks.diagnose.limits import limits
from tasks.diagnose.logs import ClientLog, RoundLog, read_clients, read_rounds
from tasks.diagnose.observe import observe
from tasks.diagnose.report import headline, to_json, to_markdown
from tasks.files import read_json, replacing, write_json
from tasks.settings import Settings

_log = logging.getLogger(__name__)


def diagnose(settings: Settings, folder: Path) -> None:
    """Reads reports/rounds.csv and clients.csv, writes reports/diagnosis.json, diagnosis.md and diagnosis.html.

    Raises:
        DataError: a file, a column or a number is missing; nothing is written.
    """
    diagnose_logs(folder / "reports", settings.diagnose.significance)


def diagnose_logs(reports: Path, significance: float) -> str:
    """Does the same for the logs in the folder `reports`, and returns the answer in one sentence."""
    rounds, clients = read_rounds(reports / "rounds.csv"), read_clients(reports / "clients.csv")
    seen = observe(rounds, clients, significance)
    unknown = limits(seen, rounds, clients, significance)
    found = to_json(seen, significance, unknown)
    _write_text(reports / "diagnosis.md", to_markdown(found))
    _write_text(reports / "diagnosis.html", _page(found, rounds, clients, reports))
    write_json(reports / "diagnosis.json", found)
    answer = headline(found)
    _log.info("%d rounds, %d clients unusual: %s", len(rounds.rounds), len(seen.unusual), answer)
    return answer


def _page(found: dict[str, Any], rounds: RoundLog, clients: ClientLog, reports: Path) -> str:
    from tasks.diagnose.page import to_html  # Matplotlib takes half a second, which other commands need not wait for

    held = reports.parent / "data/partition/partition.json"  # of a workspace; what lies beside other logs is not theirs
    known = reports.name == "reports" and held.is_file()
    return to_html(found, rounds, clients, read_json(held) if known else None)


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


__all__ = ["diagnose", "diagnose_logs"]
