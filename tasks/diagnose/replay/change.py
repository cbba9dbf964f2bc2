"""What one replay changes: one factor, and nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.clients import Examples

Sites = Mapping[str, Examples]
"""The clients' examples by id."""
Surgery = Callable[[Sites], Sites]


@dataclass(frozen=True)
class Change:
    """One factor that is different in a replay.

    Attributes:
        says: what was changed, to go on from `the same rounds`.
        settings: settings by their dotted names, laid over the run's.
        without: clients that are drawn as before and then take no part.
        surgery: what is done to the clients' examples, by the name that the report gives it.
    """

    says: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    surgery: Mapping[str, Surgery] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """Returns the change for diagnosis.json."""
        parts: dict[str, Any] = dict(self.settings)
        if self.without:
            parts["leave out"] = list(self.without)
        if self.surgery:
            parts["data"] = " and ".join(self.surgery)
        return parts

    def __or__(self, other: "Change") -> "Change":
        """Returns both changes at once."""
        says = f"{self.says} and {other.says}" if self.says and other.says else self.says or other.says
        return Change(
            says,
            {**self.settings, **other.settings},
            tuple(sorted({*self.without, *other.without})),
            {**self.surgery, **other.surgery},
        )


NO_CHANGE = Change("")
