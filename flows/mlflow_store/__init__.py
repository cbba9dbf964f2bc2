"""The MLflow store, and what a run writes to it while it trains and when it has finished."""
