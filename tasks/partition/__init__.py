"""The raw data, divided over the clients, and how skewed the result is."""

from tasks.partition.step import partition

__all__ = ["partition"]
