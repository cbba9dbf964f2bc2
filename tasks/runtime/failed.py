"""What stands in the place of the result of a client that failed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Failed:
    """What stands in the place of a client that failed.

    Attributes:
        reason: one line without values of its data. The exception itself is not kept: its text holds some.
    """

    reason: str
