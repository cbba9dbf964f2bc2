"""results.py, summary.py and loss_curves.py on cells made by hand: numbers, bold type, the lines about failed cells."""

import csv
import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from matplotlib.collections import PolyCollection

from flows.comparing import grid, loss_curves, report_files, results, summary
from flows.comparing.results import Result
from flows.workspace import overrides
from tasks import files
from tasks.settings import parse

BASE = (Path(__file__).parents[1] / "params.yaml").read_text()
KINDS, SEEDS = ("sgd", "adam"), (0, 1, 2)


def cells(kinds: tuple[str, ...] = KINDS, seeds: tuple[int, ...] = SEEDS) -> list[grid.Cell]:
    axes = [f"federate.server_optimizer.kind={','.join(kinds)}"]
    if seeds:
        axes.append(f"seed={','.join(map(str, seeds))}")
    return grid.cells(BASE, axes, same_clients=True)


def finished(cell: grid.Cell, numbers: Mapping[str, float], curve: Mapping[int, float] | None = None) -> Result:
    return Result(cell, "finished", run_id="r", numbers=numbers, curve=curve or {1: 2.0, 2: 1.0})


def compared(accuracies: Mapping[str, list[float]]) -> list[Result]:
    """Returns cells with these accuracies: optimizer → seed → accuracy."""
    seeds = len(next(iter(accuracies.values())))
    found = cells(tuple(accuracies), tuple(range(seeds)))
    values = [value for each in accuracies.values() for value in each]
    return [finished(cell, {"accuracy": value}) for cell, value in zip(found, values, strict=True)]


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_a_row_is_the_mean_and_the_sample_sd_over_the_seeds() -> None:
    # 0.1, 0.2, 0.6: mean 0.3, variance (0.04 + 0.01 + 0.09) / 2 = 0.07, sd 0.26458.
    text = summary.markdown(compared({"sgd": [0.1, 0.2, 0.6], "adam": [0.3, 0.3, 0.3]}), "", None)
    head, _, sgd, adam = rows_of(text)
    assert head == ["server_optimizer", "n", "accuracy ↑"]
    assert (sgd, adam) == (["sgd", "3", "0.3000 ± 0.2646"], ["adam", "3", "0.3000 ± 0.0000"])


def test_the_best_is_bold_where_it_is_really_better() -> None:
    text = summary.markdown(compared({"sgd": [0.90, 0.80, 0.70], "adam": [0.80, 0.71, 0.59]}), "", None)
    assert rows_of(text)[2][2] == "**0.8000 ± 0.1000**"
    assert "paired t-test over the seeds" in text
    assert "may be as good" not in text


def test_the_coarsest_accuracy_decides_what_is_one_example_more() -> None:
    # The best is ahead by 0.05 with each of three seeds; the sd counts as at least one example of the smallest hold-out
    # set. With 100 examples: t = 0.05 √3 / 0.01 = 8.66, p = 1 − t / √(t² + 2) = 0.013. With 10: t = 0.866, p = 0.478.
    found = compared({"sgd": [0.9, 0.8, 0.7], "adam": [0.85, 0.75, 0.65]})
    for sizes, p, is_better in (([100] * 6, 0.013, True), ([100] * 5 + [10], 0.478, False)):
        measured = [replace(one, resolution={"accuracy": 1 / n}) for one, n in zip(found, sizes, strict=True)]
        verdict = summary.verdicts(measured)["accuracy"]
        assert verdict.p == pytest.approx(p, abs=0.001)
        assert verdict.is_better == is_better


def test_the_best_of_noise_is_not_bold_and_its_rival_is_named() -> None:
    # Differences 0.1, -0.05, 0.02: mean 0.02333, sd 0.0751, t = 0.538, p = 1 - t / √(t² + 2) = 0.64.
    text = summary.markdown(compared({"sgd": [0.9, 0.8, 0.7], "adam": [0.8, 0.85, 0.68]}), "", None)
    assert "**" not in "".join(cell for row in rows_of(text) for cell in row)
    assert "server_optimizer=sgd has the best mean, but server_optimizer=adam may be as good (p = 0.64)" in text


@pytest.mark.parametrize(("seeds", "says"), [((), "1 seed, and"), ((0, 1), "2 seeds, and")])
def test_with_few_seeds_nothing_is_bold_and_it_says_why(seeds: tuple[int, ...], says: str) -> None:
    found = [finished(cell, {"accuracy": 0.9 - 0.1 * at}) for at, cell in enumerate(cells(seeds=seeds))]
    text = summary.markdown(found, "", None)
    assert "**" not in "".join(cell for row in rows_of(text) for cell in row)
    assert f"Nothing is bold: {says} a test needs 3." in text


def test_a_group_with_a_failed_cell_counts_the_others_and_is_never_bold() -> None:
    found = compared({"sgd": [0.9, 0.9, 0.9, 0.9], "adam": [0.1, 0.2, 0.15, 0.12]})
    found[0] = Result(found[0].cell, "failed", "round 1: every client failed", "r")
    text = summary.markdown(found, "", None)
    assert rows_of(text)[2] == ["sgd", "3", "0.9000 ± 0.0000"]
    assert "Nothing is bold: the best group lacks a seed" in text
    assert "## Failed cells\n\n- server_optimizer=sgd, seed=0: round 1: every client failed\n" in text
    assert text.count("7 of 8 cells finished: 2 groups × 4 seeds (0, 1, 2, 3).") == 1


def test_a_comparison_without_any_result_still_has_a_table() -> None:
    found = [Result(cell, "failed", "no") for cell in cells()]
    text = summary.markdown(found, "", results.common_accuracy(found))
    assert [row[:2] for row in rows_of(text)[2:]] == [["sgd", "0"], ["adam", "0"]]
    assert "0 of 6 cells finished" in text
    assert loss_curves.draw(found).axes[0].texts[0].get_text() == "no cell finished"


def test_a_long_reason_is_cut_in_the_table_and_whole_in_the_csv(tmp_path: Path) -> None:
    found = [Result(cell, "failed", "x" * 1000) for cell in cells()]
    results.write_csv(tmp_path / "compare.csv", found)
    assert max(map(len, summary.markdown(found, "", None).splitlines())) < 400
    assert files.read_rows(tmp_path / "compare.csv")[0]["reason"] == "x" * 1000


def accuracies(*values: float) -> dict[int, float]:
    return dict(enumerate(values, 1))


def test_rounds_to_target_is_where_each_cell_first_reaches_what_all_reach() -> None:
    reached = [accuracies(0.5, 0.85, 0.8, 0.9), accuracies(0.2, 0.4, 0.6, 0.85)]
    found = [
        Result(cell, "finished", accuracies=each) for cell, each in zip(cells(("sgd",), (0, 1)), reached, strict=True)
    ]
    target = results.common_accuracy(found)
    assert target == 0.85
    assert [each.numbers[results.ROUNDS_TO_TARGET] for each in results.with_rounds_to(found, target)] == [2, 4]


def test_no_target_where_a_cell_ends_far_behind() -> None:
    ends = [accuracies(0.9), accuracies(0.71)]  # 0.71 < 0.8 · 0.9
    found = [Result(c, "finished", accuracies=each) for c, each in zip(cells(("sgd",), (0, 1)), ends, strict=True)]
    assert results.common_accuracy(found) is None
    assert results.with_rounds_to(found, None) == found


def workspace(folder: Path) -> Path:
    columns = ("round", "phase", "val_loss", "val_accuracy", "drift")
    rows = [
        {"round": 1, "phase": "federate", "val_loss": 2.0, "val_accuracy": 0.4, "drift": 0.6},
        {"round": 2, "phase": "federate", "val_loss": "", "val_accuracy": "", "drift": 0.2},
        {"round": 3, "phase": "federate", "val_loss": "nan", "val_accuracy": 0.5, "drift": 0.1},
        {"round": 4, "phase": "prune", "val_loss": 1.5, "val_accuracy": 0.6, "drift": 9.0},
    ]
    files.write_rows(folder / "reports/rounds.csv", columns, rows)
    files.write_json(folder / "reports/metrics.json", {"accuracy": 0.5, "loss": 1.75, "size_bytes": 4000, "auc": None})
    clients = {"00": {"num_examples": 80}, "01": {"num_examples": 20}}
    files.write_json(folder / "data/partition/partition.json", {"test": {"num_examples": 50}, "clients": clients})
    return folder


def test_a_cell_is_read_from_its_workspace(tmp_path: Path) -> None:
    (cell,) = cells(("sgd",), (0,))
    found = results.read_result(cell, workspace(tmp_path), "abc")
    # Drift: (0.6 + 0.2 + 0.1) / 3, without the rounds of pruning.
    assert found.numbers == {"accuracy": 0.5, "loss": 1.75, "size_bytes": 4000, "drift_mean": pytest.approx(0.3)}
    assert (found.curve, found.accuracies, found.prune_from) == ({1: 2.0, 4: 1.5}, {1: 0.4, 3: 0.5}, 4)
    assert found.resolution["accuracy"] == 1 / 50
    assert found.resolution["client_accuracy_worst"] == 1 / 20


def test_the_csv_has_a_row_a_cell_in_the_grid_s_order(tmp_path: Path) -> None:
    first, *rest = cells()
    found = [finished(first, {"accuracy": 0.5, "rounds": 3.0, "auc": 0.25})]
    found += [Result(cell, "failed", "a, b", "r") for cell in rest]
    results.write_csv(tmp_path / "compare.csv", found)
    with (tmp_path / "compare.csv").open(encoding="utf-8", newline="") as opened:
        head, *rows = csv.reader(opened)
    setting = "federate.server_optimizer.kind"
    assert head == [setting, "seed", "status", "mlflow_run_id", "accuracy", "auc", "rounds", "reason"]
    assert rows[0] == ["sgd", "0", "finished", "r", "0.5", "0.25", "3", ""]
    assert rows[4] == ["adam", "1", "failed", "r", "", "", "", "a, b"]


def test_a_curve_is_the_mean_of_the_seeds_where_all_were_evaluated() -> None:
    first, second, third = cells(("sgd",))
    found = [
        finished(first, {}, {1: 1.0, 2: 4.0, 3: 7.0}),
        finished(second, {}, {1: 3.0, 3: 8.0}),
        Result(third, "failed"),
    ]
    assert loss_curves.mean_curve(found) == {1: (2.0, 1.0, 3.0), 3: (7.5, 7.0, 8.0)}


def test_every_group_has_a_line_and_a_band() -> None:
    curve = {1: 2.0, 2: 1.0}
    found = [finished(c, {}, {k: v + 0.1 * c.settings.seed for k, v in curve.items()}) for c in cells()]
    figure = loss_curves.draw(found)
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["server_optimizer=sgd", "server_optimizer=adam"]
    assert len([each for each in axes.collections if isinstance(each, PolyCollection)]) == len(KINDS)
    assert axes.get_title() == "mean of 3 seeds; band: lowest to highest"


def test_beyond_eight_groups_the_worst_are_grey() -> None:
    rates = ",".join(f"{0.01 * rate:.2f}" for rate in range(1, 13))
    found = [
        finished(cell, {}, {1: 3.0, 2: 1.0 + 0.1 * number})
        for number, cell in enumerate(grid.cells(BASE, [f"federate.client.learning_rate={rates}"], True))
    ]
    (axes,) = loss_curves.draw(found).axes
    grey = [line for line in axes.lines if line.get_color() == "#bbbbbb"]
    assert sorted(float(line.get_ydata()[-1]) for line in grey if len(line.get_ydata())) == pytest.approx(
        [1.8, 1.9, 2.0, 2.1]
    )
    labels = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert len(labels) == 9
    assert "4 more, with higher loss" in labels


def test_labels_with_a_pipe_do_not_break_the_table() -> None:
    found = [finished(c, {"accuracy": 0.5}) for c in grid.cells(BASE, ["track.register_as='a|b',c"], True)]
    assert "| 'a\\|b' | 1 | 0.5000 |" in summary.markdown(found, "", None)


def test_numbers_that_are_none_or_not_finite_are_left_out() -> None:
    scores = json.loads('{"a": 1, "b": null, "c": true, "d": NaN, "e": "x", "f": Infinity}')
    assert results.finite(scores) == {"a": 1.0}


def with_settings_in_every_cell(changes: Mapping[str, object]) -> list[Result]:
    params = yaml.safe_load(BASE)
    for name, value in changes.items():
        *sections, last = name.split(".")
        section = params
        for part in sections:
            section = section[part]
        section[last] = value
    made = grid.cells(yaml.safe_dump(params), ["federate.server_optimizer.kind=sgd,adam"], same_clients=True)
    return [finished(cell, {"accuracy": 0.5}) for cell in made]


def test_the_settings_that_are_fixed_in_every_cell_are_flags_that_a_shell_reads() -> None:
    base = parse(yaml.safe_load(BASE))
    changes = {"federate.rounds": 12, "federate.faults.kind": "reversed_update", "federate.faults.clients": ["03"]}
    found = with_settings_in_every_cell(changes)
    text = summary.markdown(found, "", None, summary.fixed_settings(found, base))
    (line,) = (line for line in text.splitlines() if line.startswith("Every cell has these settings instead"))
    said = shlex.split(line.split("`")[1])
    assert said[::2] == ["-S"] * 3
    assert set(said[1::2]) == {
        "federate.rounds=12",
        "federate.faults.kind=reversed_update",
        'federate.faults.clients=["03"]',
    }
    again = parse(yaml.safe_load(overrides.with_overrides(BASE, said[1::2])))
    assert again.federate.faults == found[0].cell.settings.federate.faults


def test_settings_of_the_grid_and_of_params_yaml_are_not_called_fixed() -> None:
    found = with_settings_in_every_cell({})
    assert summary.fixed_settings(found, parse(yaml.safe_load(BASE))) == ""


@pytest.mark.parametrize("has_params", [True, False])
def test_compare_md_says_the_fixed_settings_if_the_repository_has_params_yaml(has_params: bool, tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    if has_params:
        (tmp_path / "params.yaml").write_text(BASE)
    report_files.write_reports(tmp_path / "run", tmp_path, with_settings_in_every_cell({"federate.rounds": 12}))
    text = (tmp_path / "reports/compare.md").read_text()
    assert ("`-S federate.rounds=12`" in text) == has_params
