"""The step `evaluate`: final numbers and pictures of a run, for the global model and the pruned model."""

from tasks.evaluate.step import evaluate

__all__ = ["evaluate"]
