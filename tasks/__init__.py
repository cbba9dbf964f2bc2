"""The steps of the pipeline in plain Python: no Prefect, no MLflow, no DVC. They read no environment variable.

Only TensorFlow reads some. Two of them are set here, because it reads them once.
"""

import os

# With more threads, TensorFlow divides a convolution among as many as there are cores, and the division changes the
# last bits. The clients run side by side instead (`federate.runtime.threads`).
os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
# By itself, TensorFlow 2.14 uses oneDNN only on processors with AVX-512 VNNI or newer. On an AMD EPYC with AVX2, rounds
# of CNNs take 0.5 to 0.85 of the time with oneDNN. A value that the user has set stays.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
