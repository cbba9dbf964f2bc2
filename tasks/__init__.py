"""The steps of the pipeline in plain Python: no Prefect, no MLflow, no DVC, and no environment variable is read."""
