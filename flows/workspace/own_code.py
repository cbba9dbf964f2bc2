"""The user's code: the files that a user adds to `deps` in dvc.yaml."""

from pathlib import Path

from flows.workspace import raw_data
from flows.workspace.repository import CODE


def own_code(repository: Path) -> list[str]:
    """Returns the files and folders of the repository that stages depend on, without the project's code.

    An example is the module of a user's `federate.model`. `data.path`, the outputs of stages, and paths outside the
    repository are left out.
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
