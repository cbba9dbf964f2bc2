"""What counts as a finite number, in every log and every test of a loss."""

LARGEST = 1e100
"""A number with a larger absolute value counts as infinite; float32 ends at 3e38."""
