"""Checks that a Dask scheduler with workers answers at an address, and shows the address without secrets."""

import asyncio
from collections.abc import Iterable
from typing import Any

from flows import addresses, known_secrets
from flows.comparing.grid import Cell
from flows.known_secrets import safe_line
from flows.serving import reachability
from flows.serving.temporary_server import is_temporary
from tasks.errors import InputError, SettingsError

_CONNECT = 10.0
"""Seconds to connect to a Dask scheduler."""
_DASK_SCHEMES = ("tcp", "tls")
"""Dask's other schemes need Dask's configuration or more packages, and ignore a time limit."""


def check_dask(address: str) -> None:
    """Checks that a Dask cluster answers.

    Raises:
        InputError: (1) no scheduler answers there within 10 s, (2) it has no worker, or (3) a worker cannot reach the
            Prefect server.
    """
    from distributed.comm.addressing import get_address_host, parse_address, parse_host_port

    known_secrets.IN_USE.remember_addresses(address if "://" in address else f"tcp://{address}")
    shown = shown_dask(address)
    wrong = f"a Dask scheduler's address is like tcp://127.0.0.1:8786, got {shown!r}"
    try:
        scheme, place = parse_address(address)
        parse_host_port(place)
    except Exception as exc:  # Dask's parser has no error class of its own
        raise InputError(f"{wrong}: {safe_line(exc)}") from exc
    if scheme not in _DASK_SCHEMES:
        raise InputError(f"{wrong}: undrift reaches Dask by {' or '.join(_DASK_SCHEMES)}")
    try:
        workers = asyncio.run(asyncio.wait_for(_workers(address), _CONNECT + 5))
    except Exception as exc:  # a wrong address, certificates, or a server that is no scheduler
        raise InputError(f"no Dask scheduler answers at {shown}: {safe_line(exc)}") from exc
    if not workers:
        raise InputError(f"the Dask scheduler at {shown} has no worker: start one with `dask worker {shown}`")
    elsewhere = sorted(set(map(get_address_host, workers)) - _own_addresses())
    if elsewhere and is_temporary(reachability.prefect_address()):
        raise InputError(
            f"the Dask workers on {', '.join(elsewhere)} cannot reach this command's temporary Prefect server: set "
            "PREFECT_API_URL to a server that they reach too"
        )


def check_runtimes(cells: Iterable[Cell]) -> None:
    """Checks that no cell uses a Dask cluster itself; call it if a Dask cluster runs the cells.

    Raises:
        SettingsError: a cell does: it would wait for workers that are busy with cells.
    """
    for cell in cells:
        if cell.settings.federate.runtime.kind == "dask":
            raise SettingsError(
                "federate.runtime.kind must be in_process with --dask, which runs whole cells on the workers, got "
                "dask: leave out --dask, and the workers compute the clients of each cell"
            )


async def _workers(address: str) -> Any:
    """Returns a scheduler's workers. Uses no dask Client: if it cannot connect, it delays the end of the process."""
    from distributed import Security
    from distributed.core import rpc

    arguments = Security().get_connection_args("client")  # type: ignore[no-untyped-call]
    async with rpc(address, connection_args=arguments, timeout=_CONNECT) as scheduler:  # type: ignore[no-untyped-call]
        return (await scheduler.identity())["workers"]


def shown_dask(address: str) -> str:
    """Returns the address of a scheduler as it can be shown. Without a scheme, Dask assumes `tcp://`."""
    if "://" in address:
        return addresses.without_password(address)
    return addresses.without_password(f"tcp://{address}").removeprefix("tcp://")


def _own_addresses() -> set[str]:
    import psutil

    return {own.address for interface in psutil.net_if_addrs().values() for own in interface} | {"localhost"}
