"""The client's side: computations that run where a client's data are, and the only code that opens its examples.

A client computation is a function of the client's examples and of small inputs (a model, losses by class, a seed). It
returns numbers, or vectors of the model's size, and never examples. tasks/runtime carries it to the client.
"""
