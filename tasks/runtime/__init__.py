"""Where the clients' computations run: in this process (`in_process`), or on the workers of a Dask cluster (`on_dask`).

This file imports nothing, so that a step that needs only `Failed` does not wait for TensorFlow.
"""
