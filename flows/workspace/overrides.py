"""`-S` as in DVC: changes some settings of a params.yaml and keeps the spelling of all others.

The run-cache identifies a run by the values in params.yaml with their types: `1.0` instead of `1` is another run. So a
flow run's params.yaml is a copy of the repository's file in which only the settings that differ are replaced.
"""

import difflib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from flows import known_secrets
from tasks.errors import SettingsError
from tasks.settings import Settings, fields, load, parse

_LONGEST = 200
"""Most characters of an override, or of a reason, in a message."""


def overridden(params: Path, overrides: Sequence[str]) -> str:
    """Returns the text of the file `params` with each `name=value` of `overrides` set, by DVC's own rules.

    Raises:
        SettingsError: the file cannot be read, an override is not of this form, or the settings are wrong.
    """
    load(params)
    text = params.read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    missing = [name for name in Settings.model_fields if name not in raw]
    if missing:  # DVC identifies a stage by the values in the file; it does not know the defaults of the settings
        raise SettingsError(
            f"{params} lacks {', '.join(missing)}: start from a copy of params.yaml, which has all of them"
        )
    text = with_overrides(text, overrides)
    parse(yaml.safe_load(text))
    return text


def with_overrides(text: str, overrides: Sequence[str]) -> str:
    """Returns the text of a params.yaml with each `name=value` set. The caller checks the settings.

    Raises:
        SettingsError: an override is not of this form.
    """
    if not overrides:
        return text
    from dvc.utils.hydra import apply_overrides

    with tempfile.TemporaryDirectory() as holder:
        copy = Path(holder, "params.yaml")
        copy.write_text(text, encoding="utf-8")
        for override in overrides:
            name, equals, _ = override.partition("=")
            # In Hydra, ~name=value deletes a setting; here every setting has a value.
            if not (equals and name) or name.startswith("~"):
                raise SettingsError(f"-S takes name=value, got {_short(override)!r}")
            try:
                apply_overrides(copy, [override])
            except (
                Exception
            ) as exc:  # Hydra, OmegaConf and ruamel.yaml each raise their own errors for sweeps, loops of ${...}, ...
                raise SettingsError(_unknown(override) or f"-S {_short(override)}: {_reason(exc)}") from exc
        return copy.read_text(encoding="utf-8")


def params_text(params: Path, settings: Settings) -> str:
    """Returns the text of a params.yaml with these settings. Equal values keep their spelling in the file `params`."""
    return text_with_settings(params.read_text(encoding="utf-8"), settings)


def text_with_settings(text: str, settings: Settings) -> str:
    """Returns the text of a params.yaml with these settings. Equal values keep their spelling in `text`."""
    raw = yaml.safe_load(text)
    if parse(raw) == settings:
        return text
    values = _merge(raw, parse(raw).model_dump(mode="json"), settings.model_dump(mode="json"))
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _merge(raw: Any, parsed: Any, wanted: Any) -> Any:
    if not isinstance(wanted, dict) or not isinstance(raw, dict):
        return raw if parsed == wanted else wanted
    if set(raw) - set(wanted):
        return wanted
    return {key: _merge(raw[key], parsed[key], value) if key in raw else value for key, value in wanted.items()}


def _unknown(override: str) -> str:
    """Returns the message for an override whose name is neither a setting nor a section; otherwise an empty text."""
    name = override.partition("=")[0]
    if not name or any(f"{field}.".startswith(f"{name}.") or name.startswith(f"{field}.") for field in fields()):
        return ""
    close = difflib.get_close_matches(name, fields(), n=1)
    return f"-S {_short(override)}: {_short(name)} is not a setting" + (f": did you mean {close[0]}?" if close else "")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _reason(exc: BaseException) -> str:
    lines = [
        line for line in known_secrets.without_secrets(str(exc.__cause__ or exc)).strip().splitlines() if line.strip()
    ]
    is_sweep = "Sweep" in lines[0] or "Glob(" in lines[0] if lines else False
    if lines[:1] and (lines[0].startswith("Error merging override") or is_sweep):
        return "-S takes one value; python -m flows.compare --grid takes several"
    hint = [line for line in lines[1:2] if line.startswith("To append")]
    return _short(" ".join([*lines[:1], *hint])) or type(exc).__name__
