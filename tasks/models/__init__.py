"""Keras 2 models by name, the checks of a user's own model, and their H5 files.

Every model maps a batch (B, *input_shape) float32 to logits (B, C) float32.
"""

from tasks.models.builders import BUILDERS
from tasks.models.building import build, num_params
from tasks.models.files import load_model, save_model
from tasks.models.predicting import logits_of

__all__ = ["BUILDERS", "build", "load_model", "logits_of", "num_params", "save_model"]
