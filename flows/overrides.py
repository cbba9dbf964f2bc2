"""`-S` as in DVC: settings laid over params.yaml, whose spelling they leave alone.

The run-cache keys a run by the values in params.yaml with their types: a `1` that comes back as `1.0` is another run.
So a flow run's params.yaml is the repository's file with only what differs replaced.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import SettingsError
from tasks.settings import Settings, load, parse


def overridden(params: Path, overrides: Sequence[str]) -> str:
    """Returns the text of `params` with each `name=value` of `overrides` set, by DVC's own rules.

    Raises:
        SettingsError: the file cannot be read, an override is not of this form, or the settings are wrong.
    """
    load(params)
    text = laid_over(params.read_text(encoding="utf-8"), overrides)
    parse(yaml.safe_load(text))
    return text


def laid_over(text: str, overrides: Sequence[str]) -> str:
    """Returns a params.yaml with each `name=value` set; whether the settings are right is the caller's to find out.

    Raises:
        SettingsError: an override is not of this form.
    """
    if not overrides:
        return text
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    with tempfile.TemporaryDirectory() as holder:
        copy = Path(holder, "params.yaml")
        copy.write_text(text, encoding="utf-8")
        for override in overrides:
            if "=" not in override:
                raise SettingsError(f"-S takes name=value, got {override!r}")
            try:
                apply_overrides(copy, [override])
            except DvcException as exc:
                raise SettingsError(f"-S {override}: {_reason(exc)}") from exc
        return copy.read_text(encoding="utf-8")


def params_text(params: Path, settings: Settings) -> str:
    """Returns a params.yaml that holds `settings`, with the spelling of the file `params` where the values agree."""
    text = params.read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    if parse(raw) == settings:
        return text
    merged = _merge(raw, parse(raw).model_dump(mode="json"), settings.model_dump(mode="json"))
    return yaml.safe_dump(merged, sort_keys=False, allow_unicode=True)


def _merge(raw: Any, parsed: Any, wanted: Any) -> Any:
    if not isinstance(wanted, dict) or not isinstance(raw, dict):
        return raw if parsed == wanted else wanted
    if set(raw) - set(wanted):
        return wanted
    return {key: _merge(raw[key], parsed[key], value) if key in raw else value for key, value in wanted.items()}


def _reason(exc: BaseException) -> str:
    lines = [line for line in str(exc.__cause__ or exc).strip().splitlines() if line.strip()]
    return lines[0] if lines else type(exc).__name__
