"""Changes of settings by their dotted names."""

from collections.abc import Mapping
from typing import Any

from tasks.settings.base import Section, default_of, used_by
from tasks.settings.reading import parse
from tasks.settings.whole import Settings


def with_settings(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Returns a copy of `settings` with `changes`, {dotted name: value}.

    Raises:
        SettingsError: a changed setting is wrong, or does not fit the other settings.
    """
    return parse(laid_over(settings.model_dump(mode="json"), changes))


def switch_kind(section: str, kind: str, **values: Any) -> dict[str, Any]:
    """Returns the changes, {dotted name: value}, that give `section` (such as federate.aggregator) another kind.

    Fields that `kind` does not use get their defaults, because any other value is refused. Fields that it uses get
    their `values`, or stay unchanged if `values` does not name them.
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
    """Returns a copy of `raw`, the mapping in params.yaml, with `changes`, {dotted name: value}."""
    result = dict(raw)
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        result[head] = laid_over(result.get(head) or {}, {rest: value}) if rest else value
    return result


def value_at(raw: Any, name: str) -> Any:
    """Returns the value at the dotted `name` in `raw`, the mapping in params.yaml; None if there is none."""
    for part in name.split("."):
        raw = raw.get(part) if isinstance(raw, Mapping) else None
    return raw
