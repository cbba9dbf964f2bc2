"""`python tests/benchmarks/planted/two_nights.py OUT`: plants one cause among differences of two runs, and compares.

Last night's run is healthy. Tonight's differs in several ways, of which one raises the loss, or none. A case is
`<what>.<base>.<seed>`. OUT/results/<case>.json has the result; a case with a result is skipped. With --score, only
the figures are printed.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import numpy as np
from bases import BASES, LARGE, LEFT_OUT, OF_CHEST, data_of
from cases import DIRICHLET
from figures import wilson
from losses import REAL, end_gap
from operations import Operation, flip, noise, one_label, renumber
from trainer import nested

from tasks import command
from tasks.clients import TEST, Form, client_sizes, find, read_raw, writing
from tasks.errors import UndriftError
from tasks.files import read_json, read_rows, write_json
from tasks.settings import Settings, parse

ROUNDS = 20
_BASES = ("digits", "digits_logistic", "chest", "wine", "breast_cancer", "colour")
_HARMLESS = {"federate.client.weight_decay": 1e-6}
"""A setting that changes the loss by less than its last digits."""


@dataclass(frozen=True)
class Cause:
    """What differs tonight and raises the loss: an operation on one client's data, a setting, or a client's absence."""

    operation: Operation | None = None
    setting: Callable[[str], dict[str, Any]] | None = None
    gone: bool = False
    new: bool = False


CAUSES: dict[str, Cause] = {
    "flip": Cause(flip),
    "renumber": Cause(renumber),
    "one_label": Cause(one_label),
    "noise": Cause(noise),
    "new_flip": Cause(flip, new=True),
    "gone": Cause(gone=True),
    "slow": Cause(setting=lambda base: {"federate.client.learning_rate": 0.001 if base in LARGE else 0.005}),
    "short": Cause(setting=lambda base: {"federate.rounds": 5}),
    "adam": Cause(setting=lambda base: {"federate.server_optimizer.kind": "adam"}),
    "nothing": Cause(),
}


def main() -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the runs and results")
    parser.add_argument("--seeds", default="0", help="comma-separated; even ones to tune on, odd ones to report")
    parser.add_argument("--sets", choices=["tune", "left_out", "all"], default="tune", help="which data sets")
    parser.add_argument("--causes", default=",".join(CAUSES), help="comma-separated: what is planted")
    parser.add_argument("--chest", type=Path, help="MedMNIST's pneumoniamnist.npz; without it those cases are left out")
    parser.add_argument("--score", action="store_true", help="print the figures and run nothing")
    given = parser.parse_args()
    if given.score:
        results = [json.loads(path.read_text()) for path in sorted((given.out / "results").glob("*.json"))]
        print(report(results))
        return 0
    command.quiet()
    logging.disable(logging.WARNING)
    for base in _BASES:
        if given.sets not in ("all", "left_out" if base in LEFT_OUT else "tune"):
            continue
        if base in OF_CHEST and not given.chest:
            continue
        for seed in map(int, given.seeds.split(",")):
            for name in given.causes.split(","):
                _case(given.out, name, base, seed, given.chest)
    return 0


def _case(out: Path, name: str, base: str, seed: int, chest: Path | None) -> None:
    path = out / "results" / f"{name}.{base}.{seed}.json"
    if path.is_file():
        return
    folder = out / "runs"
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    try:
        result = _compared(folder, out, CAUSES[name], name, base, seed, chest)
    except UndriftError as exc:
        print(f"{name}.{base}.{seed} is left out: {exc}", flush=True)
        return
    write_json(path, {**result, "case_seconds": round(time.perf_counter() - began, 2)})
    named = f"{result['first']} of {result['named']}"
    print(f"{name}.{base}.{seed}: {result['planted']} -> {named}, harm {result['gap']:.2f}", flush=True)


def _compared(
    folder: Path, out: Path, cause: Cause, name: str, base: str, seed: int, chest: Path | None
) -> dict[str, Any]:
    from tasks.diagnose.compared.explain import diagnose_against
    from tasks.diagnose.compared.side import side_of
    from tasks.diagnose.diagnosis import to_json
    from tasks.partition import partition

    rng = np.random.default_rng([81, seed, *f"{name}.{base}".encode()])
    named = {**BASES[base], **DIRICHLET, "seed": seed, "federate.rounds": ROUNDS, **data_of(base, out, chest)}
    before = parse(nested(named))
    all_data = folder / "all"
    partition(before, all_data)
    sizes = client_sizes(read_json(_record(all_data)), _record(all_data), "partition")
    large = [client for client in sizes if sizes[client] >= np.mean(list(sizes.values())) / 2]
    planted, first, second = rng.permutation(large)[:3].tolist()
    # What differs and does no harm must not change the loss by more than a seed does. The same examples in another
    # order are other data, and give other batches. Fewer examples or a larger batch do harm, although little.
    decoys: dict[str, Operation | None] = {first: _reordered, second: _reordered}
    changes: dict[str, Operation | None] = dict(decoys)
    if cause.operation is not None:
        changes[planted] = cause.operation
    if cause.gone:
        changes[planted] = None
    harmful = cause.setting(base) if cause.setting else {}
    last_night: dict[str, Operation | None] = {planted: None} if cause.new else {}
    _write(all_data, folder / "last", last_night, seed)
    _write(all_data, folder / "twin", {**decoys, **last_night}, seed)
    _write(all_data, folder / "tonight", changes, seed)
    tonight = parse(nested({**named, **_HARMLESS, **harmful}))
    seconds = _trained(tonight, folder / "tonight")
    _trained(before, folder / "last")
    _trained(parse(nested({**named, **_HARMLESS})), folder / "twin")
    this, other = side_of("tonight", tonight, folder / "tonight"), side_of("last", before, folder / "last")
    began = time.perf_counter()
    found = to_json(diagnose_against(folder / "tonight/reports", this, other))
    proven = [each["name"] for each in found["differences"] if each["proven"]]
    what = sorted(harmful) or ([planted] if name != "nothing" else [])
    return {
        "case": f"{name}.{base}.{seed}",
        "base": base,
        "cause": name,
        "left_out": base in LEFT_OUT,
        "planted": what,
        "gap": end_gap(_losses(folder / "tonight"), _losses(folder / "twin")),
        "worse": found["worse"],
        "first": _named(found["causes"][0]) if found["causes"] else [],
        "named": proven,
        "differences": len(found["differences"]),
        "verdict": found["verdict"],
        "rounds": found["replays"]["rounds"],
        "seconds": time.perf_counter() - began,
        "training_seconds": seconds,
    }


def _reordered(x: Any, y: Any, num_classes: int, rng: np.random.Generator) -> Any:
    del num_classes
    order = rng.permutation(len(y))
    return x[order], y[order]


def _named(cause: Mapping[str, Any]) -> list[str]:
    """Returns the settings and clients of the first cause, which is proven alone."""
    return [*sorted(cause["replay"]["change"]["settings"]), *cause["clients"]]


def _record(folder: Path) -> Path:
    return folder / "data/partition/partition.json"


def _write(source: Path, folder: Path, changes: Mapping[str, Operation | None], seed: int) -> None:
    """Writes data/partition with some clients' data changed; None: the client is left out."""
    from tasks.clients import digest_of

    record = read_json(_record(source))
    sizes = client_sizes(record, _record(source), "partition")
    form = Form(tuple(record["input_shape"]), len(record["classes"]), "partition.json")
    found = find(source / "data/partition", sizes, form, lambda _: None, "partition")
    kept = [client for client in sizes if client not in changes or changes[client] is not None]
    clients = {}
    with writing(folder / "data/partition", kept) as write:
        for client in (*kept, TEST):
            x, y = read_raw(found[client])
            operation = changes.get(client)
            if operation is not None:
                rng = np.random.default_rng([82, seed, *client.encode()])
                x, y = operation(np.asarray(x, np.float32), y, form.num_classes, rng)
            write(client, x, y)
            if client != TEST:
                clients[client] = {**record["clients"][client], "num_examples": len(y), "digest": digest_of((x, y))}
    write_json(_record(folder), {**record, "clients": clients})


def _trained(settings: Settings, folder: Path) -> float:
    from tasks.federate import federate
    from tasks.preprocess import preprocess

    began = time.perf_counter()
    preprocess(settings, folder)
    federate(settings, folder)
    return time.perf_counter() - began


def _losses(folder: Path) -> list[float]:
    return [float(row["val_loss"]) for row in read_rows(folder / "reports/rounds.csv")]


def report(results: list[dict[str, Any]]) -> str:
    """Returns the figures as Markdown. A cause that raises the loss by less than REAL (ln) did no harm."""
    lines = ["| figure | goal | data sets tuned on | data sets left out |", "| --- | --- | --- | --- |"]
    harmful = [one for one in results if one["planted"] and one["gap"] >= REAL]
    nothing = [one for one in results if not one["planted"]]
    for title, goal, some, right in (
        ("the cause named first", "≥ 95 %", harmful, lambda one: one["first"] == one["planted"]),
        ("found to be worse", "", harmful, lambda one: one["worse"]),
        ("a difference claimed, but not the cause", "", harmful, lambda one: {*one["named"]} - {*one["planted"]}),
        ("a claim where nothing matters", "≤ 2 %", nothing, lambda one: bool(one["named"])),
    ):
        cells = []
        for left_out in (False, True):
            mine = [bool(right(one)) for one in some if one["left_out"] == left_out]
            low, high = wilson(sum(mine), len(mine))
            share = f"{100 * np.mean(mine):.1f} %" if mine else "–"
            cells.append(f"{share} ({sum(mine)}/{len(mine)}; {100 * low:.1f} to {100 * high:.1f} %)")
        lines.append(f"| {title} | {goal} | {cells[0]} | {cells[1]} |")
    ratios = [one["seconds"] / one["training_seconds"] for one in results]
    lines += ["", f"Comparison over training, seconds, median: {np.median(ratios):.2g}", ""]
    wrong = [one for one in harmful if one["first"] != one["planted"]]
    wrong += [one for one in nothing if one["named"]]
    lines += [f"- {one['case']}: planted {one['planted']}, named {one['first'] or one['named']}" for one in wrong]
    no_harm = [one["case"] for one in results if one["planted"] and one["gap"] < REAL]
    return "\n".join([*lines, "", f"No harm: {', '.join(no_harm) or 'none'}"])


if __name__ == "__main__":
    sys.exit(main())
