"""The step `prune`: magnitude pruning between further federated rounds, and the export of the small model."""

from tasks.prune.step import prune

__all__ = ["prune"]
