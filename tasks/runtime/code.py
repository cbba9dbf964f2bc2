"""The digest of the project's code."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_TASKS = Path(__file__).parents[1]


def digest_of_code(packages: Iterable[str], begin: str = "") -> str:
    """Returns the SHA-256 of the modules of tasks/ and of its `packages`, after the text `begin`."""
    digest = hashlib.sha256(begin.encode())
    modules = [path for name in packages for path in (_TASKS / name).rglob("*.py")]
    for path in sorted([*_TASKS.glob("*.py"), *modules]):
        digest.update(path.relative_to(_TASKS).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
