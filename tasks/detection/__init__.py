"""Did the loss rise? Tests of a loss curve with known probabilities of a false claim; numpy alone."""

from tasks.detection.increase import Increase, find_increase

__all__ = ["Increase", "find_increase"]
