"""NVFlare's `metrics/round_metrics.jsonl` as a round log.

NVFlare's `MetricsArtifactWriter` writes a line for each round, a JSON object:

- `round`: from 0 by default, as the workflow numbers it.
- `aggregated_metrics`: a list of {name, value}, the mean of what the sites sent. The user's code chooses the names.
- `sites`: a list of {name, metrics, weight, weight_key}; `metrics` as above.
- `skipped_metrics`: a list of {name, reason, site}. A value that is NaN or infinite stands here, with the reason
  `non_finite_number`; without `site` it is an aggregated one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import DataError, listed, shown
from tasks.round_log.foreign import (
    CANNOT_TELL,
    LOSSES,
    TRAINING_LOSSES,
    ForeignLog,
    Row,
    known,
    list_of,
    loss_of,
    parsed,
    read_text,
    round_of,
    rows_of,
    table_of,
)

_HOW = "RUN must be the file metrics/round_metrics.jsonl of a job"
_STEPS = "NUM_STEPS_CURRENT_ROUND"
"""`weight_key` of a weight that is a number of local steps."""
_NOT_FINITE = "non_finite_number"


@dataclass(frozen=True)
class _Line:
    """A line of the file: `where` is its path and number, for errors; `metrics` are the aggregated ones, by name."""

    where: str
    round: int
    metrics: dict[str, Any]
    sites: tuple[dict[str, Any], ...]
    skipped: tuple[dict[str, Any], ...]

    def not_finite(self, name: str) -> list[str]:
        """Returns the sites whose metric `name` was not finite; "" stands for the aggregated one."""
        return [
            str(each.get("site") or "")
            for each in self.skipped
            if each.get("name") == name and each.get("reason") == _NOT_FINITE
        ]


def read_nvflare(path: Path) -> ForeignLog:
    """Returns the log in a round_metrics.jsonl.

    `val_loss` is the aggregated metric with one of the names LOSSES, `train_loss` that with one of TRAINING_LOSSES.
    `loss_before` of a site is the first of them that it has. A site's weight is `num_steps` if its key says so.

    Raises:
        DataError: (1) the file is missing or a pickle, (2) a line is not JSON, or a field of it has another form, (3) a
            round has two lines, (4) a site stands twice in a line, or (5) no line has a loss.
    """
    lines = list(_lines(path))
    names = dict.fromkeys(name for line in lines for name in [*line.metrics, *_skipped_names(line)])
    chosen = {"val_loss": known(names, LOSSES), "train_loss": known(names, TRAINING_LOSSES)}
    chosen = {column: name for column, name in chosen.items() if name}
    if not chosen:
        raise DataError(
            f"{path}: aggregated_metrics must hold a loss named {', '.join((*LOSSES, *TRAINING_LOSSES))}, got "
            f"{listed(list(names), 5) or 'no metric'}: let the sites send their loss in FLModel.metrics"
        )
    rounds = rows_of({column: dict(_losses(lines, name)) for column, name in chosen.items()})
    of_site = next(iter(chosen.values()))
    clients = tuple(row for line in lines for row in _sites(line, of_site))
    return ForeignLog(rounds, clients, tuple(_says(lines, chosen, of_site, bool(clients))))


def _lines(path: Path) -> Iterator[_Line]:
    seen: dict[int, int] = {}
    for number, text in enumerate(read_text(path, _HOW).splitlines(), start=1):
        if not text.strip():
            continue
        where = f"{path}, line {number}"
        content = table_of(parsed(text, where), where)
        if "round" not in content:
            raise DataError(f"{where} has no field round, got {listed(sorted(content), 5) or 'no field'}: {_HOW}")
        round_num = round_of(content["round"], f"{where}: round")
        if round_num in seen:
            raise DataError(f"{where}: round must be in one line, got {round_num} again, as in line {seen[round_num]}")
        seen[round_num] = number
        yield _Line(
            where,
            round_num,
            _metrics(content.get("aggregated_metrics", []), f"{where}: aggregated_metrics"),
            tuple(_tables(content.get("sites", []), f"{where}: sites")),
            tuple(_tables(content.get("skipped_metrics", []), f"{where}: skipped_metrics")),
        )


def _tables(value: Any, where: str) -> list[dict[str, Any]]:
    return [table_of(each, f"{where}[{place}]") for place, each in enumerate(list_of(value, where))]


def _metrics(value: Any, where: str) -> dict[str, Any]:
    metrics = {}
    for place, each in enumerate(_tables(value, where)):
        if not isinstance(each.get("name"), str):
            raise DataError(f"{where}[{place}].name must be a text, got {shown(each.get('name'))}")
        metrics[each["name"]] = each.get("value")
    return metrics


def _skipped_names(line: _Line) -> list[str]:
    return [str(each.get("name")) for each in line.skipped if each.get("reason") == _NOT_FINITE]


def _losses(lines: Sequence[_Line], name: str) -> Iterator[tuple[int, float]]:
    for line in lines:
        if name in line.metrics:
            yield line.round, loss_of(line.metrics[name], f"{line.where}: aggregated_metrics[{name}]")
        elif "" in line.not_finite(name):
            yield line.round, math.nan


def _sites(line: _Line, name: str) -> Iterator[Row]:
    seen = set()
    for place, site in enumerate(line.sites):
        where = f"{line.where}: sites[{place}]"
        client = site.get("name")
        if not isinstance(client, str) or not client.strip():
            raise DataError(f"{where}.name must be the name of a site, got {shown(client)}")
        if client in seen:
            raise DataError(f"{where}.name must be a site that the line has once, got {client[:50]!r} again")
        seen.add(client)
        metrics = _metrics(site.get("metrics", []), f"{where}.metrics")
        if name in metrics:
            row: dict[str, str | int | float] = {"round": line.round, "client": client}
            if site.get("weight_key") == _STEPS and "weight" in site:
                row["num_steps"] = loss_of(site["weight"], f"{where}.weight")
            yield {**row, "loss_before": loss_of(metrics[name], f"{where}.metrics[{name}]")}


def _says(lines: Sequence[_Line], chosen: dict[str, str], of_site: str, has_sites: bool) -> Iterator[str]:
    yield CANNOT_TELL
    for column, name in chosen.items():
        yield f"{column} is the metric {name} in aggregated_metrics of NVFlare's log: the mean of what the sites sent."
    yield (
        "The log does not say which model the sites measured. In NVFlare's examples, a site measures the model that it "
        "receives. Then the first round of a rise shows the updates of the round before."
    )
    if has_sites:
        yield f"The loss of a site on its own data is its metric {of_site}."
    lost: dict[str, list[str]] = {}
    for line in lines:
        for site in filter(None, line.not_finite(of_site)):
            lost.setdefault(site, []).append(str(line.round))
    for site, rounds in sorted(lost.items())[:10]:
        yield f"The {of_site} of {site} was NaN or infinite in round {listed(rounds)}."
