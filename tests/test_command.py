"""`python -m tasks`: its messages, its exit status, and the timings that it records."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tasks import command, files, lock, timings
from tasks.__main__ import PURPOSE, run_step
from tasks.errors import InputError
from tasks.npz import writing_npz
from tasks.partition.label_picture import draw_label_counts
from tasks.settings import STEPS

ROOT = Path(__file__).parents[1]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def run_program(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        return None


def workspace(folder: Path, **changes: str) -> Path:
    text = (ROOT / "params.yaml").read_text()
    for old, new in changes.items():
        assert f"{old}:" in text
        text = "\n".join(
            f"{line.split(':')[0]}: {new}" if line.strip().startswith(f"{old}:") else line for line in text.splitlines()
        )
    (folder / "params.yaml").write_text(text)
    return folder


def only_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


def test_help_lists_every_step_with_a_line() -> None:
    done = run(ROOT, "-m", "tasks", "--help")
    assert done.returncode == 0
    assert tuple(PURPOSE) == STEPS
    for step in STEPS:
        assert f"  {step:<11} {PURPOSE[step]}\n" in done.stdout


@pytest.mark.parametrize("arguments", [("--help",), ("federate",)])
def test_help_and_wrong_settings_import_nothing_heavy(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: -1\n")
    script = (
        "import sys\nfrom tasks.__main__ import main\n"
        f"try:\n    main({list(arguments)!r})\nexcept SystemExit:\n    pass\n"
        "print({'tensorflow', 'sklearn', 'pandas', 'matplotlib', 'mlflow', 'dvc'} & set(sys.modules))"
    )
    assert run(tmp_path, "-c", script).stdout.splitlines()[-1] == "set()"


def test_an_unknown_step_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "tasks", "train")
    assert (done.returncode, done.stdout) == (2, "")
    assert only_line(done.stderr).startswith("error: argument STEP: invalid choice: 'train' (choose from 'partition', ")


def test_wrong_settings_are_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    done = run(workspace(tmp_path, seed="-1"), "-m", "tasks", "partition")
    assert (done.returncode, done.stdout) == (2, "")
    assert only_line(done.stderr) == "error: seed must be >= 0, got -1"
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_missing_params_file_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "tasks", "partition")
    assert done.returncode == 2
    assert only_line(done.stderr).startswith("error: cannot read params.yaml: ")


def test_a_step_whose_input_is_missing_is_one_line(tmp_path: Path) -> None:
    done = run(workspace(tmp_path), "-m", "tasks", "preprocess")
    assert done.returncode == 2
    assert only_line(done.stderr).startswith("error: ")


def test_a_step_runs_and_its_seconds_are_recorded(tmp_path: Path) -> None:
    done = run(workspace(tmp_path), "-m", "tasks", "partition")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    only_line(done.stderr)  # the log line of the step
    assert len(files.read_json(tmp_path / "data/partition/partition.json")["clients"]) == 10
    (row,) = files.read_rows(tmp_path / timings.PATH)
    assert (row["step"], row["round"]) == ("partition", "")
    assert 0 < float(row["seconds"]) < 120


def partitioned(folder: Path) -> Path:
    assert run(workspace(folder), "-m", "tasks", "partition").returncode == 0
    return folder


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != "timings.csv")


@pytest.mark.parametrize("step", ["partition", "preprocess"])
def test_a_file_that_is_too_large_is_one_line_and_no_half_is_left(step: str, tmp_path: Path) -> None:
    partitioned(tmp_path) if step == "preprocess" else workspace(tmp_path)
    before = tree(tmp_path)
    # A client has about 140 examples of 64 values with 4 bytes each, more than the limit of 9000 bytes.
    script = "import resource, sys; from tasks.__main__ import main; "
    script += f"resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); sys.exit(main([{step!r}]))"
    done = run(tmp_path, "-B", "-c", script)
    target = "partition" if step == "partition" else "clients"
    assert (done.returncode, done.stdout) == (1, "")
    assert only_line(done.stderr) == (
        f"error: [Errno 27] File too large: 'data/{target}': allow larger files (ulimit -f) and run again"
    )
    assert sorted({*tree(tmp_path)} - {"data", "reports", lock.NAME}) == sorted(
        {*before} - {"data", "reports", lock.NAME}
    )


@pytest.mark.parametrize("step", ["partition", "preprocess"])
def test_a_full_disk_is_one_line_and_no_half_is_left(step: str, tmp_path: Path) -> None:
    workspace(tmp_path)
    (tmp_path / "disk").mkdir()
    # data/partition has 600 kB. A disk of 800 kB holds it, but not data/clients as well; a disk of 60 kB holds neither.
    size, target = (60, "partition") if step == "partition" else (800, "clients")
    script = f"""
        mount -t tmpfs -o size={size}k none disk && cp params.yaml disk && cd disk || exit 77
        if [ {step} = preprocess ]; then "$0" -B -m tasks partition 2>/dev/null || exit 78; fi
        "$0" -B -m tasks {step}
        status=$?
        if [ -d data ]; then ls -A data; fi
        exit $status
    """
    done = run_program(tmp_path, "unshare", "--map-root-user", "--mount", "sh", "-c", script, sys.executable)
    if done is None or done.returncode == 77:
        pytest.skip("this system does not let users mount a disk")
    assert done.returncode == 1, done.stderr
    assert only_line(done.stderr) == (
        f"error: [Errno 28] No space left on device: 'data/{target}': make room and run again"
    )
    assert done.stdout == ("" if step == "partition" else "partition\n")


def _file(path: Path) -> None:
    path.write_text("")


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("data", _file, "File exists: 'data': move it away"),
        ("reports", _file, "File exists: 'reports': move it away"),
        ("data", lambda path: path.symlink_to("data"), "'data': "),
        ("reports", lambda path: path.symlink_to("nowhere"), "File exists: 'reports': move it away"),
        ("reports/labels.png", lambda path: path.mkdir(parents=True), "labels.png': move away the folder"),
    ],
)
def test_what_stands_in_the_way_is_said_in_one_line(
    name: str,
    make: Any,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(workspace(tmp_path) / name)
    monkeypatch.chdir(tmp_path)
    assert command.run(lambda: run_step("partition", Path())) == 2
    assert says in only_line(capsys.readouterr().err)
    assert [path for path in tree(tmp_path) if "partition" in path] == []


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1),
        (OSError(errno.EROFS, "Read-only file system"), 1),
        (OSError(errno.EACCES, "Permission denied"), 1),
        (OSError(errno.EIO, "Input/output error"), 1),
        (OSError(errno.EMFILE, "Too many open files"), 1),
        (OSError("1 requested and 0 written"), 1),
        (OSError(), 1),
        (MemoryError(), 1),
        (MemoryError("Unable to allocate 8 TiB"), 1),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000), 2),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "a\nb"), 2),
        (OSError(errno.ENOTDIR, "Not a directory", b"\xff"), 2),
    ],
    ids=repr,
)
def test_what_the_system_refuses_is_one_line(
    raised: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def action() -> None:
        raise raised

    assert command.run(action) == status
    line = only_line(capsys.readouterr().err)
    assert line.startswith("error: ")
    assert 10 < len(line) <= 610


def test_arrays_and_pictures_say_that_the_disk_is_full() -> None:
    # NumPy and Pillow themselves raise an OSError without an errno, which does not say that the disk is full.
    full = Path("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught, writing_npz(full) as npz:
        npz.write("x", np.zeros(10_000, np.float32))
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space left") as caught:
        draw_label_counts(full, np.ones((2, 2), np.int64), ["a", "b"], ["x", "y"])
    assert caught.value.errno == errno.ENOSPC


def test_an_interpreter_without_the_packages_is_told_what_to_do(tmp_path: Path) -> None:
    done = run(ROOT, "-S", "-m", "tasks", "partition")  # -S: no site-packages
    assert done.returncode == 1
    assert only_line(done.stderr).startswith(f"error: {sys.executable} lacks ")


INTERRUPTED = """
import gc, sys, time
from pathlib import Path
from tasks import command

def callback(phase, info):
    gc.callbacks.remove(callback)
    Path("begun").touch()
    time.sleep(60)

def work():
    Path("begun").touch()
    time.sleep(60)

def collect():
    gc.callbacks.append(callback)
    gc.collect()
    time.sleep(60)

def action():
    try:
        DOING()
    finally:
        Path("cleaned").touch()

command.prepare()
sys.exit(command.run(action))
"""


@pytest.mark.parametrize("doing", ["work", "collect"])
@pytest.mark.parametrize(
    ("sent", "status", "said"), [(signal.SIGINT, 130, ["interrupted"]), (signal.SIGTERM, 143, [])], ids=["int", "term"]
)
def test_an_interrupted_command_cleans_up_and_leaves_no_traceback(
    sent: signal.Signals, status: int, said: list[str], doing: str, tmp_path: Path
) -> None:
    """`collect`: the signal arrives in a callback of the garbage collector, where Python drops exceptions."""
    (tmp_path / "long.py").write_text(INTERRUPTED.replace("DOING", doing))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "long.py"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    for _ in range(300):
        if (tmp_path / "begun").exists():
            break
        time.sleep(0.1)
    process.send_signal(sent)
    stderr = process.communicate(timeout=60)[1]
    assert (process.returncode, stderr.splitlines()) == (status, said)
    assert (tmp_path / "cleaned").exists()


def test_at_its_end_a_command_looks_for_no_cycles_among_what_it_imported() -> None:
    # atexit calls functions in reverse order, so the one registered first runs last.
    code = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count(), len(gc.get_objects()))); "
    code += "from tasks import command; print(gc.get_freeze_count(), len(gc.get_objects())); command.quiet()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    (none, before), (frozen, left) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert none == 0
    assert left < 0.05 * before < frozen


def test_what_a_command_loads_is_never_searched_for_cycles() -> None:
    # By default a search begins after 700 new objects, so 5000 objects would cause seven.
    code = "import gc; from tasks.command import loading\ngc.collect(); begun = gc.get_stats()[0]['collections']\n"
    code += "with loading():\n    made = [[] for _ in range(5000)]\n"
    code += "print(gc.get_stats()[0]['collections'] - begun, len(gc.get_objects()) < 5000 < gc.get_freeze_count())\n"
    code += "loose = [[] for _ in range(5000)]\nprint(gc.get_stats()[0]['collections'] - begun > 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["0 True", "True"]


LONG = {"rounds": "100000", "checkpoint_every": "10", "model": "logistic"}
"""Settings with which `federate` would take many minutes."""


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace ready for `federate`."""
    folder = workspace(tmp_path_factory.mktemp("divided"), **LONG)
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("prune:\n  rounds: 100000", "prune:\n  rounds: 10"))
    for step in ("partition", "preprocess"):
        assert run(folder, "-m", "tasks", step).returncode == 0
    return folder


def training(folder: Path) -> bool:
    return any((folder / "models/checkpoints/federate").glob("round_0001?.npz"))


def until(true: Callable[[], bool], seconds: float = 90.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


def holder(folder: Path) -> int:
    """Returns the id of the process that the folder's lock names."""
    return int((folder / lock.NAME).read_text().split("process ")[1].rstrip(")\n"))


def is_free(folder: Path) -> bool:
    try:
        with lock.held(folder, "test"):
            return True
    except InputError:
        return False


STARTS = {
    "directly": [sys.executable, "-m", "tasks", "federate"],
    "in a shell that waits": ["sh", "-c", f"{sys.executable} -m tasks federate; true"],
}
PARENT = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(600)"


@pytest.mark.parametrize(
    ("start", "sent"),
    [
        pytest.param("directly", signal.SIGTERM, marks=pytest.mark.slow),
        ("in a shell that waits", signal.SIGKILL),
    ],
    ids=["term", "kill"],
)
def test_a_step_ends_with_the_process_that_started_it(
    start: str, sent: signal.Signals, divided: Path, tmp_path: Path
) -> None:
    """As with `kill` of `dvc repro`. The test does not wait for the parent, because a zombie counts as ended too."""
    folder = Path(shutil.copytree(divided, tmp_path / "run"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *STARTS[start]], cwd=folder, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        assert until(lambda: training(folder))
        step = psutil.Process(holder(folder))
        parent.send_signal(sent)
        assert until(lambda: not step.is_running() or step.status() == psutil.STATUS_ZOMBIE, 10)
        assert is_free(folder)
        # All files are whole, so the next start can go on from them.
        assert list((folder / "models").glob(".*")) == []
    finally:
        parent.kill()
        parent.wait()


@pytest.mark.slow
def test_a_step_under_nohup_outlives_its_parent(divided: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(divided, tmp_path / "run"))
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, "nohup", *STARTS["directly"]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert until(lambda: training(folder))
    step = psutil.Process(holder(folder))
    try:
        parent.kill()
        parent.wait()
        time.sleep(2)
        assert step.is_running()
    finally:
        step.kill()
        assert until(lambda: is_free(folder), 10)


def test_a_second_process_in_a_folder_is_refused_and_changes_nothing(divided: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(divided, tmp_path / "run"))
    first = subprocess.Popen(
        [sys.executable, "-m", "tasks", "federate"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    try:
        assert until(lambda: training(folder))
        for step in ("federate", "partition"):
            done = run(folder, "-m", "tasks", step)
            assert (done.returncode, done.stdout) == (2, "")
            line = only_line(done.stderr)
            assert f"federate (process {first.pid}) runs in this folder" in line
            assert step in line
        assert first.poll() is None
        rounds = [json.loads(line)["round"] for line in _whole_lines(folder)]
        assert rounds == list(range(1, len(rounds) + 1))
    finally:
        first.kill()
        first.wait()
    assert is_free(folder)


def _whole_lines(folder: Path) -> list[str]:
    return (folder / "models/checkpoints/federate/log.jsonl").read_text().split("\n")[:-1]


def test_timings_that_are_damaged_are_begun_anew(tmp_path: Path) -> None:
    for content in (b"", b"\xff", b"step,round\n", b"step,round,seconds\nfederate,x,1\n"):
        (tmp_path / timings.PATH).parent.mkdir(exist_ok=True)
        (tmp_path / timings.PATH).write_bytes(content)
        timings.record(tmp_path, "federate", rounds=[0.5], first_round=3)
        assert rows(tmp_path) == [("federate", "3", 0.5)]


def rows(folder: Path) -> list[tuple[str, str, float]]:
    return [(row["step"], row["round"], float(row["seconds"])) for row in files.read_rows(folder / timings.PATH)]


def test_timings_of_a_step_replace_its_own_only(tmp_path: Path) -> None:
    timings.record(tmp_path, "partition", 1.0)
    timings.record(tmp_path, "federate", rounds=[0.5, 0.25])
    timings.record(tmp_path, "federate", 2.0)
    timings.record(tmp_path, "partition", 3.0)
    assert sorted(rows(tmp_path)) == [
        ("federate", "", 2.0),
        ("federate", "1", 0.5),
        ("federate", "2", 0.25),
        ("partition", "", 3.0),
    ]


def test_timings_before_a_resume_stay(tmp_path: Path) -> None:
    timings.record(tmp_path, "federate", rounds=[1.0, 2.0, 3.0])
    timings.record(tmp_path, "federate", rounds=[4.0], first_round=3)
    assert rows(tmp_path) == [("federate", "1", 1.0), ("federate", "2", 2.0), ("federate", "3", 4.0)]


def test_timings_of_a_shorter_run_leave_no_later_rounds(tmp_path: Path) -> None:
    timings.record(tmp_path, "federate", rounds=[1.0, 2.0, 3.0])
    timings.record(tmp_path, "federate", rounds=[4.0])
    assert rows(tmp_path) == [("federate", "1", 4.0)]


ANSWER = ("why: ", "since: round ", "remedy: -S federate.client.learning_rate=", "report: reports/diagnosis.html")


@pytest.mark.slow
def test_a_run_that_dies_explains_itself(divided: Path, tmp_path: Path) -> None:
    shutil.copytree(divided / "data", tmp_path / "data")
    text = (ROOT / "params.yaml").read_text()
    assert "    learning_rate: 0.05\n" in text
    text = text.replace("    learning_rate: 0.05\n", "    learning_rate: 3.0\n").replace(
        "  rounds: 30\n", "  rounds: 5\n"
    )
    (tmp_path / "params.yaml").write_text(text)
    done = run(tmp_path, "-m", "tasks", "federate")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    (error,) = (line for line in lines if line.startswith("error: "))
    assert error.startswith("error: round ")
    said = lines[lines.index(error) + 1 :]
    answer = [line for line in said if not line.startswith("replay from round ")]
    assert len(answer) == len(ANSWER)
    assert all(line.startswith(begin) for line, begin in zip(answer, ANSWER, strict=True)), answer
    assert "Traceback" not in done.stderr
    # The step `diagnose` says the same, although neither `prune` nor `evaluate` has run.
    written = (tmp_path / "reports/diagnosis.json").read_bytes()
    assert files.read_json(tmp_path / "reports/diagnosis.json")["question"] == "ended"
    again = run(tmp_path, "-m", "tasks", "diagnose")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "reports/diagnosis.json").read_bytes() == written
