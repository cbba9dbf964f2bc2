"""The address of a comparison's Prefect server, for the workers of a Dask cluster.

Prefect sends the address to a cell with each task. But the threads of the worker's process that send logs and events
know only the settings of the process. Without an address there, Prefect would start a temporary server in every
worker: it would outlive the comparison, and the comparison's own server would get no logs and events.
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
"""Beginnings of the names of Prefect's settings that the workers get."""
_PATIENCE = 10.0
"""Seconds to send waiting logs and events: the server of a comparison that was killed does not answer."""


class _Server(WorkerPlugin):
    """Sets the server of a worker's process while the plugin is registered."""

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
    """Makes all workers, also later ones, use this process's Prefect server in the block."""
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

    # These threads use the server with which they began.
    for service in (EventsWorker, APILogWorker):
        await cast(Awaitable[Any], service.drain_all(timeout=_PATIENCE, at_exit=False))
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    refresh_global_settings_context()
