"""What the user's own code is beside the project's: the files that they add to `deps` in dvc.yaml."""

from pathlib import Path

from flows.workspace import raw_data
from flows.workspace.repository import CODE


def own_code(repository: Path) -> list[str]:
    """Returns the files and folders of the repository that stages depend on and that are no code of the project.

    The module of a `federate.model` is one. `data.path` is none, nor is what a stage makes, or what is elsewhere.
    """
    deps = {dep for stage in raw_data.stages(repository) for dep in stage.get("deps", [])}
    return sorted(name for name in deps if _is_own(repository, name))


def _is_own(repository: Path, name: str) -> bool:
    if "${" in name or Path(name).is_absolute() or not raw_data.is_inside(name):
        return False
    if not Path(name).parts or Path(name).parts[0] in (*CODE, "params.yaml"):
        return False
    path = repository.resolve() / name
    return path.exists() and not any(
        path == out or out in path.parents or path in out.parents for out in raw_data.outputs(repository)
    )
