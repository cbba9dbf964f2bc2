"""What a comparison tells the workers of a Dask cluster: the address of its Prefect server.

A cell knows it by what Prefect sends along with each task; the threads of the worker's process that send logs and
events know only the process's own settings. Without an address there, Prefect would start a temporary server in every
worker, which would outlive the comparison, and the task runs would be in none of the right one.
"""

import os
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from distributed import Client, Worker
from distributed.diagnostics.plugin import WorkerPlugin
from prefect.settings import get_current_settings

_NAME = "undrift-prefect-server"
_TOLD = ("PREFECT_API_", "PREFECT_UI_URL")
_PATIENCE = 10.0
"""Seconds to send what waits for a server: that of a comparison which was killed answers no more."""


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
    """Has all workers, also those that join later, use this process's Prefect server in the block."""
    settings = get_current_settings().to_environment_variables(exclude_unset=True, include_secrets=True)
    environment = {name: value for name, value in settings.items() if name.startswith(_TOLD)}
    client.register_plugin(_Server(environment))
    try:
        yield
    finally:
        client.unregister_worker_plugin(_NAME)  # type: ignore[no-untyped-call]


async def _use(environment: Mapping[str, str | None]) -> None:
    from prefect.context import refresh_global_settings_context
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    # They keep to the server that they began with.
    for service in (EventsWorker, APILogWorker):
        await cast(Awaitable[Any], service.drain_all(timeout=_PATIENCE, at_exit=False))
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    refresh_global_settings_context()
