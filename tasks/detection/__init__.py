"""Tests whether a loss curve rises, with a known probability of a false claim. Needs NumPy only."""

from tasks.detection.increase import Increase, find_increase

__all__ = ["Increase", "find_increase"]
