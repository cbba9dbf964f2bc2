"""The tables of the field: client updates and aggregators with the usual partitions, and rounds to a target accuracy.

    .venv/bin/python tests/benchmarks/field_tables.py FOLDER [--only NAME ...]

Runs `python -m flows.compare` once per table and keeps its compare.md, .csv and .png as FOLDER/<name>.*. A table that
exists is not made again; if a table was interrupted, its finished cells come from DVC's cache. The settings are
NIID-Bench's (Li 2022, arXiv 2102.02079, section 5) as far as the data allow: 10 clients, 10 local epochs, batch 64,
learning rate 0.01, momentum 0.9, weight decay 1e-5, 50 rounds, three seeds of the training on the same clients. All
tables together take hours on 2 cores.

`local-epochs-*` measures what SCAFFOLD's paper does (Karimireddy 2020, table 3): rounds to the target with 1, 5, 10 and
20 local epochs, (1) if clients share no label (0 % similar) and (2) if they are alike (100 %). As in the paper, it uses
plain SGD and a fifth of the clients a round.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTITIONS = {
    "iid": ["partition.kind=iid"],
    "dirichlet": ["partition.kind=dirichlet", "partition.alpha=0.5"],
    "classes-1": ["partition.kind=classes", "partition.classes_per_client=1"],
    "classes-2": ["partition.kind=classes"],
    "quantity": ["partition.kind=quantity", "partition.alpha=0.5"],
    "feature-noise": ["partition.kind=feature_noise"],
}
CLIENTS = "federate.client.kind=sgd,fedprox,scaffold,fednova,feddyn,mimelite"
AGGREGATORS = "federate.aggregator.kind=median,trimmed_mean,geometric_median,multi_krum,clipped_mean"
SEEDS = "seed=0,1,2"
SHORT_PRUNING = ["prune.rounds=2", "prune.end_round=2"]
NIID_BENCH = [
    "federate.rounds=50",
    "federate.local_work.epochs=10",
    "federate.client.batch_size=64",
    "federate.client.learning_rate=0.01",
    "federate.client.momentum=0.9",
    "federate.client.weight_decay=0.00001",
    "federate.evaluate_every=10",
    *SHORT_PRUNING,
]
FIGURE_OF_MERIT = [
    "federate.model=logistic",
    "federate.rounds=200",
    "federate.client.learning_rate=0.1",
    "federate.sampling.kind=uniform",
    "federate.sampling.clients_per_round=2",
    *SHORT_PRUNING,
]


def tables(xrays: Path | None) -> dict[str, tuple[list[str], list[str]]]:
    """Returns each table's axes and settings by its name."""
    data = {"digits": []}
    if xrays is not None:
        data["xrays"] = ["data.kind=npz", f"data.path={xrays}", "federate.model=mlp"]
    found = {}
    for source, where in data.items():
        for partition, rule in PARTITIONS.items():
            if source == "xrays" and partition == "classes-2":
                continue  # the data have no more classes
            for what, axis in (("clients", CLIENTS), ("aggregators", AGGREGATORS)):
                found[f"{source}-{what}-{partition}"] = ([axis, SEEDS], [*NIID_BENCH, *where, *rule])
    axes = ["federate.client.kind=sgd,scaffold", "federate.local_work.epochs=1,5,10,20", SEEDS]
    for similar, rule in (("0", PARTITIONS["classes-1"]), ("100", PARTITIONS["iid"])):
        found[f"local-epochs-{similar}"] = (axes, [*FIGURE_OF_MERIT, *rule])
    return found


def main() -> None:
    """Makes the tables that do not exist yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="tables to make; default: all")
    parser.add_argument("--xrays", type=Path, help="MedMNIST's pneumoniamnist.npz, for the tables on chest X-rays")
    options = parser.parse_args()
    wanted = tables(options.xrays.resolve() if options.xrays else None)
    unknown = sorted(set(options.only or []) - set(wanted))
    if unknown:
        parser.error(f"--only: no table {', '.join(unknown)}; there are {', '.join(wanted)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.only or wanted:
        axes, settings = wanted[name]
        if (options.folder / f"{name}.md").exists():
            continue
        command = [sys.executable, "-m", "flows.compare"]
        command += [part for axis in axes for part in ("--grid", axis)]
        command += [part for setting in settings for part in ("-S", setting)]
        print(" ".join(["python", *command[1:]]), flush=True)
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        (ROOT / "reports/compare.md").unlink(missing_ok=True)
        status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        # Status 1 with a report: some cells failed, for example because a client update diverged. The report says so.
        if status not in (0, 1) or not (ROOT / "reports/compare.md").exists():
            raise SystemExit(f"{name}: status {status}, and no report")
        # The Markdown file comes last: if it exists, the table counts as made.
        for suffix in ("csv", "png", "md"):
            shutil.copy(ROOT / "reports" / f"compare.{suffix}", options.folder / f"{name}.{suffix}")


if __name__ == "__main__":
    main()
