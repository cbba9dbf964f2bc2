"""The MLflow store, and what a run writes there: while it goes, and once it is finished."""
