"""compare.md: a table of the groups of a comparison, and a test of which group is the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flows.comparing import significance
from flows.comparing.grid import SEED, short_name
from flows.comparing.results import DRIFT, ROUNDS_TO_TARGET, Result
from flows.comparing.significance import Group, Verdict
from tasks.diagnose.report.patch import flags, plain
from tasks.settings import Settings, fields, value_at


@dataclass(frozen=True)
class ComparedNumber:
    """A number that the table shows.

    Attributes:
        key: the number's name in Result.numbers.
        heading: the number's name in the table.
        decimals: digits after the point.
        higher: whether a higher number is better; None if neither direction is better.
    """

    key: str
    heading: str
    decimals: int
    higher: bool | None


COMPARED = (
    ComparedNumber("accuracy", "accuracy", 4, True),
    ComparedNumber("loss", "loss", 4, False),
    ComparedNumber("client_accuracy_worst", "worst client's accuracy", 4, True),
    ComparedNumber("pruned_accuracy", "pruned accuracy", 4, True),
    ComparedNumber("pruned_loss", "pruned loss", 4, False),
    ComparedNumber(DRIFT, "drift", 4, None),
    ComparedNumber(ROUNDS_TO_TARGET, "rounds to target", 1, False),
)


def groups(results: Sequence[Result]) -> dict[Group, list[Result]]:
    """Returns group → its cells, in the order of the grid. The cells of a group differ only in the seed."""
    cells: dict[Group, list[Result]] = {}
    for result in results:
        cells.setdefault(result.cell.group, []).append(result)
    return cells


def group_label(group: Group, settings: Sequence[str]) -> str:
    """Returns the group's values, as `server_optimizer=adam`; `settings` are the names of the grid's settings."""
    names = [name for name in settings if name != SEED]
    return ", ".join(f"{short_name(name)}={value}" for name, value in zip(names, group, strict=True)) or "all cells"


def verdicts(results: Sequence[Result]) -> dict[str, Verdict]:
    """Returns whether the best group is better than all others, for each number of COMPARED with a better direction."""
    seeds = list(dict.fromkeys(each.cell.seed for each in results))
    judged = {}
    for column in COMPARED:
        if column.higher is None:
            continue
        numbers = {group: _of(cells, column.key) for group, cells in groups(results).items()}
        resolution = max((each.resolution.get(column.key, 0.0) for each in results), default=0.0)
        verdict = significance.judge(numbers, seeds, column.higher, resolution)
        if verdict is not None:
            judged[column.key] = verdict
    return judged


def shared_clients(results: Sequence[Result]) -> str:
    """Returns a sentence that says which cells have the same clients."""
    settings = [result.cell.settings for result in results]
    first = settings[0]
    if any((each.data, each.partition) != (first.data, first.partition) for each in settings):
        return "The grid changes the data or the partition, so the cells have different clients."
    if first.partition.seed >= 0:
        return f"Every cell has the same clients (partition.seed {first.partition.seed})."
    if all(each.seed == first.seed for each in settings):
        return f"Every cell has the same clients (seed {first.seed})."
    return "Cells with the same seed have the same clients; each seed divides the examples in another way."


def fixed_settings(results: Sequence[Result], base: Settings) -> str:
    """Returns a sentence with the settings in which all cells differ from `base` in the same way; empty if none does.

    `partition.seed` is left out: `shared_clients` says it.
    """
    values, of_base = results[0].cell.settings.model_dump(mode="json"), base.model_dump(mode="json")
    grid = {*results[0].cell.values, "partition.seed"}
    fixed = {name: value_at(values, name) for name in fields() if name not in grid}
    fixed = {name: value for name, value in fixed.items() if value != value_at(of_base, name)}
    return f"Every cell has these settings instead of those in params.yaml: `{flags(fixed) or plain(fixed)}`" * bool(
        fixed
    )


def markdown(results: Sequence[Result], clients: str, target: float | None, fixed: str = "") -> str:
    """Returns compare.md.

    Args:
        results: the results of all cells, in the grid's order.
        clients: the sentence from `shared_clients`.
        target: the hold-out accuracy that counts for `rounds to target`; None if there is none.
        fixed: the sentence from `fixed_settings`.
    """
    settings = list(results[0].cell.values)
    shown = [column for column in COMPARED if any(column.key in each.numbers for each in results)]
    judged = verdicts(results)
    parts = [
        f"# Comparison: {' × '.join(short_name(name) for name in settings)}",
        _summary(results, clients),
        fixed,
        _table(results, settings, shown, judged),
        _legend(results, shown, target),
        _test(results, settings, shown, judged),
        _unfinished(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _of(cells: Sequence[Result], key: str) -> dict[str, float]:
    return {each.cell.seed: each.numbers[key] for each in cells if key in each.numbers}


def _summary(results: Sequence[Result], clients: str) -> str:
    finished = sum(each.is_finished for each in results)
    seeds = list(dict.fromkeys(each.cell.seed for each in results))
    many = (
        f"{len(groups(results))} groups × {len(seeds)} seeds ({', '.join(seeds)})"
        if seeds != [""]
        else f"{len(groups(results))} groups, one seed"
    )
    return f"{finished} of {len(results)} cells finished: {many}. {clients}"


def _table(
    results: Sequence[Result], settings: Sequence[str], shown: Sequence[ComparedNumber], judged: Mapping[str, Verdict]
) -> str:
    names = [name for name in settings if name != SEED]
    head = [*(short_name(name) for name in names), "n", *(_heading(column) for column in shown)]
    lines = [_line(head), "|" + "---|" * len(names) + "--:|" * (len(head) - len(names))]
    for group, cells in groups(results).items():
        row = [*group, str(sum(each.is_finished for each in cells))]
        for column in shown:
            verdict = judged.get(column.key)
            is_bold = verdict is not None and verdict.is_better and verdict.best == group
            row.append(_number(list(_of(cells, column.key).values()), column.decimals, is_bold))
        lines.append(_line(row))
    return "\n".join(lines)


def _heading(column: ComparedNumber) -> str:
    return column.heading + {True: " ↑", False: " ↓", None: ""}[column.higher]


def _number(values: Sequence[float], decimals: int, is_bold: bool) -> str:
    if not values:
        return "–"
    text = f"{np.mean(values):.{decimals}f}"
    if len(values) > 1:
        text += f" ± {np.std(values, ddof=1):.{decimals}f}"
    return f"**{text}**" if is_bold else text


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _legend(results: Sequence[Result], shown: Sequence[ComparedNumber], target: float | None) -> str:
    keys = {column.key for column in shown}
    says = (
        ["Mean ± sd over the n cells of a group (sample sd)."] if len({each.cell.seed for each in results}) > 1 else []
    )
    says.append(
        "Accuracies are fractions, losses are nats per example. Both are on the hold-out data, but the worst client's "
        "accuracy is on its own training data."
    )
    if DRIFT in keys:
        says.append("Drift: mean over the rounds of the spread of the clients' models around their average.")
    if ROUNDS_TO_TARGET in keys and target is not None:
        says.append(f"Target: a hold-out accuracy of {target:.4f}, which every finished cell reaches.")
    return " ".join(says)


def _test(
    results: Sequence[Result], settings: Sequence[str], shown: Sequence[ComparedNumber], judged: Mapping[str, Verdict]
) -> str:
    tested = [(column, judged[column.key]) for column in shown if column.key in judged]
    lines = []
    for column, verdict in tested:
        if verdict.is_better or verdict.rival is None or verdict.p is None:
            continue
        best, rival = group_label(verdict.best, settings), group_label(verdict.rival, settings)
        lines.append(f"- {column.heading}: {best} has the best mean, but {rival} may be as good (p = {verdict.p:.2g}).")
    reasons: dict[str, list[str]] = {}
    for column, verdict in tested:
        if verdict.reason:
            reasons.setdefault(verdict.reason, []).append(column.heading)
    for why, headings in reasons.items():
        where = "" if len(headings) == len(tested) else f" under {_listed(headings)}"
        lines.append(f"- Nothing is bold{where}: {why}.")
    if len(groups(results)) < 2:
        return ""
    stated = (
        "**Bold**: better than every other group, by a two-sided paired t-test over the seeds with Holm's correction "
        f"over the other groups (p < {significance.LEVEL:g} for each number alone). The test assumes that the "
        "differences are normal. Their sd counts as at least one example (for the rounds: one evaluation interval)."
    )
    return "\n\n".join([stated, "\n".join(lines)] if lines else [stated])


def _listed(headings: Sequence[str]) -> str:
    return " and ".join([", ".join(headings[:-1]), headings[-1]] if len(headings) > 1 else headings)


def _unfinished(results: Sequence[Result]) -> str:
    lines = [f"- {each.cell.label}: {each.short_reason}" for each in results if not each.is_finished]
    return "\n\n".join(["## Failed cells", "\n".join(lines)]) if lines else ""
