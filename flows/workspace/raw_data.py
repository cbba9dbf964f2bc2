"""Makes `data.path` mean the same file in a run's folder as in the repository, where `dvc repro` runs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from flows.workspace import overrides
from tasks.errors import InputError
from tasks.settings import Settings, with_settings

_NOT_COPIED = (".runs", ".dvc", ".git")
"""Folders of the repository that a run's folder does not have, or has with other content."""


def placed(repository: Path, params: str, settings: Settings) -> tuple[str, Settings]:
    """Returns the text of params.yaml and the settings for a run in its own folder.

    A relative `data.path` becomes absolute if it leaves the repository or lies in one of _NOT_COPIED, because in the
    run's folder it would be another file. Any other path stays as it is, so that the run-cache recognises the run.

    Raises:
        InputError: the raw data are an output of the pipeline, lie inside an output, or contain one.
    """
    path = settings.data.path
    target = (repository / path).resolve()
    for out in outputs(repository):
        if target == out or target in out.parents or out in target.parents:
            shown = out.relative_to(repository.resolve())
            raise InputError(
                f"data.path must not overlap with the pipeline's outputs, got {path!r}, which overlaps with {shown}"
            )
    if is_inside(path):
        return params, settings
    changed = with_settings(settings, {"data.path": str(target)})
    return overrides.text_with_settings(params, changed), changed


def is_inside(path: str) -> bool:
    """Returns whether `path` names the same file in a run's folder as in the repository."""
    parts = Path(path).parts
    return Path(path).is_absolute() or (".." not in parts and not set(parts[:1]) & set(_NOT_COPIED))


def outputs(repository: Path) -> Iterator[Path]:
    """Yields the absolute path of each output of the stages in dvc.yaml."""
    for stage in stages(repository):
        for out in (*stage.get("outs", []), *stage.get("metrics", [])):
            name = next(iter(out)) if isinstance(out, dict) else out
            yield repository.resolve() / name


def stages(repository: Path) -> list[Mapping[str, Any]]:
    """Returns the stages in dvc.yaml."""
    read = yaml.safe_load((repository / "dvc.yaml").read_text(encoding="utf-8"))
    return list(read.get("stages", {}).values()) if isinstance(read, dict) else []
