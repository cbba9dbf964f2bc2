"""The grid of a comparison, `name=value,value`: all combinations of its values (cells), and their names.

A value is read as `-S` reads it. Several values are spelled as in `dvc exp run --queue -S`: the comma inside `[64,64]`
does not separate values.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from flows.known_secrets import safe_line
from flows.workspace import overrides, raw_data
from tasks.errors import SettingsError
from tasks.settings import Settings, fields, parse

SEED = "seed"
"""The setting whose values are repetitions. Cells that differ only in this setting are a group."""
_CLIENTS = ("data.", "partition.")
_MOST_CELLS = 1000
"""Most cells of a comparison."""
_LONGEST = 200
"""Most characters of a --grid text in a message."""


@dataclass(frozen=True)
class Cell:
    """One combination of the grid's values.

    Attributes:
        name: the name of the cell's folder, such as `cell-03`, numbered in the order of the grid.
        label: the cell's values of the grid's settings, such as `server_optimizer=adam, seed=1`.
        values: setting of the grid → its value in this cell, spelled as the user spelled it.
        params: the text of the cell's params.yaml.
        settings: the parsed `params`.
    """

    name: str
    label: str
    values: Mapping[str, str]
    params: str
    settings: Settings

    @property
    def group(self) -> tuple[str, ...]:
        """The values of all settings of the grid except the seed."""
        return tuple(value for name, value in self.values.items() if name != SEED)

    @property
    def seed(self) -> str:
        """The seed as the user spelled it; empty if the seed is not in the grid."""
        return self.values.get(SEED, "")


def axes(grid: Sequence[str]) -> dict[str, list[str]]:
    """Returns setting → its values, in the order of the grid.

    Raises:
        SettingsError: the grid is empty, a text is not `name=value,value`, or a name is unknown or given twice.
    """
    if not grid:
        raise SettingsError("a comparison needs a grid: --grid name=value,value, at least once")
    values_of: dict[str, list[str]] = {}
    for text in grid:
        name, values = _axis(text)
        if name in values_of:
            raise SettingsError(f"--grid {name} is given twice: give all its values at once")
        values_of[name] = values
    return values_of


def cells(base: str, grid: Sequence[str], same_clients: bool) -> list[Cell]:
    """Returns every combination with its params.yaml; the last setting of the grid changes fastest.

    Args:
        base: the text of the params.yaml that the grid changes.
        grid: texts `name=value,value`.
        same_clients: give all cells the same clients: partition.seed becomes the seed of `base`. No effect if
            (1) a setting of data or partition is in the grid, or (2) partition.seed of `base` is >= 0.

    Raises:
        SettingsError: as in `axes`; or a cell's settings are wrong, or equal to another cell's settings.
    """
    values = axes(grid)
    size = math.prod(map(len, values.values()))
    if size > _MOST_CELLS:
        raise SettingsError(f"a grid may have at most {_MOST_CELLS} cells, got {size}")
    pinned = _pin(base, values) if same_clients else []
    combinations = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    width = max(2, len(str(len(combinations) - 1)))
    combined: list[Cell] = []
    for number, chosen in enumerate(combinations):
        label = ", ".join(f"{short_name(name)}={value}" for name, value in chosen.items())
        changes = [f"{name}={value}" for name, value in chosen.items()]
        try:
            params = overrides.with_overrides(base, [*pinned, *changes])
            settings = parse(yaml.safe_load(params))
        except SettingsError as exc:
            raise SettingsError(f"cell {label}: {exc}") from exc
        twin = next((cell for cell in combined if cell.settings == settings), None)
        if twin:
            raise SettingsError(f"cells {twin.label} and {label} have the same settings")
        combined.append(Cell(f"cell-{number:0{width}}", label, chosen, params, settings))
    return combined


def placed_cells(repository: Path, cells: Sequence[Cell]) -> list[Cell]:
    """Returns the cells with a `data.path` that means the same file in a cell's folder as in the repository."""
    placed = []
    for cell in cells:
        params, settings = raw_data.placed(repository, cell.params, cell.settings)
        placed.append(replace(cell, params=params, settings=settings))
    return placed


def short_name(name: str) -> str:
    """Returns the shortest end of the name that no other setting has: federate.aggregator.kind → aggregator."""
    names = {_without_kind(other) for other in fields()}
    parts = _without_kind(name)
    for length in range(1, len(parts)):
        tail = parts[-length:]
        if sum(other[-length:] == tail for other in names) == 1:
            return ".".join(tail)
    return ".".join(parts)


def _without_kind(name: str) -> tuple[str, ...]:
    parts = tuple(name.split("."))
    return parts[:-1] if parts[-1] == "kind" else parts


def _axis(text: str) -> tuple[str, list[str]]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import OverrideType, ValueType

    wrong = f"--grid takes name=value,value, got {text[:_LONGEST]!r}"
    try:
        override = OverridesParser.create().parse_override(text)
        if override.type != OverrideType.CHANGE or override.package is not None:
            raise SettingsError(wrong)
        name = str(override.key_or_group)
        if not override.is_sweep_override():
            values = [text.split("=", 1)[1]]
        elif override.value_type in (ValueType.INTERVAL_SWEEP, ValueType.GLOB_CHOICE_SWEEP):
            raise SettingsError(f"{wrong}: name every value")
        else:
            # A range can have any number of values. One more than the allowed cells is enough for the error.
            values = [str(value) for value in itertools.islice(override.sweep_string_iterator(), _MOST_CELLS + 1)]
    except SettingsError:
        raise
    except Exception as exc:  # Hydra's parser also raises Python's own errors, as for a number of 5,000 digits
        raise SettingsError(f"{wrong}: {safe_line(exc)}") from exc
    if name not in fields():
        raise SettingsError(f"--grid {_unknown(name)}")
    return name, values


def _unknown(name: str) -> str:
    import difflib

    if any(setting.startswith(f"{name}.") for setting in fields()):
        return f"{name} is a section: name one of its settings, as {name}.{_first(name)}"
    close = difflib.get_close_matches(name, fields(), n=1)
    return f"{name} is not a setting" + (f": did you mean {close[0]}?" if close else "")


def _first(section: str) -> str:
    return next(name for name in fields() if name.startswith(f"{section}.")).removeprefix(f"{section}.")


def _pin(base: str, values: Mapping[str, object]) -> list[str]:
    settings = parse(yaml.safe_load(base))
    if settings.partition.seed >= 0 or any(name.startswith(_CLIENTS) for name in values):
        return []
    return [f"partition.seed={settings.seed}"]
