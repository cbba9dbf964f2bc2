"""How client computations are carried to the clients' data: threads of this process.

No import here: a step that needs only `Failed` must not wait for TensorFlow.
"""
