"""Type names for what TensorFlow Federated does not annotate."""

from typing import Any

Computation = Any
"""A TFF computation."""

TffType = Any
"""A type of TFF, such as that of a computation's argument."""

Traced = Any
"""A tensor, a structure of tensors, or TFF's placed value, while a computation is traced."""
