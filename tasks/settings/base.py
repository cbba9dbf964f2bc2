"""What the sections of params.yaml have in common."""

import re
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

STEPS = ("partition", "preprocess", "federate", "prune", "evaluate", "diagnose")
"""The steps in the order of the pipeline."""


MOST_CLIENTS = 100_000
"""Most clients of a run. If fewer are too many for the data or the memory, a later check says so."""

_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")


def setting(default: Any, *, title: str, description: str, used_by: tuple[str, ...] = (), **bounds: Any) -> Any:
    """Returns pydantic's field of a setting.

    Args:
        default: the value in params.yaml.
        title: short name in the form.
        description: help in the form and in the table of settings.
        used_by: kinds of the section that use the setting; empty: all.
        bounds: pydantic's constraints: ge, gt, le, lt, min_length, ….
    """
    extra: JsonDict | None = {"used_by": list(used_by)} if used_by else None
    return Field(default, title=title, description=description, json_schema_extra=extra, **bounds)


def used_by(field: FieldInfo) -> list[str]:
    """Returns the kinds that use a field of their section; empty: all kinds."""
    extra = field.json_schema_extra
    kinds = extra.get("used_by") if isinstance(extra, dict) else None
    return [str(kind) for kind in kinds] if isinstance(kinds, list) else []


def default_of(field: FieldInfo) -> Any:
    """Returns the default of a field."""
    return field.get_default(call_default_factory=True, validated_data={})


def _as_yaml(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _items(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Integer = Annotated[int, Field(lt=2**31)]
"""An integer that fits into TensorFlow's int32; `Section` makes each of its `int` fields one."""

ClientIds = Annotated[tuple[str, ...], BeforeValidator(_items)]

ColumnNames = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_items)]


class Section(BaseModel):
    """A section of params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())

    chooser: ClassVar[str] = "kind"

    def __init_subclass__(cls, **options: Any) -> None:
        """Makes every `int` of the section an `Integer`, so that no field lacks the bound; pydantic reads it later."""
        for name, kind in list(vars(cls).get("__annotations__", {}).items()):
            if kind is int:
                cls.__annotations__[name] = Integer
        super().__init_subclass__(**options)

    @model_validator(mode="before")
    @classmethod
    def _read_exponents(cls, raw: Any) -> Any:
        """Makes 1e-05 a number: DVC writes numbers in this form (YAML 1.2), but PyYAML (YAML 1.1) reads it as text."""
        if not isinstance(raw, dict):
            return raw
        floats = {name for name, field in cls.model_fields.items() if field.annotation is float}
        return {
            name: float(value) if name in floats and isinstance(value, str) and _EXPONENT.fullmatch(value) else value
            for name, value in raw.items()
        }

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Adds to each field's help in a form the kinds that use the field."""
        schema = handler(core)
        for entry in handler.resolve_ref_schema(schema)["properties"].values():
            if "used_by" in entry:
                entry["description"] += cls._when(entry["used_by"])
        return schema

    @classmethod
    def _when(cls, used_by: list[str]) -> str:
        others = [kind for kind in get_args(cls.model_fields[cls.chooser].annotation) if kind not in used_by]
        if not others:
            return ""
        return f" (not with {others[0]})" if len(others) == 1 < len(used_by) else f" (only with {', '.join(used_by)})"

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> "Section":
        chosen = getattr(self, self.chooser, None)
        for name, field in type(self).model_fields.items():
            kinds, value, default = used_by(field), getattr(self, name), default_of(field)
            if kinds and chosen not in kinds and value != default:
                raise ValueError(
                    f"{name} has no effect with {self.chooser} {chosen} (only with {', '.join(kinds)}): "
                    f"leave it at {_as_yaml(default)!r}, got {_as_yaml(value)!r}"
                )
        return self
