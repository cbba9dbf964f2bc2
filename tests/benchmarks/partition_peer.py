# /// script
# requires-python = ">=3.11"
# dependencies = ["flwr-datasets>=0.5", "matplotlib", "numpy", "pydantic>=2.7", "pyyaml", "scikit-learn", "scipy"]
# ///
"""Label statistics of our Dirichlet partitions and of flwr-datasets': `uv run` this file.

Both divide the labels of scikit-learn's digits (1,797 examples, 10 classes) over 10 clients. For every alpha and
partitioner it prints the mean over the seeds, and its standard error, of five numbers: the classes that a client holds,
the earth mover's distance and the Jensen-Shannon divergence (bits) of a client's labels from the whole, the Gini
coefficient of the sizes, and the number of empty clients. Empty clients count only in the Gini coefficient. No
partition is drawn again because a client is too small.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import Dataset, disable_progress_bars
from flwr_datasets.partitioner import DirichletPartitioner
from numpy.typing import NDArray
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).parents[2]))

from tasks.partition.labels import dirichlet, label_mix
from tasks.partition.skew import jensen_shannon
from tasks.skew import earth_mover, gini

CLIENTS = 10
COLUMNS = ("classes", "earth mover", "Jensen-Shannon", "Gini", "empty")


def flwr(y: NDArray[np.int32], alpha: float, seed: int, balancing: bool) -> list[NDArray[np.int64]]:
    """Returns the partition of flwr-datasets' DirichletPartitioner as indices."""
    partitioner = DirichletPartitioner(
        CLIENTS, partition_by="label", alpha=alpha, min_partition_size=0, self_balancing=balancing, seed=seed
    )
    partitioner.dataset = Dataset.from_dict({"label": y, "index": np.arange(len(y))})
    return [np.array(partitioner.load_partition(k)["index"], dtype=np.int64) for k in range(CLIENTS)]


PARTITIONERS: dict[str, Callable[[NDArray[np.int32], float, int], list[NDArray[np.int64]]]] = {
    "dirichlet": lambda y, alpha, seed: dirichlet(y, CLIENTS, alpha, np.random.default_rng(seed)),
    "flwr-datasets": lambda y, alpha, seed: flwr(y, alpha, seed, balancing=False),
    "flwr-datasets, balancing": lambda y, alpha, seed: flwr(y, alpha, seed, balancing=True),
    "label_mix": lambda y, alpha, seed: label_mix(y, CLIENTS, alpha, np.random.default_rng(seed)),
    "label_mix, 10 alpha": lambda y, alpha, seed: label_mix(y, CLIENTS, 10 * alpha, np.random.default_rng(seed)),
}


def statistics(y: NDArray[np.int32], parts: list[NDArray[np.int64]]) -> list[float]:
    """Returns the values of COLUMNS for one partition."""
    counts = np.array([np.bincount(y[part], minlength=10) for part in parts])
    assert counts.sum() == len(y)
    sizes = counts.sum(axis=1)
    held, whole = counts[sizes > 0], counts.sum(axis=0) / len(y)
    mixes = held / held.sum(axis=1, keepdims=True)
    return [
        float((held > 0).sum(axis=1).mean()),
        float(earth_mover(mixes, whole).mean()),
        float(jensen_shannon(mixes, whole).mean()),
        gini(sizes),
        float((sizes == 0).sum()),
    ]


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description="Compare the Dirichlet partitions with flwr-datasets.")
    parser.add_argument("--seeds", type=int, default=100, help="partitions of each kind and alpha")
    seeds = parser.parse_args().seeds
    disable_progress_bars()
    y = load_digits().target.astype(np.int32)
    print(f"| alpha | partition | {' | '.join(COLUMNS)} |")
    print("|" + "---|" * (2 + len(COLUMNS)))
    for alpha in (0.1, 0.5, 5.0):
        for name, partitioner in PARTITIONERS.items():
            found = np.array([statistics(y, partitioner(y, alpha, seed)) for seed in range(seeds)])
            errors = found.std(axis=0, ddof=1) / np.sqrt(seeds)
            cells = [f"{mean:.3f} ± {error:.3f}" for mean, error in zip(found.mean(axis=0), errors, strict=True)]
            print(f"| {alpha} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
