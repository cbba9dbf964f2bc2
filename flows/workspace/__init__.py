"""The private DVC workspace of a run: its params.yaml, its code, its raw data, and the repository's DVC cache."""
