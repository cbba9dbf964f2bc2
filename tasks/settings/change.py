"""Other values of some settings."""

from collections.abc import Mapping
from typing import Any

from tasks.settings.base import Section, default_of, used_by
from tasks.settings.reading import parse
from tasks.settings.whole import Settings


def with_settings(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Returns `settings` with others at the dotted names in `changes`.

    Raises:
        SettingsError: they do not fit the rest.
    """
    return parse(laid_over(settings.model_dump(mode="json"), changes))


def switch_kind(section: str, kind: str, **values: Any) -> dict[str, Any]:
    """Returns the changes that give `section` (dotted, such as federate.aggregator) another kind, by dotted names.

    Fields that `kind` does not use go back to their defaults, for they would be refused beside it; fields that it uses
    get their `values`, and else stay as they are.
    """
    changes: dict[str, Any] = {"kind": kind}
    for name, field in _section(section).model_fields.items():
        kinds = used_by(field)
        if kinds and kind not in kinds:
            changes[name] = default_of(field)
    return {f"{section}.{name}": value for name, value in {**changes, **values}.items()}


def _section(name: str) -> type[Section]:
    section: type[Section] = Settings
    for part in name.split("."):
        section = section.model_fields[part].annotation  # type: ignore[assignment]
    return section


def laid_over(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of `raw`, a mapping as params.yaml holds it, with others at the dotted names in `changes`."""
    result = dict(raw)
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        result[head] = laid_over(result.get(head) or {}, {rest: value}) if rest else value
    return result


def value_at(raw: Any, name: str) -> Any:
    """Returns what stands at the dotted `name` in `raw`, a mapping as params.yaml holds it; None if nothing does."""
    for part in name.split("."):
        raw = raw.get(part) if isinstance(raw, Mapping) else None
    return raw
