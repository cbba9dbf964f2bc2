"""How client computations are carried to the clients' data: in this process.

This file imports nothing, so that a step that needs only `Failed` does not wait for TensorFlow.
"""
