"""Made results of the suite of planted causes, for the tests of its figures."""

import importlib
import sys
from pathlib import Path
from typing import Any

SUITE = Path(__file__).parent / "benchmarks/planted"


def suite_module(name: str) -> Any:
    # The suite is a folder of scripts, which import each other by name.
    sys.path.insert(0, str(SUITE))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(SUITE))


def made(planted: list[str], causes: list[str], **given: Any) -> dict[str, Any]:
    fixed = {"case": "made.digits.0", "plant": "made", "planted_clients": [], "called_faulty": [], "rose": True}
    live = {"round": None, "onset": None, "alarm": None}
    more = {"num_clients": 10, "detected": bool(causes), "onset": 16, "live": live, "seconds": 1.0, "seed": 0}
    run = {"kind": "rise" if planted else "none", "rounds": 30, "spiked": None, "left_out": False, "base": "digits"}
    said = {
        "error": "",
        "remedies": len(causes),
        "training_seconds": 2.0,
        "case_seconds": 3.0,
        "clients": [],
        "own_rise": 0.0,
    }
    return {**fixed, **more, **run, **said, "planted": planted, "harmful": planted, "causes": causes, **given}
