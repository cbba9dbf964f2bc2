"""Kills at any moment, two starts in one folder, damaged checkpoints: the run ends with the bits of a quiet run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from tasks.outputs import OUTPUTS
from tasks.settings import STEPS

ROOT = Path(__file__).parents[1]
KILLS = 30
SETTINGS = {
    # SCAFFOLD and momentum keep vectors between rounds, of the clients and of the server.
    "federate.client.kind": "scaffold",
    "federate.server_optimizer.kind": "momentum",
    "federate.sampling.kind": "uniform",
    "federate.rounds": 150,
    "federate.checkpoint_every": 7,
    "prune.rounds": 60,
    "prune.end_round": 50,
    "diagnose.budget": 1.0,
}


def params(folder: Path) -> None:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, value in SETTINGS.items():
        *sections, last = name.split(".")
        section = raw
        for part in sections:
            section = section[part]
        section[last] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))


def start(folder: Path, step: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tasks", step],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def results(folder: Path) -> dict[str, bytes]:
    paths = [folder / name for step in STEPS for name in OUTPUTS[step]]
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def left_over(folder: Path) -> list[str]:
    """Returns the half-written files and folders."""
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob(".*")
        if path.name not in (".undrift.lock",) and "checkpoints" not in path.parts
    ]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], dict[str, float]]:
    """Returns the results of an undisturbed run, and the seconds of each step."""
    folder, seconds = tmp_path_factory.mktemp("quiet"), {}
    params(folder)
    for step in STEPS:
        begun = time.monotonic()
        process = start(folder, step)
        assert process.wait() == 0, process.communicate()[1]
        process.communicate()
        seconds[step] = time.monotonic() - begun
    return results(folder), seconds


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_run_that_is_killed_thirty_times_ends_with_the_same_bits(
    seed: int, quiet: tuple[dict[str, bytes], dict[str, float]], tmp_path: Path
) -> None:
    """Each step is killed at random moments. Every third time it is started twice at once, and both are killed."""
    expected, seconds = quiet
    rng = random.Random(seed)
    # Most kills are in the steps that go on from a checkpoint.
    plan = rng.sample([step for step in STEPS for _ in range(16 if step in ("federate", "prune") else 4)], KILLS)
    params(tmp_path)
    kills = 0
    for step in STEPS:
        for _ in range(plan.count(step)):
            doubled = kills % 3 == 0
            running = [start(tmp_path, step) for _ in range(2 if doubled else 1)]
            # Two simultaneous imports of TensorFlow take twice as long.
            time.sleep(rng.uniform(0.3, 1.1) * seconds[step] * len(running))
            for process in running:
                process.kill()
            ended = [(process.wait(), process.communicate()[1]) for process in running]
            assert all(status in (0, 2, -signal.SIGKILL) for status, _ in ended), ended
            for status, said in ended:
                if status == 2:
                    assert len(said.splitlines()) == 1, said
                    assert "runs in this folder" in said
            kills += 1
        process = start(tmp_path, step)
        assert process.wait() == 0, process.communicate()[1]
        process.communicate()
    assert kills == KILLS
    assert results(tmp_path) == expected
    assert left_over(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_kill_of_dvc_repro_ends_its_step_and_the_next_one_goes_on(
    sent: signal.Signals, copy_repository: Callable[..., Path], shell: dict[str, str], tmp_path: Path
) -> None:
    folders = [copy_repository(tmp_path / name, {**SETTINGS, "prune.end_round": 50}) for name in ("whole", "killed")]
    whole, killed = folders
    repro = [sys.executable, "-m", "dvc", "repro", "federate"]
    subprocess.run(repro, cwd=whole, env=shell, check=True, capture_output=True)
    process = subprocess.Popen(repro, cwd=killed, env=shell, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = killed / "models/checkpoints/federate/log.jsonl"
    end = time.monotonic() + 120
    while not (log.is_file() and len(log.read_text().splitlines()) > 20) and time.monotonic() < end:
        time.sleep(0.01)
    steps = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(sent)
    process.wait()
    psutil.wait_procs(steps, timeout=10)
    assert [step for step in steps if step.is_running()] == []
    again = subprocess.run(repro, cwd=killed, env=shell, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "goes on after round" in again.stderr
    for name in ("models/global.h5", "reports/federate/rounds.csv", "reports/federate/clients.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_damaged_log_or_checkpoint_of_a_killed_run_ends_with_the_same_bits(
    quiet: tuple[dict[str, bytes], dict[str, float]], tmp_path: Path
) -> None:
    params(tmp_path)
    for step in ("partition", "preprocess"):
        assert start(tmp_path, step).wait() == 0
    folder = tmp_path / "models/checkpoints/federate"

    def cut_log() -> None:
        lines = (folder / "log.jsonl").read_text().splitlines(keepends=True)
        (folder / "log.jsonl").write_text("".join(lines[:-3]))

    def double_lines() -> None:
        lines = (folder / "log.jsonl").read_text().splitlines(keepends=True)
        (folder / "log.jsonl").write_text("".join([*lines[:10], *lines]))

    def stray() -> None:
        shutil.copy(sorted(folder.glob("round_*.npz"))[-1], folder / "round_00099.npz")

    def cut_checkpoint() -> None:
        last = sorted(folder.glob("round_*.npz"))[-1]
        last.write_bytes(last.read_bytes()[:-100])

    for number, damage in enumerate((cut_checkpoint, stray, cut_log, double_lines), start=1):
        process = start(tmp_path, "federate")
        end = time.monotonic() + 60
        while not (folder / f"round_{21 * number:05}.npz").exists() and time.monotonic() < end:
            time.sleep(0.002)
        process.kill()
        process.communicate()
        damage()
    process = start(tmp_path, "federate")
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert "a checkpoint is not used" in said
    for name in OUTPUTS["federate"][:3]:
        assert (tmp_path / name).read_bytes() == quiet[0][name]
