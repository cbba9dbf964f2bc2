"""The step `partition`: divides the raw data over the clients and measures the skew."""

from tasks.partition.step import partition

__all__ = ["partition"]
