"""What each step of the pipeline knows. Plain Python: no Prefect, no MLflow, no DVC, no environment variables."""
