"""Damaged reports of an earlier step: each step that reads one goes on, or names the file in one line."""

import json
import random
from pathlib import Path

import pytest

from flows.comparing import grid, results
from tasks.errors import DataError
from tasks.evaluate import curves
from tasks.evaluate.step import numbers_of_prune, read_partition
from tasks.files import write_json, write_rows
from tasks.round_log import own, read
from tasks.round_log.columns import CLIENT_COLUMNS, ROUND_COLUMNS
from tasks.settings import Settings

TRAINED, PRUNED, SITES = 4, 3, ("00", "01", "north-2")
KINDS = ("reports/rounds.csv", "reports/clients.csv", "reports/prune.json", "reports/metrics.json")
KINDS += ("data/partition/partition.json",)


def write_reports(folder: Path) -> None:
    """Writes the reports of a finished run in the form that its steps write."""
    rounds = range(1, TRAINED + PRUNED + 1)
    rows = [
        dict.fromkeys(ROUND_COLUMNS, 0.25)
        | {"round": number, "phase": "federate" if number <= TRAINED else "prune", "epsilon": None}
        for number in rounds
    ]
    write_rows(folder / "reports/rounds.csv", ROUND_COLUMNS, rows)
    clients = [
        dict.fromkeys(CLIENT_COLUMNS, 0.5)
        | {"round": number, "client": site, "num_examples": 20, "finite": True, "failure": ""}
        for number in rounds
        for site in SITES
    ]
    write_rows(folder / "reports/clients.csv", CLIENT_COLUMNS, clients)
    sizes = {f"{name}{end}": 900 for name in ("global_h5", "pruned_h5", "pruned_tflite") for end in ("", "_gzip")}
    write_json(
        folder / "reports/prune.json",
        {"sparsity": 0.8, "size_bytes": sizes, "accuracy": {"before": 0.9, "tflite_quantised": 0.7}},
    )
    write_json(folder / "reports/metrics.json", {"accuracy": 0.5, "loss": 1.75, "size_bytes": 4000})
    counts = {site: {"num_examples": 20, "counts": [10, 10]} for site in SITES}
    write_json(
        folder / "data/partition/partition.json",
        {"classes": ["a", "b"], "num_examples": 60, "clients": counts, "test": {"num_examples": 50}},
    )


def read_all(folder: Path) -> list[str]:
    """Reads every report as each step and a comparison do. Returns the errors of the refused reports."""
    reports = folder / "reports"
    found = []
    for reading in (
        lambda: own.rounds_of_run(reports / "rounds.csv", ROUND_COLUMNS, ["federate", "prune"], "federate"),
        lambda: list(own.clients_of_run(reports / "clients.csv", CLIENT_COLUMNS, TRAINED + PRUNED, "federate")),
        lambda: curves.read_curves(reports / "rounds.csv"),
        lambda: curves.read_updates(reports / "clients.csv", dict.fromkeys(SITES, 20), TRAINED + PRUNED),
        lambda: read.read_rounds(reports / "rounds.csv"),
        lambda: read.read_clients(reports / "clients.csv"),
        lambda: json.dumps(numbers_of_prune(reports / "prune.json"), allow_nan=False),
        lambda: read_partition(folder / "data/partition/partition.json"),
        lambda: results.read_result(grid.Cell("cell-1", "", {}, {}, Settings()), folder, "run"),
    ):
        try:
            reading()
        except DataError as exc:
            found.append(str(exc))
    for said in found:
        assert "\n" not in said, said
        assert len(said) < 1000, said
        assert any(kind in said for kind in KINDS), said
    return found


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Changes, cuts, deletes or inserts bytes; doubles, swaps or deletes lines; or replaces a value."""
    found, lines = bytearray(content), content.splitlines(keepends=True)
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    at = rng.randrange(len(found))
    match rng.randrange(8):
        case 0:
            del found[at:]
        case 1:
            for _ in range(rng.choice((1, 1, 3, 30))):
                found[rng.randrange(len(found))] = rng.randrange(256)
        case 2:
            del found[at : at + rng.choice((1, 5, 50))]
        case 3:
            found[at:at] = rng.choice(ODD)
        case 4:
            lines.insert(one, lines[other])
            return b"".join(lines)
        case 5:
            lines[one], lines[other] = lines[other], lines[one]
            return b"".join(lines)
        case 6:
            del lines[one]
            return b"".join(lines)
        case 7:
            separator = b"," if b"," in lines[one] else b":"
            cells = lines[one].rstrip(b"\n").split(separator)
            cells[rng.randrange(len(cells))] = rng.choice(ODD)
            lines[one] = separator.join(cells) + b"\n"
            return b"".join(lines)
    return bytes(found)


ODD = (b"", b"0", b"-1", b"1.5", b"1e999", b"NaN", b"Infinity", b"9" * 30, b"9" * 5000, b"true", b"null", b"[]", b"{}")
ODD += (b'"', b'"a\nb"', b"\0", b"\xff\xfe", "٣".encode(), b"1_0", b" 1", b"../../x", b"a" * 200_000)
ODD += (b"[" * 5000, b"\r")


def fuzz(folder: Path, kind: str, count: int, seed: int) -> None:
    write_reports(folder)
    assert read_all(folder) == []
    content, rng = (folder / kind).read_bytes(), random.Random(seed)
    for _ in range(count):
        (folder / kind).write_bytes(mutated(content, rng))
        read_all(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_report_is_read_or_one_line_that_names_it(tmp_path: Path, kind: str) -> None:
    fuzz(tmp_path, kind, 50, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_of_2000_mutated_reports_each_is_read_or_one_line_that_names_it(tmp_path: Path, kind: str) -> None:
    fuzz(tmp_path, kind, 2000, seed=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"\0\xff\xfe", b"[]", b"{}", b"null", b"3", b'"text"'], ids=repr)
def test_a_report_of_another_kind_is_one_line_that_names_it(tmp_path: Path, kind: str, content: bytes) -> None:
    write_reports(tmp_path)
    (tmp_path / kind).write_bytes(content)
    # A comparison leaves out the numbers that are missing in a cell.
    without_numbers = kind == "reports/metrics.json" and content == b"{}"
    assert bool(read_all(tmp_path)) is not without_numbers
