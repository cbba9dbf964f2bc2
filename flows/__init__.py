"""Runs the steps of `tasks` with Prefect, MLflow and DVC; `tasks` imports none of the three."""

import os

from flows import known_secrets

ENVIRONMENT = {
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows",
    # The same loggers also log outside of flow runs: in commands, in `dvc repro`, and in tests. Prefect would warn.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # A temporary server takes 20 to 40 s to start on a slow machine; Prefect gives up after 20.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # Seconds between two queries of the worker. A user who presses Run waits for the next one; Prefect's default is 10.
    "PREFECT_WORKER_QUERY_SECONDS": "3",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "true",
}
"""Environment variables that Prefect, MLflow and DVC read when they are imported.

They send the steps' logs to the UI, set timeouts and turn telemetry off.
"""

for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

# With an empty PREFECT_API_URL, Prefect starts a temporary server, but looks for its events at another address.
if os.environ.get("PREFECT_API_URL") == "":
    del os.environ["PREFECT_API_URL"]

# Every process that could log an address imports this package: commands, workers, pool processes, Dask workers.
known_secrets.guard()
