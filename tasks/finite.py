"""The bound of a finite number, in every log and every test of a loss."""

LARGEST = 1e100
"""A number with a larger absolute value counts as infinite. The largest float32 is 3e38."""
