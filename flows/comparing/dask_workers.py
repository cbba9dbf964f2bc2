"""Tells the workers of a Dask cluster which Prefect server the comparison uses.

Prefect sends the server's address to a cell with each task. But the threads that send logs and events in the worker's
process know only the settings of that process. Without an address in these settings, Prefect starts a temporary server
in every worker. It outlives the comparison, and the comparison's server gets no logs and events.
"""

import os
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from distributed import Client, Worker
from distributed.diagnostics.plugin import WorkerPlugin
from prefect.settings import get_current_settings

_NAME = "undrift-prefect-server"
_SENT = ("PREFECT_API_", "PREFECT_UI_URL")
"""The workers get the settings of Prefect whose names begin with one of these."""
_PATIENCE = 10.0
"""Most seconds to send waiting logs and events. After a kill of the comparison, its server does not answer."""


class _Server(WorkerPlugin):
    """Sets the Prefect server of a worker's process for the time that the plugin is registered."""

    name = _NAME

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment, self._before = environment, dict[str, str | None]()

    async def setup(self, worker: Worker) -> None:
        self._before = {name: os.environ.get(name) for name in self._environment}
        await _use(self._environment)

    async def teardown(self, worker: Worker) -> None:
        await _use(self._before)


@contextmanager
def server_on_workers(client: Client) -> Iterator[None]:
    """In the block, all workers use this process's Prefect server, also workers that join later."""
    settings = get_current_settings().to_environment_variables(exclude_unset=True, include_secrets=True)
    environment = {name: value for name, value in settings.items() if name.startswith(_SENT)}
    client.register_plugin(_Server(environment))
    try:
        yield
    finally:
        client.unregister_worker_plugin(_NAME)  # type: ignore[no-untyped-call]


async def _use(environment: Mapping[str, str | None]) -> None:
    from prefect.context import refresh_global_settings_context
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    # These threads keep the server that was set when they began. Ended here, they begin again with the new server.
    for service in (EventsWorker, APILogWorker):
        await cast(Awaitable[Any], service.drain_all(timeout=_PATIENCE, at_exit=False))
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    refresh_global_settings_context()
