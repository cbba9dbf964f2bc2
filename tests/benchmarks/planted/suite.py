"""`python tests/benchmarks/planted/suite.py OUT`: plants causes in healthy runs, and diagnoses these runs.

OUT/<case>/workspace is the run that is diagnosed, OUT/<case>/truth.json says what was planted, and
OUT/results/<case>.json has the result. A case with a result is skipped. score.py prints the figures.
"""

import argparse
import fnmatch
import itertools
import logging
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from bases import LEFT_OUT, OF_CHEST
from cases import Case, cases, sampled

from tasks import command
from tasks.files import write_json

_SAMPLE = {"rise": 5, "once": 5, "ended": 3, "standing": 8, "tracefl": 1}
"""One of so many cases is run, by kind: with three seeds, 170 rises, 30 ended and 100 standing runs or more."""


def main() -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the workspaces and results")
    parser.add_argument("--seeds", default="0,1", help="comma-separated; even ones to tune on, odd ones to report")
    parser.add_argument("--sets", choices=["tune", "left_out", "all"], default="tune", help="which data sets")
    parser.add_argument("--only", help="names of cases, with wildcards, comma-separated; without it, a sample runs")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--chest", type=Path, help="MedMNIST's pneumoniamnist.npz; without it those cases are left out")
    parser.add_argument("--list", action="store_true", help="print the cases and run none")
    parser.add_argument("--part", default="0/1", help=argparse.SUPPRESS)
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    chosen = [
        case
        for case in (cases(seeds) if given.only else sampled(cases(seeds), _SAMPLE))
        if any(fnmatch.fnmatch(case.name, names) for names in (given.only or "*").split(","))
        and given.sets in ("all", "left_out" if case.base in LEFT_OUT else "tune")
        and (case.base not in OF_CHEST or given.chest or given.list)
    ]
    if given.list:
        print(*[case.name for case in chosen], sep="\n")
        return 0
    if given.jobs > 1:
        parts = [
            subprocess.Popen([sys.executable, *sys.argv, "--jobs", "1", "--part", f"{part}/{given.jobs}"])
            for part in range(given.jobs)
        ]
        return max(part.wait() for part in parts)
    part, of = map(int, given.part.split("/"))
    mine = _shared(chosen, of)[part]
    return _run([case for case in mine if not _result(given.out, case).is_file()], given.out, given.chest, part)


def _shared(chosen: list[Case], processes: int) -> list[list[Case]]:
    """Returns each process's cases. The cases of one base and seed stay together, because they share computations."""
    shares: list[list[Case]] = [[] for _ in range(processes)]
    groups = [list(group) for _, group in itertools.groupby(chosen, key=lambda case: (case.seed, case.base))]
    for group in sorted(groups, key=_cost, reverse=True):
        min(shares, key=_cost).extend(group)
    return shares


def _cost(chosen: list[Case]) -> int:
    """Returns about the seconds that the cases take."""
    return sum((12 if case.what.causes else 2) * (2 if case.base == "chest_cnn" else 1) for case in chosen)


def _result(out: Path, case: Case) -> Path:
    return out / "results" / f"{case.name}.json"


def _run(left: list[Case], out: Path, chest: Path | None, part: int) -> int:
    if not left:
        return 0
    command.quiet()
    logging.disable(logging.WARNING)
    from measure import measure
    from plant import NotPlanted, Planter, write_truth

    from tasks.errors import UndriftError

    shared = out / f"shared-{part}"
    shared.mkdir(parents=True, exist_ok=True)
    failed = 0
    planter = Planter(shared, chest)
    for number, case in enumerate(left, start=1):
        began = time.perf_counter()
        try:
            try:
                planted = planter.plant(case, out / case.name / "workspace")
            except (NotPlanted, UndriftError) as exc:
                print(f"{number}/{len(left)} {case.name} is left out: {exc}", flush=True)
                continue
            write_truth(out / case.name / "truth.json", case, planted)
            result = measure(case, planted, out / case.name / "workspace")
        except Exception:
            failed += 1
            print(f"{case.name} failed", flush=True)
            traceback.print_exc()
            continue
        took = time.perf_counter() - began
        write_json(_result(out, case), {**result, "case_seconds": round(took, 2)})
        rose = "" if result["rose"] or not result["planted"] else " (no rise)"
        planted_causes = " + ".join(result["planted"]) or "nothing"
        named = " + ".join(result["causes"]) or "none"
        print(
            f"{number}/{len(left)} {case.name}: {planted_causes} {result['planted_clients']} -> {named} "
            f"{result['clients']}{rose}, {took:.1f} s",
            flush=True,
        )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
