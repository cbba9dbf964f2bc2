"""`python tests/benchmarks/planted/suite.py OUT`: plants causes in healthy runs, and diagnoses these runs.

OUT/<case>/workspace is the run that is diagnosed, OUT/<case>/truth.json says what was planted, and
OUT/results/<case>.json has the result. A case with a result is skipped. score.py prints the figures.
"""

import argparse
import fnmatch
import logging
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from cases import Case, cases

from tasks import command
from tasks.files import write_json


def main() -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the workspaces and results")
    parser.add_argument("--seeds", default="0,1", help="comma-separated; even ones to tune on, odd ones to report")
    parser.add_argument("--only", default="*", help="names of the cases to run, with wildcards")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--chest", type=Path, help="MedMNIST's pneumoniamnist.npz; without it those cases are left out")
    parser.add_argument("--list", action="store_true", help="print the cases and run none")
    parser.add_argument("--part", default="0/1", help=argparse.SUPPRESS)
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    chosen = [
        case
        for case in cases(seeds)
        if fnmatch.fnmatch(case.name, given.only) and (case.base != "chest" or given.chest or given.list)
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
    # Each process gets a continuous part, so that the cases of one healthy run stay together.
    mine = chosen[len(chosen) * part // of : len(chosen) * (part + 1) // of]
    return _run([case for case in mine if not _result(given.out, case).is_file()], given.out, given.chest, part)


def _result(out: Path, case: Case) -> Path:
    return out / "results" / f"{case.name}.json"


def _run(left: list[Case], out: Path, chest: Path | None, part: int) -> int:
    if not left:
        return 0
    command.quiet()
    logging.disable(logging.WARNING)
    from measure import measure
    from plant import Planter, write_truth

    from tasks.diagnose.replay.computations import ComputationCache
    from tasks.runtime.kinds import runtime
    from tasks.settings import RuntimeSettings

    shared = out / f"shared-{part}"
    shared.mkdir(parents=True, exist_ok=True)
    failed = 0
    planter, cache = Planter(shared, chest), ComputationCache()
    for number, case in enumerate(left, start=1):
        began = time.perf_counter()
        try:
            with runtime(RuntimeSettings()):
                planted = planter.plant(case, out / case.name / "workspace")
            write_truth(out / case.name / "truth.json", case, planted)
            result = measure(case, planted, out / case.name / "workspace", cache)
        except Exception:
            failed += 1
            print(f"{case.name} failed", flush=True)
            traceback.print_exc()
            continue
        write_json(_result(out, case), result)
        took = time.perf_counter() - began
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
