"""What importing `tasks` sets for TensorFlow."""

import os
import platform
import subprocess
import sys

import pytest

KERNEL = """
import tasks
import numpy as np
import tensorflow as tf
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    x, k = (tf.compat.v1.placeholder(tf.float32, shape) for shape in ((8, 28, 28, 4), (3, 3, 4, 16)))
    run = tf.compat.v1.RunMetadata()
    options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
    feeds = {each: np.ones(each.shape, np.float32) for each in (x, k)}
    session.run(tf.nn.conv2d(x, k, 1, "SAME"), feeds, options=options, run_metadata=run)
print(any("_Mkl" in node.timeline_label for device in run.step_stats.dev_stats for node in device.node_stats))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN's kernels are in TensorFlow's wheels for x86 only")
@pytest.mark.parametrize(("given", "used"), [(None, "True"), pytest.param("0", "False", marks=pytest.mark.slow)])
def test_convolutions_use_onednn_on_every_processor_unless_the_user_says_no(given, used):
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    environment |= {"TF_ENABLE_ONEDNN_OPTS": given} if given else {}
    ran = subprocess.run([sys.executable, "-c", KERNEL], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == used
