"""Flow runs whose process was killed: found, ended in Prefect and MLflow, or continued."""
