"""Why did the loss go up? Detection and evidence; no cause is claimed before a replay has proven it."""

import logging
from pathlib import Path

from tasks.diagnose.limits import limits
from tasks.diagnose.logs import read_clients, read_rounds
from tasks.diagnose.observe import observe
from tasks.diagnose.report import headline, to_json, to_markdown
from tasks.files import replacing, write_json
from tasks.settings import Settings

_log = logging.getLogger(__name__)


def diagnose(settings: Settings, folder: Path) -> None:
    """Reads reports/rounds.csv and clients.csv, writes reports/diagnosis.json and diagnosis.md.

    Raises:
        DataError: a file, a column or a number is missing; nothing is written.
    """
    diagnose_logs(folder / "reports", settings.diagnose.significance)


def diagnose_logs(reports: Path, significance: float) -> str:
    """Does the same for the logs in the folder `reports`, and returns the answer in one sentence."""
    rounds, clients = read_rounds(reports / "rounds.csv"), read_clients(reports / "clients.csv")
    seen = observe(rounds, clients, significance)
    unknown = limits(seen, rounds, clients, significance)
    write_json(reports / "diagnosis.json", to_json(seen, significance, unknown))
    with replacing(reports / "diagnosis.md") as fresh:
        fresh.write_text(to_markdown(seen, unknown), encoding="utf-8")
    answer = headline(seen)
    _log.info("%d rounds, %d clients unusual: %s", len(rounds.rounds), len(seen.unusual), answer)
    return answer


__all__ = ["diagnose", "diagnose_logs"]
