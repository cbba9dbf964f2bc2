"""The MLflow run of a whole comparison: the settings that all cells share, and the table of the cells."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow.entities import Param

from flows.comparing.grid import Cell, short_name
from flows.comparing.results import Result
from flows.mlflow_store import connection, run_content, run_names, run_record
from flows.mlflow_store.store_errors import store_errors

_TABLE = "compare.json"
_TAG_LENGTH = 5000
"""Most characters of a tag in MLflow."""


class ParentRun:
    """The comparison's MLflow run: created for `folder`, or resumed if an earlier attempt created it.

    Raises:
        TrackingLost: the store does not answer.
    """

    def __init__(self, folder: Path, cells: Sequence[Cell], values: Mapping[str, Sequence[str]], tags: dict[str, str]):
        """`values` maps each setting of the grid to its values as the user spelled them."""
        self._folder, self.store = folder, connection.connect(folder)
        with store_errors(self.store.uri):
            grid = {name: ",".join(spelled) for name, spelled in values.items()}
            self.run_id = run_record.begin(self.store.client, folder, lambda: self._create(grid, tags), tags)
            self._log_settings(cells, grid)

    def _create(self, grid: Mapping[str, str], tags: Mapping[str, str]) -> str:
        described = " ".join(f"{name}={spelled}" for name, spelled in grid.items())
        run = self.store.client.create_run(
            self.store.experiment_id,
            run_name=f"compare {' × '.join(short_name(name) for name in grid)}",
            tags={
                **run_content.origin(self._folder),
                "mlflow.source.name": "python -m flows.compare",
                "grid": described[:_TAG_LENGTH],
                **tags,
            },
        )
        return str(run.info.run_id)

    def _log_settings(self, cells: Sequence[Cell], grid: Mapping[str, str]) -> None:
        spelled = [run_names.spelled_settings(cell.settings) for cell in cells]
        shared = {name: value for name, value in spelled[0].items() if all(cell[name] == value for cell in spelled)}
        params = [Param(name, value) for name, value in {**shared, **grid}.items()]
        for begin in range(0, len(params), run_content.PARAMS_PER_CALL):
            self.store.client.log_batch(self.run_id, params=params[begin : begin + run_content.PARAMS_PER_CALL])

    def log(self, results: Sequence[Result], markdown: str, reports: Sequence[Path]) -> None:
        """Logs the reports and the table; `markdown` becomes the run's description.

        Raises:
            TrackingLost: the store does not answer.
            RunError: the store refuses them.
        """
        client = self.store.client
        with store_errors(self.store.uri):
            for path in reports:
                client.log_artifact(self.run_id, str(path), "reports")
            self._log_table(results)
            client.log_metric(self.run_id, "cells", len(results))
            client.log_metric(self.run_id, "cells_finished", sum(result.is_finished for result in results))
            client.set_tag(self.run_id, "mlflow.note.content", markdown[:_TAG_LENGTH])
            for result in results:
                if result.run_id and result.reason:
                    client.set_tag(result.run_id, "failure", result.reason[:_TAG_LENGTH])

    def end(self, status: str) -> None:
        """Ends the run in MLflow: FINISHED, FAILED or KILLED."""
        run_record.terminate(self.store.client, self._folder, self.run_id, status)

    def as_report(self) -> dict[str, str]:
        """Returns the run with the keys of reports/mlflow.json."""
        return {
            "run_id": self.run_id,
            "tracking_uri": self.store.uri,
            "experiment_id": self.store.experiment_id,
        }

    def _log_table(self, results: Sequence[Result]) -> None:
        """Logs a table, one row per cell. A retry replaces the table: MLflow's `log_table` would append its rows."""
        numbers = sorted({key for result in results for key in result.numbers})
        rows = [
            {
                **result.cell.values,
                "status": result.status,
                "mlflow_run_id": result.run_id,
                **{key: result.numbers.get(key, math.nan) for key in numbers},
            }
            for result in results
        ]
        columns = list(rows[0])
        data = [[None if row[key] != row[key] else row[key] for key in columns] for row in rows]
        client = self.store.client
        if "mlflow.loggedArtifacts" in client.get_run(self.run_id).data.tags:
            client.log_dict(self.run_id, {"columns": columns, "data": data}, _TABLE)
        else:
            table = {key: [row[at] for row in data] for at, key in enumerate(columns)}
            client.log_table(self.run_id, table, _TABLE)
