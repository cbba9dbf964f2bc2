"""The raw examples of a data source as numbers in memory, for tests that compare values."""

import dataclasses

from tasks.arrays import as_float32
from tasks.datasets import RawExamples


def in_memory(examples: RawExamples) -> RawExamples:
    """Returns `examples` with arrays of their own type in memory."""
    return dataclasses.replace(examples, x=examples.x[:], test_x=examples.test_x[:])


def as_numbers(examples: RawExamples) -> RawExamples:
    """Returns `examples` with float32 arrays in memory, in which a value v of uint8 is v / 255."""
    return dataclasses.replace(examples, x=as_float32(examples.x[:]), test_x=as_float32(examples.test_x[:]))
