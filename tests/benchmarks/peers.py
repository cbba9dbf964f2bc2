"""Compares our client updates, server optimisers and aggregators with public implementations: one table.

    .venv/bin/python tests/benchmarks/peers.py

Our rounds and the peer's start from the same split, initial parameters, batches and settings. After three rounds of ten
clients the global parameters are compared. Every peer runs in an environment that uv makes for it. The first time, this
needs the network and, for PyTorch, some gigabytes (UV_FIND_LINKS can name a folder with a smaller wheel). The status is
1 if a row is not as expected. A peer that departs from its paper must differ, and must agree after it was mended. Each
script says what was wrong and how it was mended.

Some algorithms have no row, because no package that installs from the index has them. These packages were searched: TFF
0.87, Flower 1.41, FedLab 1.3, pfl 0.6, FedJAX 0.0.17, FedML 0.9.6, geom-median 0.1. Without a row are:

- FedDyn as in the paper: FedLab's and FedML's penalties have no gradient. The row is FedLab's FedDyn, mended.
- FedNova with momentum and a proximal term at once: the authors' own normaliser confuses the two.
- SCAFFOLD and FedDyn with clients weighted by their examples, and SCAFFOLD with momentum.
- HeteroFL; the sampling `stratified`.
- The sampling `power_of_choice`: FedLab draws its candidates evenly, and from its own generator, so other clients would
  train. Cho 2022 and we draw them by size. After the draw, the round is one of FedAvg.
- `dp_mean`, `compressed_mean` and zeroing: they are TFF's own parts, and the first two draw random numbers.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
OURS = ("tff",)
"""Peers that run in our own environment."""
THEIRS = ("fedjax", "fedlab", "pfl", "fedml", "flower", "geom_median")


def main() -> int:
    """Prints the table as Markdown; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, help="what peer_ours.py wrote, if it was run already")
    given, failed = parser.parse_args(), []
    with tempfile.TemporaryDirectory() as folder:
        file = given.file or Path(folder) / "ours.npz"
        if given.file is None:
            subprocess.run([sys.executable, HERE / "peer_ours.py", file], check=True, stdout=sys.stderr)
        for peer in (*OURS, *THEIRS):
            python = [sys.executable] if peer in OURS else [Path(sys.executable).with_name("uv"), "run", "--quiet"]
            done = subprocess.run([*python, HERE / f"peer_{peer}.py", file], stdout=subprocess.PIPE, text=True)
            lines = done.stdout.splitlines()
            print("\n".join(lines if peer == OURS[0] else lines[2:]), flush=True)
            if done.returncode:
                failed.append(peer)
    if failed:
        print(f"not as expected: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
