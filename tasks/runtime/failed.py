"""The result of a client that failed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Failed:
    """The result of a client that failed.

    Attributes:
        reason: one line without values of the client's data. The exception is not kept, because its text has values.
    """

    reason: str
