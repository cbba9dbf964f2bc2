"""Kills workers and schedulers of a Dask cluster in the middle of rounds: the bits must stay those of one process.

    python tests/benchmarks/dask_kills.py --kills 20

Scheduler and workers run on 127.0.0.1, over TLS. Every fourth kill is of the scheduler: it ends the run with one line,
and the same run then goes on from its checkpoint on a new cluster. All others are of a worker: the run goes on, and a
new worker joins. There are two workers, and three after every other kill. Exit status 1: the bits differ.

So that a new worker need not import TensorFlow first, it is a copy (`fork`) of a process that has imported it.
"""

import argparse
import asyncio
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tasks.command import quiet
from tests.dask_cluster import ROOT, Cluster, cluster
from tests.shards import write_sites

ROUNDS, CLIENTS, EXAMPLES, SHAPE, CLASSES = 60, 40, 60, (12, 12, 1), 5
OUTPUTS = ("models/global.h5", "reports/federate/rounds.csv", "reports/federate/clients.csv")


def main() -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="number of kills; default: %(default)s")
    parser.add_argument("--nursery", nargs=2, metavar=("ADDRESS", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.nursery:
        return _fork_workers(*options.nursery)
    kills = options.kills
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    quiet()
    logging.getLogger("tasks.federate.progress").setLevel(logging.WARNING)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as holder:
        expected = _run(_written(Path(holder, "expected")), {})
        done = 0
        for run in range(kills):
            folder = _written(Path(holder, f"run-{run}"))
            ended = 0
            while True:
                chaos = _Chaos(done, kills, rng, Path(holder, f"cluster-{run}-{ended}"))
                found = chaos.run(folder)
                done, ended = chaos.done, ended + 1
                if found is not None:
                    break
            same = found == expected
            print(f"run {run + 1}: {done} kills so far, {ended - 1} of schedulers; the same bits: {same}", flush=True)
            if not same:
                return 1
            if done >= kills:
                return 0
    return 1


class _Chaos:
    """One cluster, whose processes are killed while it runs."""

    def __init__(self, done: int, kills: int, rng: np.random.Generator, folder: Path) -> None:
        self.done, self._kills, self._rng, self._folder = done, kills, rng, folder
        self._round = threading.Event()
        self._over = threading.Event()

    def run(self, folder: Path) -> dict[str, bytes] | None:
        """Runs, or goes on with, the run in `folder`; returns its outputs, or None if the scheduler was killed."""
        from tasks.errors import RunError

        self._folder.mkdir()
        with cluster(self._folder) as started, _Nursery(started) as nursery:
            killer = threading.Thread(target=self._kill, args=(started, nursery))
            killer.start()
            try:
                where = {"kind": "dask", "address": started.address}
                return _run(folder, where, lambda *_: self._round.set())
            except RunError as exc:
                print(f"ended: {exc}", flush=True)
                if "does not answer any more" not in str(exc):
                    raise
                return None
            finally:
                self._over.set()
                killer.join()

    def _kill(self, started: Cluster, nursery: "_Nursery") -> None:
        workers = [nursery.work(), nursery.work()]
        while self.done < self._kills and not self._over.is_set():
            self._round.clear()
            if not self._round.wait(1):
                continue
            time.sleep(float(self._rng.uniform(0, 1)))
            if self._over.is_set():
                return
            self.done += 1
            if self.done % 4 == 0:
                print(f"kill {self.done}: the scheduler", flush=True)
                os.kill(started.scheduler.pid, signal.SIGKILL)
                return
            victim = workers.pop(int(self._rng.integers(len(workers))))
            print(f"kill {self.done}: worker {victim}, {len(workers)} left", flush=True)
            os.kill(victim, signal.SIGKILL)
            workers += [nursery.work() for _ in range(3 - self.done % 2 - len(workers))]


class _Nursery:
    """A process that has imported what a worker needs, and copies itself."""

    def __init__(self, started: Cluster) -> None:
        command = [sys.executable, __file__, "--nursery", started.address, str(started.folder)]
        environment = {**os.environ, **started.config, "PYTHONPATH": str(ROOT)}
        with (started.folder / "workers.log").open("w") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._workers: list[int] = []

    def __enter__(self) -> "_Nursery":
        return self

    def __exit__(self, *raised: object) -> None:
        for worker in self._workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def work(self) -> int:
        """Starts a worker with one thread; returns its process's id."""
        self._process.stdin.write("work\n")
        self._process.stdin.flush()
        self._workers.append(int(self._process.stdout.readline()))
        return self._workers[-1]


def _fork_workers(address: str, folder: str) -> int:
    """Starts a worker for each line of stdin, and prints its process's id."""
    from distributed import Worker

    from tasks.runtime.on_dask import machine, remote

    del machine, remote
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a worker

    async def work() -> None:
        async with Worker(address, nthreads=1, local_directory=folder, host="tls://127.0.0.1", dashboard=False) as one:
            await one.finished()

    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(work())
            os._exit(0)
        print(child, flush=True)
    return 0


def _written(folder: Path) -> Path:
    from tasks.clients import TEST
    from tasks.files import write_json

    rng = np.random.default_rng(1)
    directions = rng.normal(size=(int(np.prod(SHAPE)), CLASSES))
    sites = {}
    for client in [*(f"{k:02}" for k in range(CLIENTS)), TEST]:
        x = rng.random((EXAMPLES, *SHAPE), dtype=np.float32)
        scores = (x.reshape(EXAMPLES, -1) - 0.5) @ directions + rng.gumbel(size=(EXAMPLES, CLASSES))
        sites[client] = x, scores.argmax(1).astype(np.int32)
    write_sites(folder / "data" / "clients", sites)
    described = {
        "input_shape": list(SHAPE),
        "num_classes": CLASSES,
        "clients": dict.fromkeys(sorted(set(sites) - {TEST}), EXAMPLES),
        "classes": [f"class {c}" for c in range(CLASSES)],
        "images": True,
        "normalize": "none",
        "statistics": {"by_client": {site: {"mean": [0.0], "sd": [1.0]} for site in sites}},
    }
    write_json(folder / "data" / "clients" / "preprocess.json", described)
    return folder


def _run(folder: Path, runtime: dict[str, object], watch: object = lambda *_: None) -> dict[str, bytes]:
    from tasks.federate import federate
    from tasks.settings import parse

    client = {"batch_size": 10, "learning_rate": 0.05}
    settings = {"model": "mlp", "rounds": ROUNDS, "checkpoint_every": 1, "client": client, "runtime": runtime}
    federate(parse({"federate": settings}), folder, watch)
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


if __name__ == "__main__":
    sys.exit(main())
