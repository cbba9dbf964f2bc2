"""A grid of settings over the same clients: its cells, where they run, and their table."""
