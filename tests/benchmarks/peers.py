"""Compares our client updates, server optimisers and aggregators with public implementations: one table.

    .venv/bin/python tests/benchmarks/peers.py

Ours and the peer start from the same split, initial parameters, batches and settings; after three rounds of ten clients
the global parameters are compared. Every peer runs in an environment that uv makes for it: the first time this needs
the network and, for PyTorch, some gigabytes (UV_FIND_LINKS may name a folder with a smaller wheel). Status 1 if a row
is not as expected. A peer that departs from its paper must be seen to differ, and to agree once mended: each
script says what was wrong and what was done about it.

What has no row, because no package that installs from the index has it (looked at: TFF 0.87, Flower 1.41, FedLab 1.3,
pfl 0.6, FedJAX 0.0.17, FedML 0.9.6, geom-median 0.1):

- FedDyn as the paper has it: FedLab's and FedML's penalties have no gradient. The row is FedLab's, mended.
- FedNova with momentum and a proximal term at once: the authors' own normaliser mixes up the two.
- SCAFFOLD and FedDyn with clients weighted by their examples, and SCAFFOLD with momentum.
- HeteroFL; the sampling `stratified`.
- The sampling `power_of_choice`: FedLab's draws its candidates evenly, where Cho 2022 and ours draw them by size, and
  from a generator of its own, so that other clients would train. What follows the draw is a round of FedAvg.
- `dp_mean`, `compressed_mean` and zeroing are TFF's own parts, and the first two draw random numbers.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
OURS = ("tff",)
"""Run in our own environment."""
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
