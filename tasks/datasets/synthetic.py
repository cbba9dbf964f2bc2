"""`synthetic`: FedProx's Synthetic(α, β)."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.datasets.checks import named_classes
from tasks.datasets.examples import Source, unfitted
from tasks.datasets.resize import Size
from tasks.errors import DataError
from tasks.settings import DataSettings

FEATURES = 60
CLASSES = 10
SYNTHETIC_STREAM = 0x5E7
"""The seed's random stream that draws the data."""


def read(settings: DataSettings, path: Path, seed: int, size: Size, scratch: Path) -> Source:
    """Returns Synthetic(α, β) of FedProx (Li et al. 2020, arXiv 1812.06127, appendix), each example with its client.

    Client k of K draws u_k ~ N(0, α), B_k ~ N(0, β), v_k ~ N(B_k, 1) (60), W_k ~ N(u_k, 1) (60, 10), b_k ~ N(u_k, 1)
    (10), its size n_k = floor(LogNormal(4, 2)) + 50, and its features x ~ N(v_k, Σ) with Σ diagonal and Σ_jj = j^-1.2.
    The labels are y = argmax softmax(W_k^T x + b_k). α and β are standard deviations, as in the authors' code; the
    paper does not say whether N(0, α) has the sd or the variance α.

    α has no effect, neither here nor in the paper: u_k is one number, so it adds u_k (1 + Σ_j x_j) to each of the ten
    logits, and the argmax is the same. The clients' models differ by the unit variance of W_k and b_k, for every α.

    Differences from the paper:

    1. Each client has its own random stream, so client k is the same for every K.
    2. The test set is `data.test_fraction` of all examples, stratified by label, not the last tenth of each client.
    3. A class without examples, which happens with very few clients, is left out of the classes.

    Raises:
        DataError: β is too large for float32.
    """
    width = max(2, len(str(settings.num_clients - 1)))
    parts = [
        client_examples(settings.alpha, settings.beta, np.random.default_rng([seed, SYNTHETIC_STREAM, k]))
        for k in range(settings.num_clients)
    ]
    y, classes = named_classes(str(label) for _, labels in parts for label in labels)
    owners = np.repeat([f"{k:0{width}d}" for k in range(settings.num_clients)], [len(labels) for _, labels in parts])
    x = np.concatenate([x for x, _ in parts])
    if not np.isfinite(x).all():
        raise DataError(f"data.beta is too large for float32 features, got {settings.beta}")
    return Source(y, unfitted(x), classes, owners)


def client_examples(
    alpha: float, beta: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns one client's x (n, 60) and y (n,), 0 to 9."""
    model_mean, feature_mean = rng.normal(0, alpha), rng.normal(0, beta)
    v = rng.normal(feature_mean, 1, FEATURES)
    W = rng.normal(model_mean, 1, (FEATURES, CLASSES))
    b = rng.normal(model_mean, 1, CLASSES)
    sd = np.arange(1, FEATURES + 1) ** (-1.2 / 2)
    x = v + sd * rng.standard_normal((int(rng.lognormal(4, 2)) + 50, FEATURES))
    with np.errstate(over="ignore"):
        features = x.astype(np.float32)
    return features, np.argmax(x @ W + b, axis=1)
