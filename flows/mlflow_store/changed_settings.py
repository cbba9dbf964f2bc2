"""What differs between a run's settings and the repository's params.yaml: by it, runs are told apart."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flows.mlflow_store.run_names import in_name, spelled_settings
from tasks.errors import UndriftError
from tasks.settings import Settings, parse

TAG = "settings.changed"
_IN_NAME = 4
"""Most differences in a run's name."""
_VALUE, _ALL = 30, 4000
"""Most characters of a value in a name, and of the tag."""
_LOGGING = "track."
"""The settings that change no result."""


def changed(settings: Settings, repository: Path) -> dict[str, str]:
    """Returns name → value of the settings that differ from the repository's params.yaml; see `standard`."""
    own, usual = spelled_settings(settings), spelled_settings(standard(repository))
    return {name: value for name, value in own.items() if value != usual[name] and not name.startswith(_LOGGING)}


def standard(repository: Path) -> Settings:
    """Returns the settings of the params.yaml that git's last commit holds.

    A run of `dvc exp run -S` changes the file itself. Without git, it is the file of the repository, and if that is of
    another version of Undrift, the defaults.
    """
    text = _committed(repository)
    path = repository / "params.yaml"
    if not text and path.is_file():
        text = path.read_text(encoding="utf-8")
    try:
        raw: Any = yaml.safe_load(text)
        return parse(raw or {})
    except (UndriftError, yaml.YAMLError):
        return Settings()


def name_of(settings: Settings, changes: Mapping[str, str], described: str) -> str:
    """Returns `<described> · rounds=60 faults.kind=labels`: a run's name with the first differences."""
    told = {name: value for name, value in changes.items() if name not in in_name(settings)}
    shown = [f"{name.removeprefix('federate.')}={_short(value)}" for name, value in told.items()]
    more = [f"+{len(shown) - _IN_NAME}"] if len(shown) > _IN_NAME else []
    return f"{described} · {' '.join([*shown[:_IN_NAME], *more])}" if shown else described


def tag_of(changes: Mapping[str, str]) -> dict[str, str]:
    """Returns the tag with all differences, such as `federate.rounds=60 seed=1`; {} if there are none."""
    said = " ".join(f"{name}={value}" for name, value in changes.items())
    return {TAG: said[:_ALL]} if said else {}


def _short(value: str) -> str:
    plain = value.translate(str.maketrans("", "", '[]{}" ')) or "none"
    return plain if len(plain) <= _VALUE else f"{plain[: _VALUE - 1]}…"


def _committed(repository: Path) -> str:
    command = ["git", "-C", str(repository), "show", "HEAD:./params.yaml"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
