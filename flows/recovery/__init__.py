"""Finds flow runs whose process was killed; ends them in Prefect and MLflow, or continues them."""
