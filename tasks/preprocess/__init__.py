"""The step `preprocess`: each client standardises its own data once, before the first round."""

from tasks.preprocess.step import preprocess

__all__ = ["preprocess"]
