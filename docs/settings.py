"""`make docs`: writes docs/settings.md from the models in tasks/settings/."""

import builtins
import itertools
import json
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from tasks.settings import Section, fields, sections
from tasks.settings.base import default_of, used_by

PAGE = Path(__file__).with_suffix(".md")

INTRODUCTION = """\
# Settings

`make docs` writes this page from the models in `tasks/settings/`. Change a description there, not here.

A setting has its value in [params.yaml](../params.yaml). Change the file, or change single values on the command line
with `-S federate.client.learning_rate=0.1`:

- `-S` of `python -m flows.pipeline` and `python -m flows.compare` is for this run only.
- `-S` of `dvc exp run` changes params.yaml, and the file stays changed, also if the run fails.
  `git checkout params.yaml` undoes it.

The column "kinds" says for which kinds of its section a setting has an effect. With any other kind it must keep its
default. Before a run starts, Undrift checks all settings and refuses, by name:

1. a setting that does not exist;
2. a value that is not allowed;
3. a changed setting that the chosen kind does not use;
4. settings that exclude each other.
"""

_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
_INT32 = 2**31
"""The bound `< _INT32` of every integer is TensorFlow's and left out: no value of practice comes near it."""


def page() -> str:
    """Returns docs/settings.md as Markdown."""
    chapters = [
        f"## {name or 'seed'}\n\n{_purpose(section, name)}{_table(section, name)}" for name, section in sections()
    ]
    return "\n".join([INTRODUCTION, *chapters])


def _purpose(section: type[Section], name: str) -> str:
    """Returns the first paragraph of the section's docstring."""
    paragraph = (section.__doc__ or "").partition("\n\n")[0]
    return f"{' '.join(paragraph.split())}\n\n" if name else ""


def _table(section: type[Section], name: str) -> str:
    settings = {full: field for full, field in fields().items() if full.rpartition(".")[0] == name}
    with_kinds = any(used_by(field) for field in settings.values())
    head = ["setting", "default", "allowed", *(["kinds"] if with_kinds else []), "meaning"]
    rows = [head, ["---"] * len(head)]
    for full, field in settings.items():
        kinds = [_kinds(section, field)] if with_kinds else []
        rows.append([f"`{full}`", _default(field), _allowed(field), *kinds, str(field.description)])
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def _default(field: FieldInfo) -> str:
    value = default_of(field)
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def _allowed(field: FieldInfo) -> str:
    """Returns the choices of a setting, or its type and bounds."""
    return _values(field.annotation, field.metadata)


def _values(annotation: Any, metadata: Iterable[Any] = (), plural: bool = False) -> str:
    arguments = get_args(annotation)
    match get_origin(annotation) or annotation:
        case typing.Literal:
            return ", ".join(f"`{choice}`" for choice in arguments)
        case typing.Annotated:
            items = [part.metadata if isinstance(part, FieldInfo) else [part] for part in arguments[1:]]
            return _values(arguments[0], itertools.chain(*items), plural)
        case builtins.bool:
            return "`true`, `false`"
        case builtins.tuple:
            return f"list of {_values(arguments[0], plural=True)}"
        case builtins.dict:
            return f"mapping of {_values(arguments[0], plural=True)} to {_values(arguments[1], plural=True)}"
        case kind:
            word = {int: "whole number", float: "number", str: "text"}[kind] + "s" * plural
    bounds = [(sign, getattr(part, key)) for part in metadata for key, sign in _SIGNS.items() if hasattr(part, key)]
    return f"{word} {', '.join(f'{sign} {bound:g}' for sign, bound in bounds if bound != _INT32)}".rstrip()


def _kinds(section: type[Section], field: FieldInfo) -> str:
    """Returns the kinds that use a setting, as the settings' check has them."""
    kinds = used_by(field)
    every = get_args(section.model_fields[section.chooser].annotation)
    others = [kind for kind in every if kind not in kinds]
    if not kinds or not others:
        return "all"
    return f"all except `{others[0]}`" if len(others) == 1 < len(kinds) else ", ".join(f"`{kind}`" for kind in kinds)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
