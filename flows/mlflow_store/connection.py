"""The connection to the MLflow store: a SQLite file in the repository, or the store at MLFLOW_TRACKING_URI."""

import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows import addresses
from flows.addresses import without_password
from flows.known_secrets import safe_line
from flows.mlflow_store.store_errors import store_error, store_exceptions
from flows.workspace.file_lock import file_lock
from tasks.errors import InputError, RunError, TrackingLost

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "undrift"
DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"

_PATIENCE = 180.0
"""Most seconds to wait for another process that creates the database."""
_HTTP_PATIENCE = 30.0
"""Most seconds that a server can take to answer."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Store:
    """A tracking store that answers.

    Attributes:
        client: MLflow's client of the store; any thread can use it.
        uri: the store's address without a password. For the repository's own file, it is relative to the repository.
        experiment_id: the id of the experiment `undrift` in the store.
    """

    client: "MlflowClient"
    uri: str
    experiment_id: str


def quiet_mlflow() -> None:
    """Turns off MLflow's telemetry and messages, and bounds its retries. Call it before MLflow is imported."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # It logs a database's error with statement and traceback, although the error is raised as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def store_folder(folder: Path) -> Path:
    """Returns the folder that holds the store: the repository if `folder` is a private workspace, otherwise `folder`.

    Private workspaces are `.runs/<id>` (flow runs) and `.dvc/tmp/exps/<id>` (`dvc exp run --temp` and `--queue`). They
    are deleted at some time, and a store inside would be deleted with them.
    """
    folder = folder.absolute()  # not resolved: .runs can be a link to a shared folder
    for parent in folder.parents:
        below = folder.relative_to(parent).parts
        if below[0] == ".runs" or below[:3] == (".dvc", "tmp", "exps"):
            return parent
    return folder


def connect(folder: Path, experiment: str = EXPERIMENT) -> Store:
    """Returns the store for runs of the workspace `folder`. Creates the database and the experiment if necessary.

    Also sets MLflow's tracking URI for the whole process, because MLflow's model functions use only that.

    Raises:
        TrackingLost: the store does not answer, has another MLflow version, or is locked by another process.
        InputError: MLFLOW_TRACKING_URI is no address of a store, or the store refuses the password.
        RunError: the store's experiment was deleted.
    """
    quiet_mlflow()
    import mlflow

    home = store_folder(folder)
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if address:
        check_mlflow_address(address)
    uri = address or f"sqlite:///{home / DATABASE}"
    shown = without_password(address) if address else f"sqlite:///{DATABASE}"
    try:
        with _ready(uri):
            _reach(uri)
            mlflow.set_tracking_uri(uri)
            if not address:
                # MLflow has set this variable. The next call would take the value as the user's.
                os.environ.pop("MLFLOW_TRACKING_URI", None)
            client = mlflow.MlflowClient(uri)
            experiment_id = _experiment(client, experiment, home, uri)
    except store_exceptions() as exc:
        raise store_error(shown, exc, InputError) from exc
    return Store(client, shown, experiment_id)


def check_mlflow_address(address: str) -> None:
    """Raises InputError if `address`, the value of MLFLOW_TRACKING_URI, cannot be read as an address."""
    addresses.check_readable("MLFLOW_TRACKING_URI", address, "http://127.0.0.1:5000 or sqlite:///mlflow.db")


def _experiment(client: "MlflowClient", name: str, home: Path, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, _artifacts(home, name, uri))
        except MlflowException:  # another process was faster
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise RunError(
            f"MLflow's experiment {name} was deleted: restore it with `mlflow experiments restore -x "
            f"{experiment.experiment_id}`, or remove it for good with `mlflow gc`"
        )
    if experiment.artifact_location.startswith("mlflow-artifacts:") and not _is_server(uri):
        raise InputError(
            f"MLflow's experiment {name} at {without_password(uri)} stores its files on an MLflow "
            "server: set MLFLOW_TRACKING_URI to the address of that server"
        )
    return str(experiment.experiment_id)


def _is_server(uri: str) -> bool:
    return uri.startswith(("http:", "https:", "databricks"))


def _artifacts(home: Path, name: str, uri: str) -> str | None:
    """Returns the folder for the files of runs, the same as `mlflow server` uses; None if a server decides."""
    return None if _is_server(uri) else (home / ARTIFACTS / name).as_uri()


def _reach(uri: str) -> None:
    """Raises an error if the database or server does not answer now. MLflow itself would try for minutes."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    if uri.startswith(("http:", "https:")):
        knock(uri, _HTTP_PATIENCE)
    if re.match(r"(sqlite|postgresql|mysql|mssql)\b", uri):
        create_engine(uri, poolclass=NullPool).connect().close()


def knock(uri: str, seconds: float) -> None:
    """Raises OSError if no MLflow server answers at `uri` within `seconds`. Sends no password."""
    import httpx

    try:
        httpx.get(f"{without_password(uri).rstrip('/')}/health", timeout=seconds, verify=False)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise OSError(f"it does not answer: {safe_line(exc)}") from exc


@contextmanager
def _ready(uri: str) -> Iterator[None]:
    """Holds a lock while a SQLite store is opened, and creates its database if it is missing.

    MLflow's migrations of a new database take seconds. If two processes begin them at the same time, one fails. A new
    database is created in a temporary folder and then moved, so a killed process leaves no half-migrated database.
    """
    database = _database(uri)
    if database is None:
        yield
        return
    with file_lock(database.with_name(f"{database.name}.lock"), _PATIENCE) as is_held:
        if not is_held:
            raise TrackingLost(f"{database}: another process has locked it for {_PATIENCE:.0f} s")
        if not database.exists():
            _log.info("%s: creating MLflow's database", database.name)
            _create(database)
        yield


def _create(database: Path) -> None:
    import mlflow

    with tempfile.TemporaryDirectory(prefix=f"{database.name}.", dir=database.parent) as holder:
        fresh = Path(holder, database.name)
        mlflow.MlflowClient(f"sqlite:///{fresh}").search_experiments(max_results=1)
        os.replace(fresh, database)


def _database(uri: str) -> Path | None:
    if not uri.startswith("sqlite:"):
        return None
    from sqlalchemy import make_url

    name = make_url(uri).database
    return Path(name) if name and name != ":memory:" else None
