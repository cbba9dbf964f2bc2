"""A run's own DVC workspace: params.yaml with other settings, the raw data's place, and DVC's cache."""
