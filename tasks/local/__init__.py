"""The client's side: computations that run where a client's data are. After preprocessing, only they open its examples.

(tests/test_layout.py names two exceptions, which simulate on one machine.) A client computation is a function of the
client's examples and of small inputs (a model, losses by class, a seed). It returns numbers, or vectors as long as the
parameters or as an example, such as means. It returns no examples. tasks/runtime carries it to the client.
"""
