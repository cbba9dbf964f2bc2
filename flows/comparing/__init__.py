"""Comparisons: a grid of settings, the cells that run its combinations, and the table of their results."""
