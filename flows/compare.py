"""`python -m flows.compare`: a grid of settings over the same clients, and one table that says which is really better.

The flow itself is in flows/comparison.py, a module that the processes of its cells can import by name.
"""

import sys

if __name__ == "__main__":  # before Prefect's import, which takes seconds
    from flows import commands

    sys.exit(commands.compare())

from flows.comparison import compare

__all__ = ["compare"]
