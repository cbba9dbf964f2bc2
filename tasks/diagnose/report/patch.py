"""Settings as text: flags of a command line, lines of params.yaml, one line of a sentence."""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

_BARE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_KEY, _NUMBER, _ZEROS = re.compile(r"[\w.-]+", re.ASCII), re.compile(r"[-.\d_]+(e[-\d]*)?", re.I), re.compile(r"0\d+")
_KEYWORDS = {"true", "false", "null", "none", "nan", "inf", "yes", "no", "on", "off"}
"""What Hydra reads bare; what it takes for a number as a mapping's key; words that it takes for values."""


def flags(settings: Mapping[str, Any]) -> str:
    """Returns the settings as `-S name=value …`, quoted for a shell and for Hydra, which reads the values.

    A mapping is written as `+name=`, which adds its keys to the mapping that is set. Empty if Hydra has no way to write
    one of the values:
    1. A mapping has a key that looks like a number: Hydra reads it as a number.
    2. A text holds ${…}: Hydra reads it as a reference to another setting.
    """
    try:
        assignments = [f"{'+' * isinstance(value, dict)}{name}={_hydra(value)}" for name, value in settings.items()]
    except ValueError:
        return ""
    return " ".join(f"-S {shlex.quote(each)}" for each in assignments)


def plain(settings: Mapping[str, Any]) -> str:
    """Returns the settings on one line, for reading."""
    return ", ".join(f"{name}: {_json(value)}" for name, value in settings.items())


def patch(settings: Mapping[str, Any]) -> str:
    """Returns the settings as lines of params.yaml: `a.b: 1` is b, indented below a."""
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        *sections, last = name.split(".")
        place = tree
        for section in sections:
            below = place.setdefault(section, {})
            if not isinstance(below, dict):
                place, last = tree, name
                break
            place = below
        place[last] = value
    return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)).rstrip()


def _hydra(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{_key(str(key))}:{_hydra(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_hydra, value))}]"
    if not isinstance(value, str):
        return _json(value)
    if "${" in value:
        raise ValueError(value)
    return value if _BARE.fullmatch(value) and value.lower() not in _KEYWORDS else f'"{_quoted(value)}"'


def _quoted(value: str) -> str:
    """What stands between quotes: a quote is escaped, and so are the backslashes before one or at the end."""
    return re.sub(r'(\\*)("|$)', lambda match: 2 * match[1] + match[2].replace('"', '\\"'), value)


def _key(key: str) -> str:
    if not _KEY.fullmatch(key) or key.lower() in _KEYWORDS or (_NUMBER.fullmatch(key) and not _ZEROS.fullmatch(key)):
        raise ValueError(key)
    return key


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
