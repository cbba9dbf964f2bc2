"""The steps of the pipeline in plain Python: no Prefect, no MLflow, no DVC, and no environment variable is read."""

import os

# TensorFlow reads this when it first computes. With more threads, it divides a convolution among as many as there are
# cores, and the division changes the last bits. The clients run side by side instead (`federate.runtime.threads`).
os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
