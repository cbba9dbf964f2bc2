"""From params.yaml to settings; all that is wrong is one line."""

import difflib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tasks.errors import SettingsError, one_line, reading, shown
from tasks.files import check_regular
from tasks.settings.whole import Settings, fields

_MOST_ERRORS = 10
"""Most wrong settings that one line names."""
_LONGEST_NUMBER = 100
"""Most characters of a number in params.yaml. Python refuses longer ones, or takes minutes (1:1:1:…, base 60)."""
_MOST_KEYS = 10_000
"""Most keys of a mapping after its merges (`<<`). A few lines of merges can give more keys than any memory holds."""


def parse(raw: Any) -> Settings:
    """Returns the settings in `raw`, the mapping that params.yaml holds.

    Raises:
        SettingsError: one line with the name of each wrong setting, its value and what is allowed.
    """
    if not isinstance(raw, dict):
        raise SettingsError(f"params.yaml must hold a mapping of settings, got {type(raw).__name__}")
    with reading("params.yaml must hold a mapping of settings", SettingsError):
        try:
            return Settings.model_validate(raw)
        except ValidationError as exc:
            more = exc.error_count() - _MOST_ERRORS
            said = [*map(_say, exc.errors()[:_MOST_ERRORS]), *([f"and {more} more"] if more > 0 else [])]
            raise SettingsError("; ".join(said)) from exc


def load(path: Path) -> Settings:
    """Returns the settings in the YAML file `path`.

    Raises:
        SettingsError: the file cannot be read, is not YAML, or holds wrong settings.
    """
    try:
        check_regular(path)
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as exc:
        raise SettingsError(f"cannot read {path}: {exc}") from exc
    with reading(f"{path} must be YAML, nested a few levels deep", SettingsError):
        try:
            raw = yaml.load(text, _Loader)
        except yaml.YAMLError as exc:
            raise SettingsError(f"{path} is not YAML: {exc}") from exc
    if not isinstance(raw, dict):
        raise SettingsError(f"{path} must hold a mapping of settings, got {'nothing' if raw is None else shown(raw)}")
    return parse(raw)


class _Loader(yaml.SafeLoader):
    """Refuses what DVC refuses and what pydantic's errors describe badly, and names the line of every wrong value."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Returns the value of `node`. A value that Python refuses (2026-99-99, `!!int abc`) is a YAML error."""
        if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
            raise _wrong(f"a number must have at most {_LONGEST_NUMBER} digits, got {len(node.value)}", node)
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as exc:
            raise _wrong(one_line(exc), node) from exc

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Returns the mapping. A key that occurs twice is refused, as in DVC; PyYAML would take the last one."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _KEYS:
                got = shown(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise _wrong(f"a key must be text (in quotes if it looks like a number), got {got}", key)
            if key.value in seen:
                raise _wrong(f"{key.value} occurs twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merges the mappings that `<<` names into `node`, and bounds the number of keys."""
        super().flatten_mapping(node)
        if len(node.value) > _MOST_KEYS:
            raise _wrong(f"a mapping must have at most {_MOST_KEYS} keys, got {len(node.value)}", node)


_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
_KEYS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}


def _wrong(says: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, says, node.start_mark)


def _say(error: ErrorDetails) -> str:
    name = ".".join(str(part)[:_LONGEST_NUMBER] for part in error["loc"])
    got, context = shown(error["input"]), error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            close = difflib.get_close_matches(name, fields(), n=1)
            return f"{name} is not a setting" + (f": did you mean {close[0]}?" if close else "")
        case "value_error":
            return f"{name}.{context['error']}" if name else str(context["error"])
        case "literal_error":
            return f"{name} must be one of {context['expected']}, got {got}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            (key, bound), *_ = context.items()
            sign = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}[key]
            return f"{name} must be {sign} {bound}, got {got}"
        case "float_type" | "int_type" if isinstance(error["input"], str):
            return f"{name} must be a number, got {got}"
        case "model_type" | "dict_type":
            return f"{name} must be a section of settings, got {got}"
        case "tuple_type":
            return f"{name} must be a list, such as [{got}], got {got}"
        case "string_type" if isinstance(error["input"], int | float):
            return f"{name}: input should be a valid string, got {got}: put it in quotes"
        case _:
            return f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}, got {got}"
