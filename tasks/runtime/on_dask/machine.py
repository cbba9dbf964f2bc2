"""What the bits of a machine's results depend on: code, versions, processor, and a computation as a proof."""

import hashlib
import json
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tasks.runtime.code import digest_of_code

_PACKAGES = ("clients", "federate", "local", "runtime", "settings")
"""The packages of tasks/ whose code runs on a worker."""
_FEATURES = ("amx", "avx", "bmi", "f16c", "fma", "sse", "ssse")
"""Beginnings of the processor's features by which TensorFlow, Eigen and oneDNN choose their kernels."""
_CPUINFO = Path("/proc/cpuinfo")


@cache
def describe() -> dict[str, Any]:
    """Returns the description of this process, the same at each call."""
    return {
        "code": digest_of_code(_PACKAGES),
        "Python": platform.python_version(),
        "TensorFlow": tf.__version__,
        "TensorFlow Federated": tff.__version__,
        "NumPy": np.__version__,
        "processor": _features(),
        "results": _results(),
    }


@cache
def digest() -> str:
    """Returns the SHA-256 of the description of this process."""
    return hashlib.sha256(json.dumps(describe(), sort_keys=True).encode()).hexdigest()


def differences(worker: Mapping[str, Any], host: Mapping[str, Any]) -> list[str]:
    """Returns what differs in a worker's description from the host's, a few words for each; empty if nothing does."""
    found = []
    for name, mine in host.items():
        theirs = worker.get(name)
        if theirs == mine:
            continue
        match name:
            case "code":
                found.append("other code of the project")
            case "processor":
                found.append(f"another processor ({_of_processors(list(theirs or []), list(mine))})")
            case "results":
                found.append("other bits in a test computation")
            case _:
                found.append(f"{name} {theirs} instead of {mine}")
    # With other versions or another processor, the bits differ too: the reason is enough.
    return found[:-1] if len(found) > 1 and worker.get("results") != host.get("results") else found


def _of_processors(theirs: list[str], mine: list[str]) -> str:
    more, less = sorted({*theirs} - {*mine}), sorted({*mine} - {*theirs})
    return "; ".join([f"with {', '.join(more)}"] * bool(more) + [f"without {', '.join(less)}"] * bool(less))


def _features() -> list[str]:
    lines = _CPUINFO.read_text(encoding="utf-8").splitlines() if _CPUINFO.is_file() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return sorted({flag for flag in flags if flag.startswith(_FEATURES)})


def _results() -> str:
    """Returns the digest of the results of the operations that training consists of.

    The matrices are large enough to be divided into pieces. The sizes of the pieces, and so the bits, depend on the
    caches of the processor, and on environment variables of TensorFlow and oneDNN.
    """
    rng = np.random.default_rng(0)
    images = rng.standard_normal((8, 28, 28, 4), np.float32)
    kernel = rng.standard_normal((3, 3, 4, 16), np.float32)
    dense = rng.standard_normal((28 * 28 * 16, 32), np.float32)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x, k, d = (tf.compat.v1.placeholder(tf.float32, array.shape) for array in (images, kernel, dense))
        hidden = tf.nn.relu(tf.nn.conv2d(x, k, 1, "SAME"))
        logits = tf.reshape(hidden, (8, -1)) @ d
        loss = tf.reduce_mean(tf.reduce_logsumexp(tf.tanh(logits) * tf.math.rsqrt(1 + logits**2), axis=1))
        wanted = [loss, logits, *tf.gradients(loss, [x, k, d])]
        found = session.run(wanted, {x: images, k: kernel, d: dense})
    return hashlib.sha256(b"".join(np.asarray(each).tobytes() for each in found)).hexdigest()
