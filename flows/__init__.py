"""In what order, for whom, how often: Prefect, MLflow and DVC live here and only here."""

import os

from flows import known_secrets

ENVIRONMENT = {
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # A temporary server takes 20 to 40 s to start on a slow machine; Prefect gives up after 20.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # Who presses Run waits for this; Prefect's own is 10 s.
    "PREFECT_WORKER_QUERY_SECONDS": "3",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "true",
}
"""What Prefect, MLflow and DVC read as they are imported: logs of the steps in the UI, patience, no telemetry."""

for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

# Set and empty, it would have Prefect start a temporary server and then look for its events elsewhere.
if os.environ.get("PREFECT_API_URL") == "":
    del os.environ["PREFECT_API_URL"]

# Every process of ours that could log an address comes by here: also a worker's, a pool's and Dask's.
known_secrets.guard()
