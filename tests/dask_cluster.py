"""A Dask cluster for tests: a scheduler and workers as processes on 127.0.0.1, over TLS."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dask
import distributed.config  # noqa: F401 - its defaults come first: dask.config.set would take them away again
import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.servers import free_port

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"


def certificate(folder: Path) -> dict[str, str]:
    """Writes one self-signed certificate for scheduler, workers and client; returns Dask's configuration."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "undrift test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    config = {"DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(cert)}
    for who in ("SCHEDULER", "WORKER", "CLIENT"):
        config[f"DASK_DISTRIBUTED__COMM__TLS__{who}__CERT"] = str(cert)
        config[f"DASK_DISTRIBUTED__COMM__TLS__{who}__KEY"] = str(private)
    return config


class Cluster:
    """A scheduler, and the workers that `work` starts.

    Attributes:
        address: of the scheduler.
        config: Dask's configuration as environment variables.
    """

    def __init__(self, folder: Path, running: ExitStack) -> None:
        self.folder, self._running = folder, running
        self.config = certificate(folder)
        port = free_port()
        self.address = f"tls://{HOST}:{port}"
        self.scheduler = self._start("scheduler", "--host", self.address, "--port", str(port), "--no-dashboard")

    def work(self, code: Path = ROOT, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
        """Starts a worker with one thread, which has the project's code from the folder `code`."""
        command = ["worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", f"tls://{HOST}"]
        command += ["--local-directory", str(self.folder)]
        return self._start(*command, code=code, environment=environment or {})

    def _start(self, *command: str, code: Path = ROOT, environment: Mapping[str, str] | None = None) -> Any:
        # The log stays, for a test that fails.
        with (self.folder / f"{command[0]}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *command],
                cwd=code,
                env={**os.environ, **self.config, "PYTHONPATH": str(code), **(environment or {})},
                stdout=log,
                stderr=log,
            )
        self._running.callback(_end, process)
        return process


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Yields a scheduler without workers, which this process may use; all processes end with the block."""
    with ExitStack() as running:
        started = Cluster(folder, running)
        names = {name.removeprefix("DASK_").replace("__", ".").lower(): name for name in started.config}
        running.enter_context(dask.config.set({each: started.config[name] for each, name in names.items()}))
        wait_for(lambda: "Scheduler at" in (folder / "scheduler.log").read_text())
        yield started


def wait_for(condition: Any, seconds: float = 120) -> None:
    """Waits until `condition()` holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        everyone = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for each in everyone:
            if each.is_running():
                each.kill()
