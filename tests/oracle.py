"""TFF's own C++ runtime: tests compare the numbers of our runtime with it.

It listens on every network interface without authentication and runs any graph that it gets. So it runs only while a
test compares, and it ends with the tests' process, however that process ends.
"""

import importlib.util
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import grpc  # type: ignore[import-untyped]
import tensorflow_federated as tff

from tasks.federate import loop
from tasks.runtime.taking import taken
from tasks.settings import RuntimeSettings

# Holds one end of a pipe; the tests' process holds the other. However this process ends, `read` then returns, and the
# worker is killed.
_WATCH = '"$@" </dev/null & read -r end; kill -9 $!; wait $!'
_START_SECONDS = 60.0
"""Most seconds until the worker answers."""
_CHANNEL = {
    "grpc.enable_http_proxy": 0,  # or gRPC sends the calls to 127.0.0.1 to a proxy that the environment names
    "grpc.max_receive_message_length": -1,
    "grpc.max_send_message_length": -1,
}


@contextmanager
def oracle(threads: int) -> Iterator[Any]:
    """Yields a TFF context that computes in the worker, `threads` clients at a time."""
    with _process(threads) as port, grpc.insecure_channel(f"127.0.0.1:{port}", list(_CHANNEL.items())) as channel:
        stub = tff.framework.RemoteExecutorGrpcStub(channel)

        def executor(cardinalities: Any) -> Any:
            cardinalities.setdefault(tff.CLIENTS, 0)
            remote = tff.framework.RemoteExecutor(stub)
            remote.set_cardinalities(cardinalities)
            return remote

        yield _Taking(
            tff.framework.SyncExecutionContext(
                executor_fn=tff.framework.ResourceManagingExecutorFactory(executor),
                compiler_fn=tff.backends.native.desugar_and_transform_to_native,
                transform_args=tff.tensorflow.transform_args,
                transform_result=tff.tensorflow.transform_result,
            )
        )


class _Taking(tff.framework.SyncContext):  # type: ignore[misc]
    """TFF's own context, with the clients' inputs all at once, and `take` after the whole computation."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def invoke(self, comp: Any, arg: Any) -> Any:
        take, signature = taken(), comp.type_signature
        return _each_client(take, self._inner.invoke(comp, _listed(arg, signature.parameter)), signature.result)


def _at_clients(signature: Any) -> bool:
    return isinstance(signature, tff.FederatedType) and signature.placement is tff.CLIENTS and not signature.all_equal


def _listed(value: Any, signature: Any) -> Any:
    if _at_clients(signature):
        return [*value]
    if isinstance(value, tff.structure.Struct):
        pairs = zip(tff.structure.iter_elements(value), tff.structure.iter_elements(signature), strict=True)
        return tff.structure.Struct([(name, _listed(part, of_part)) for (name, part), (_, of_part) in pairs])
    return value


def _each_client(take: Any, value: Any, signature: Any) -> Any:
    if _at_clients(signature):
        return [take(part) for part in value]
    if isinstance(value, tuple) and isinstance(signature, tff.StructType):
        pairs = zip(value, tff.structure.iter_elements(signature), strict=True)
        parts = [_each_client(take, part, of_part) for part, (_, of_part) in pairs]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


@contextmanager
def asked(threads: int = 2) -> Iterator[None]:
    """Runs the rounds of all steps in the block in the oracle, in place of our own runtime."""
    with oracle(threads) as context:

        def installed(settings: RuntimeSettings, folder: Path) -> Any:
            return tff.framework.get_context_stack().install(context)

        with mock.patch.object(loop, "runtime", installed):
            yield


@contextmanager
def _process(threads: int) -> Iterator[int]:
    """Yields the port of a worker."""
    with socket.socket() as reservation:
        # gRPC's server shares the port with this socket, which reserves it until the server starts.
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reservation.bind(("", 0))
        port = int(reservation.getsockname()[1])
        command = ["sh", "-c", _WATCH, "sh", str(_binary())]
        command += [f"--port={port}", f"--max_concurrent_computation_calls={threads}"]
        watch = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal must not end the shell before the worker
        )
        assert watch.stdin is not None
        try:
            _wait_for(port)
            yield port
        finally:
            watch.stdin.close()
            watch.wait()


def _wait_for(port: int) -> None:
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            assert time.monotonic() < until, "TFF's worker does not answer"
            time.sleep(0.01)
        else:
            return


def _binary() -> Path:
    found = importlib.util.find_spec("tensorflow_federated")
    assert found is not None
    assert found.origin is not None
    binary = Path(found.origin).parent / "data" / "worker_binary"
    assert os.access(binary, os.X_OK)
    return binary
