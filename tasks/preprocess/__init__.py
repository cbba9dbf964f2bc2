"""What a client does to its own data before the first round: standardise, once, on disk."""

from tasks.preprocess.step import preprocess

__all__ = ["preprocess"]
