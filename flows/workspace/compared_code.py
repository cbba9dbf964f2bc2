"""Whether two runs had the same code, by the hashes in their dvc.lock, and where the code of the other one is."""

from pathlib import Path
from typing import Any

import yaml

from flows.workspace.dvc_hashes import dvc_hash
from tasks.diagnose.compared.code import OtherCode

LOCK = "requirements.lock"
_STAGES = ("partition", "preprocess", "federate")


def other_code(this: Path, other: Path, repository: Path, name: str) -> OtherCode:
    """Returns what of the code of the run in `other` differs from that of the run in `this`.

    Its code is in its own folder. It is there only if that still has the hashes of its dvc.lock. It can be tried only
    in the environment of the repository, if that is the run's: `requirements.lock` must be the same.

    Args:
        this: the folder of the run.
        other: the folder of the run with which it is compared.
        repository: whose environment runs this process.
        name: of the other run.
    """
    now, then = _hashes(this), _hashes(other)
    if now is None or then is None:
        return OtherCode(says=f"The code was not compared: {'this run' if now is None else name} has no dvc.lock.")
    names = tuple(sorted(path for path in {*now, *then} if now.get(path) != then.get(path)))
    if not names:
        return OtherCode()
    gone = next((path for path in names if path in then and not _is(other / path, then[path])), None)
    if gone:
        says = f"The code differs from that of {name}, and was not tried: {gone} is gone, or is not that of this run."
        return OtherCode(names, says=says)
    if not _same(other / LOCK, repository / LOCK):
        says = f"The code differs from that of {name}, and was not tried: the environment of that run is not known."
        return OtherCode(names, says=says)
    return OtherCode(names, other)


def _hashes(folder: Path) -> dict[str, str] | None:
    """The hash of each file and folder of code on which the loss of a run depends; None without a dvc.lock."""
    path = folder / "dvc.lock"
    if not path.is_file():
        return None
    stages: dict[str, Any] = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("stages", {})
    deps = [dep for name in _STAGES for dep in stages.get(name, {}).get("deps", [])]
    outs = {out["path"] for stage in stages.values() for out in stage.get("outs", [])}
    data = {dep["path"] for dep in deps if not str(dep["path"]).endswith(".py") and not _is_code(dep["path"])}
    return {dep["path"]: dep.get("md5", "") for dep in deps if dep["path"] not in outs | data}


def _is_code(path: str) -> bool:
    return Path(path).parts[:1] == ("tasks",)


def _is(path: Path, expected: str) -> bool:
    return path.exists() and dvc_hash(path) == expected


def _same(one: Path, two: Path) -> bool:
    return one.is_file() and two.is_file() and one.read_bytes() == two.read_bytes()
