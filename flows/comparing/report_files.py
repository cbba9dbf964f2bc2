"""Writes compare.csv, compare.md and compare.png of a comparison."""

from collections.abc import Sequence
from pathlib import Path

from flows.comparing import loss_curves, results, summary
from flows.comparing.results import Result
from flows.workspace import raw_data
from tasks import files
from tasks.errors import InputError
from tasks.settings import Settings, load

REPORTS = ("compare.csv", "compare.md", "compare.png")


def write_reports(folder: Path, repository: Path, ended: Sequence[Result]) -> str:
    """Writes REPORTS into `reports/` of the comparison's folder and of the repository. Returns the text of compare.md.

    Args:
        folder: the comparison's folder.
        repository: the repository; the reports of an earlier comparison in it are replaced.
        ended: the results of all cells, with their rounds to the common accuracy.
    """
    base = _settings_of(repository)
    fixed = "" if base is None else summary.fixed_settings(ended, base)
    markdown = summary.markdown(ended, summary.shared_clients(ended), results.common_accuracy(ended), fixed)
    csv, text, picture = (folder / "reports" / name for name in REPORTS)
    results.write_csv(csv, ended)
    with files.replacing(text) as fresh:
        fresh.write_text(markdown, encoding="utf-8")
    with files.replacing(picture) as fresh:
        loss_curves.draw(ended).savefig(fresh, format="png", dpi=120, metadata={"Software": None})
    for path in (csv, text, picture):
        with files.replacing(repository / "reports" / path.name) as fresh:
            fresh.write_bytes(path.read_bytes())
    return markdown


def _settings_of(repository: Path) -> Settings | None:
    """Returns the settings of the repository's params.yaml as a cell has them; None if the file cannot be used."""
    path = repository / "params.yaml"
    try:
        return raw_data.placed(repository, path.read_text(encoding="utf-8"), load(path))[1]
    except (InputError, OSError):
        return None
