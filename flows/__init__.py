"""In what order, for whom, how often: Prefect, MLflow and DVC live here and only here."""

import os

from flows import known_secrets

ENVIRONMENT = {
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # A temporary server takes 20 to 40 s to start on a slow machine; Prefect gives up after 20.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # A user who presses Run waits for this; Prefect's default is 10 s.
    "PREFECT_WORKER_QUERY_SECONDS": "3",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "true",
}
"""Variables that Prefect, MLflow and DVC read when imported: logs of the steps in the UI, timeouts, no telemetry."""

for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

# If it is set to an empty text, Prefect starts a temporary server and then looks for its events elsewhere.
if os.environ.get("PREFECT_API_URL") == "":
    del os.environ["PREFECT_API_URL"]

# Every process of ours that could log an address imports this package, also a worker's, a pool's and Dask's.
known_secrets.guard()
