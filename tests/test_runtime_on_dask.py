"""federate.runtime.kind dask: a real scheduler and workers over TLS give the bits of one process."""

import logging
import os
import shutil
import signal
import threading
import time

import pytest
from dask_cluster import ROOT, cluster, wait_for

from tasks.diagnose.replay.change import Change
from tasks.diagnose.replay.engine import replayer
from tasks.diagnose.replay.surgery import labels_dealt_evenly
from tasks.errors import RunError, SettingsError
from tasks.federate import federate
from tasks.files import read_rows
from tasks.prune import prune
from tasks.runtime.on_dask.exchange import Exchange
from tests.shards import shard_of

pytestmark = pytest.mark.slow

OUTPUTS = ("models/global.h5", "reports/federate/rounds.csv", "reports/federate/clients.csv")
BASE = {
    "federate.model": "mlp",
    "federate.rounds": 4,
    "federate.checkpoint_every": 1,
    "federate.client.batch_size": 4,
    "federate.client.learning_rate": 0.2,
    "federate.local_work.kind": "range",
    "federate.local_work.high": 3,
    "preprocess.augment.brightness": 0.2,
    "prune.rounds": 2,
    "prune.begin_round": 1,
    "prune.end_round": 2,
}
SIZES = [3 + 5 * (k % 7) for k in range(29)]  # four blocks, the last one not full


@pytest.fixture(scope="module")
def clients(make_clients):
    return make_clients(sizes=SIZES)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A cluster of two workers, which no test ends."""
    with cluster(tmp_path_factory.mktemp("two")) as started:
        started.work()
        started.work()
        yield started


@pytest.fixture
def own(tmp_path):
    """A cluster without workers, for one test."""
    (tmp_path / "cluster").mkdir()
    with cluster(tmp_path / "cluster") as started:
        yield started


@pytest.fixture
def on_dask(settings_of):
    """(cluster, changes) -> the settings of a run there."""

    def on(started, changes=None, deadline=60.0):
        where = {"kind": "dask", "address": started.address, "deadline": deadline}
        return settings_of({**BASE, **(changes or {}), **{f"federate.runtime.{k}": v for k, v in where.items()}})

    return on


@pytest.fixture(scope="module")
def in_process(clients, settings_of, tmp_path_factory):
    """The outputs of the run in one process."""
    folder = clients.write(tmp_path_factory.mktemp("alone"))
    federate(settings_of(BASE), folder)
    return outputs(folder)


def outputs(folder):
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


KINDS = {
    "mean": {},
    "median": {"federate.aggregator.kind": "median"},
    "krum": {"federate.aggregator.kind": "krum", "federate.aggregator.num_faulty": 2},
    "clipped": {"federate.aggregator.kind": "clipped_mean", "federate.aggregator.clipping": "adaptive"},
    "compressed": {"federate.aggregator.kind": "compressed_mean"},
    "scaffold": {"federate.client.kind": "scaffold", "federate.sampling.kind": "uniform"},
    "mimelite": {"federate.client.kind": "mimelite", "federate.client.momentum": 0.5},
    "adam": {"federate.server_optimizer.kind": "adam"},
    "power": {"federate.sampling.kind": "power_of_choice", "federate.sampling.candidates": 20},
    "faults": {"federate.faults.kind": "noisy_features", "federate.faults.clients": ["03", "11"]},
    "width": {"federate.width": {"01": 0.5, "20": 0.5}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_give_the_bits_of_one_process(kind, two, clients, settings_of, on_dask, tmp_path):
    here, there = clients.write(tmp_path / "here"), clients.write(tmp_path / "there")
    changes = {**KINDS[kind], "federate.rounds": 3}
    federate(settings_of({**BASE, **changes}), here)
    federate(on_dask(two, changes), there)
    assert outputs(there) == outputs(here)


def test_large_updates_come_as_files_and_leave_none(two, make_clients, settings_of, on_dask, monkeypatch, tmp_path):
    clients = make_clients(sizes=SIZES, shape=(28, 28, 1))
    here, there = clients.write(tmp_path / "here"), clients.write(tmp_path / "there")
    loaded, lengths = Exchange.loaded, []

    def counting(exchange, answer):
        lengths.append(len(answer))
        return loaded(exchange, answer)

    monkeypatch.setattr(Exchange, "loaded", counting)
    federate(settings_of(BASE), here)
    federate(on_dask(two), there)
    assert outputs(there) == outputs(here)
    # A task has a block of 8 clients with 784 * 64 parameters and more, so 1.6 MB.
    assert len(lengths) >= 4 * 4
    assert max(lengths) < 50_000
    names = [sorted(path.name for path in (folder / "models").iterdir()) for folder in (here, there)]
    assert names[0] == names[1]


def test_pruning_runs_there_too(two, clients, settings_of, on_dask, tmp_path):
    here, there = clients.write(tmp_path / "here"), clients.write(tmp_path / "there")
    for settings, folder in ((settings_of(BASE), here), (on_dask(two), there)):
        federate(settings, folder)
        prune(settings, folder)
    for name in ("models/pruned.h5", "reports/rounds.csv", "reports/clients.csv"):
        assert (there / name).read_bytes() == (here / name).read_bytes()


def test_replays_of_a_diagnosis_run_there_also_with_changed_data(
    two, clients, settings_of, on_dask, computations, tmp_path
):
    folder = clients.write(tmp_path)
    federate(settings_of(BASE), folder)
    before = sorted(path.name for path in (folder / "models").iterdir())
    found = []
    for settings in (settings_of(BASE), on_dask(two)):
        with replayer(settings, folder, computations) as replays:
            replays.go_to(2)
            replay = replays.begin(Change("", surgery={"dealt": labels_dealt_evenly(0)}), 0)
            replays.advance(replay, 4)
            sent = replays.updates(3, ["00", "07"])
            found.append((replay.losses, [result.update.tobytes() for result in sent.values()]))
    assert found[0] == found[1]
    assert sorted(path.name for path in (folder / "models").iterdir()) == before


class Stop(Exception):
    pass


def test_a_run_begun_in_process_goes_on_there(two, clients, settings_of, on_dask, in_process, tmp_path):
    folder = clients.write(tmp_path)

    def watch(row, *_):
        if row["round"] == 2:
            raise Stop

    with pytest.raises(Stop):
        federate(settings_of(BASE), folder, watch)
    rounds = []
    federate(on_dask(two), folder, lambda row, *_: rounds.append(row["round"]))
    assert rounds == [3, 4]
    assert outputs(folder) == in_process


def test_a_client_whose_shard_no_worker_can_read_is_named(two, make_clients, settings_of, on_dask, tmp_path):
    sites = make_clients(sizes=[9, 8, 7, 6, 5])

    def broken(folder):
        clients = folder / "data/clients"
        return lambda row, *_: shard_of(clients, "02").unlink() if row["round"] == 2 else None

    said = []
    for settings, folder in ((settings_of(BASE), tmp_path / "here"), (on_dask(two), tmp_path / "there")):
        sites.write(folder)
        federate(settings, folder, broken(folder))
        said.append(outputs(folder))
    assert said[0] == said[1]
    rows = read_rows(tmp_path / "there" / OUTPUTS[2])
    failed = [(row["round"], row["client"], row["failure"]) for row in rows if row["failure"]]
    assert [(r, c) for r, c, _ in failed] == [("3", "02"), ("4", "02")]
    assert "No such file" in failed[0][2]


def test_three_workers_and_two_killed_in_a_round_give_the_same_bits(
    own, clients, on_dask, in_process, tmp_path, caplog
):
    folder = clients.write(tmp_path / "run")
    workers = [own.work() for _ in range(3)]
    caplog.set_level(logging.INFO)
    wait = threading.Event()

    def watch(row, *_):
        if row["round"] in (1, 2):
            wait.set()

    def kill():
        for worker in workers[:2]:
            wait.wait(120)
            wait.clear()
            time.sleep(0.01)
            os.kill(worker.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    federate(on_dask(own), folder, watch)
    killer.join()
    assert outputs(folder) == in_process
    assert "was lost" in caplog.text


def test_one_worker_and_another_one_after_it_was_killed(own, clients, on_dask, in_process, tmp_path):
    folder, first = clients.write(tmp_path / "run"), own.work()

    def watch(row, *_):
        if row["round"] == 2:
            os.kill(first.pid, signal.SIGKILL)
            own.work()

    federate(on_dask(own), folder, watch)
    assert outputs(folder) == in_process


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("code", "other code of the project"),
        ("kernels", "other bits in a test computation"),
        ("nothing", "it cannot run this project's code"),
    ],
)
def test_a_worker_that_would_give_other_bits_is_refused_by_name(
    change, says, own, clients, on_dask, in_process, tmp_path, caplog
):
    folder = clients.write(tmp_path / "run")
    if change == "kernels":
        own.work(environment={"ONEDNN_MAX_CPU_ISA": "SSE41", "TF_ENABLE_ONEDNN_OPTS": "1"})
    else:
        other = tmp_path / "other"
        other.mkdir()
        if change == "code":
            shutil.copytree(ROOT / "tasks", other / "tasks")
            (other / "tasks" / "errors.py").open("a").write("\n# changed\n")
        own.work(code=other)
    log = own.folder / "worker.log"
    wait_for(lambda: log.exists() and "Registered to" in log.read_text())
    address = log.read_text().rpartition("Start worker at:")[2].split()[0]
    with pytest.raises(RunError) as raised:
        federate(on_dask(own, deadline=2.0), folder)
    assert f"no worker of the Dask scheduler at {own.address} took part for 2 s (federate.runtime.deadline)" in str(
        raised.value
    )
    assert f"{address}: {says}" in str(raised.value)
    own.work()
    federate(on_dask(own), folder)
    assert outputs(folder) == in_process
    assert f"Dask worker {address} is refused: {says}" in caplog.text


def test_without_a_worker_the_run_ends_after_the_deadline_and_goes_on_later(
    own, clients, on_dask, in_process, tmp_path
):
    folder, worker = clients.write(tmp_path / "run"), own.work()
    wait_for(lambda: "Registered to" in (own.folder / "worker.log").read_text())
    began = []

    def watch(row, *_):
        if row["round"] == 2:
            began.append(time.monotonic())
            os.kill(worker.pid, signal.SIGKILL)

    with pytest.raises(RunError, match=r"took part for 3 s \(federate.runtime.deadline\)$"):
        federate(on_dask(own, deadline=3.0), folder, watch)
    assert 3 <= time.monotonic() - began[0] < 60
    own.work()
    rounds = []
    federate(on_dask(own), folder, lambda row, *_: rounds.append(row["round"]))
    assert rounds == [3, 4]
    assert outputs(folder) == in_process


def test_a_lost_scheduler_ends_the_run_in_one_line(own, clients, settings_of, on_dask, in_process, tmp_path):
    folder = clients.write(tmp_path / "run")
    own.work()

    def watch(row, *_):
        if row["round"] == 2:
            os.kill(own.scheduler.pid, signal.SIGKILL)

    with pytest.raises(RunError, match=f"^the Dask scheduler at {own.address} does not answer any more: "):
        federate(on_dask(own), folder, watch)
    rounds = []
    federate(settings_of(BASE), folder, lambda row, *_: rounds.append(row["round"]))
    assert rounds == [3, 4]
    assert outputs(folder) == in_process


def test_an_address_without_a_scheduler_is_refused(clients, settings_of, tmp_path):
    changes = {"federate.runtime.kind": "dask", "federate.runtime.address": "tcp://127.0.0.1:1"}
    said = r"^federate.runtime.address must be the address of a running Dask scheduler, got tcp://127.0.0.1:1: "
    with pytest.raises(SettingsError, match=said):
        federate(settings_of({**BASE, **changes}), clients.write(tmp_path))
