"""How much memory this process may use."""

import os
from pathlib import Path

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files with a container's limit, of cgroups 2 and 1."""


def available() -> int:
    """Returns the bytes of the machine's memory, or of the container's limit if that is less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *(limit for path in _LIMITS if (limit := _limit(Path(path))))])


def _limit(path: Path) -> int:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return 0
    return int(text) if text.isdigit() else 0  # without a limit, it is `max`
