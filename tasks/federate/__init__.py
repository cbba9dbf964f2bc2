"""The step `federate`: client updates, aggregators, server optimisers, sampling, the round, the loop, checkpoints."""

from tasks.federate.step import federate

__all__ = ["federate"]
