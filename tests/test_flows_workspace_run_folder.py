"""flows/workspace/run_folder.py with real DVC: a run takes files from the repository and never changes them there."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.workspace.dvc_hashes import dvc_hash
from flows.workspace.run_folder import Workspace
from tasks.partition import partition
from tasks.settings import load


@pytest.fixture(scope="module")
def repository(copy_repository: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose workspaces hold hard links into the cache. A first run has finished its first step there."""
    folder = copy_repository(tmp_path_factory.mktemp("repository"))
    with (folder / ".dvc/config").open("a") as config:
        config.write("[cache]\n    type = hardlink,copy\n")
    first = open_workspace(folder, "first")
    run_partition(first)
    first.commit("partition")
    return folder


def open_workspace(repository: Path, name: str) -> Workspace:
    return Workspace.open(repository, name, (repository / "params.yaml").read_text(), "tasks/datasets")


def run_partition(workspace: Workspace) -> None:
    partition(load(workspace.folder / "params.yaml"), workspace.folder)


def cache_of(repository: Path) -> dict[str, Path]:
    return {path.parent.name + path.name: path for path in (repository / ".dvc/cache/files/md5").glob("*/*")}


def test_another_attempt_runs_the_code_of_now(repository: Path) -> None:
    changed, removed = repository / "tasks/skew.py", repository / "flows/steps.py"
    before = {path: path.read_bytes() for path in (changed, removed)}
    folder = open_workspace(repository, "again").folder
    assert (folder / "tasks/skew.py").read_bytes() == before[changed]
    try:
        changed.write_bytes(before[changed] + b"# edited between two attempts\n")
        removed.unlink()
        assert open_workspace(repository, "again").folder == folder
        assert (folder / "tasks/skew.py").read_bytes() == changed.read_bytes()
        assert not (folder / "flows/steps.py").exists()
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def test_restored_outputs_are_links_if_the_repository_says_so(repository: Path) -> None:
    second = open_workspace(repository, "second")
    assert second.restore("partition")
    path = second.folder / "data/partition/clients_000.npz"
    assert path.samefile(cache_of(repository)[dvc_hash(path)])


def test_a_step_that_runs_over_links_leaves_the_cache_as_it_was(repository: Path) -> None:
    third = open_workspace(repository, "third")
    assert third.restore("partition")
    params = third.folder / "params.yaml"
    params.write_text(params.read_text().replace("seed: 0", "seed: 1", 1))
    before = (third.folder / "data/partition/clients_000.npz").read_bytes()
    run_partition(third)
    assert (third.folder / "data/partition/clients_000.npz").read_bytes() != before
    for name, path in cache_of(repository).items():
        assert dvc_hash(path) == name.removesuffix(".dir")


def damage(path: Path) -> None:
    """Flips a bit in the middle of the file, like a bad disk: size, time and write protection stay."""
    mode, times = path.stat().st_mode, (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.chmod(0o644)
    with path.open("r+b") as opened:
        opened.write(content)
    path.chmod(mode)
    os.utime(path, ns=times)


def fresh_repository(copy_repository: Callable[..., Path], folder: Path, link: str) -> Workspace:
    """A repository in which `partition` has run once. Each test gets its own, because tests damage the cache."""
    repository = copy_repository(folder)
    with (repository / ".dvc/config").open("a") as config:
        config.write(f"[cache]\n    type = {link}\n")
    first = open_workspace(repository, "first")
    run_partition(first)
    first.commit("partition")
    return first


LINKS = ("copy", "hardlink", "symlink")


DAMAGED = ("data/partition/clients_000.npz", "reports/labels.png", "data/partition")


@pytest.mark.parametrize(
    ("link", "damaged"),
    [
        # Each link and each kind of output once; the other pairs are slow.
        pytest.param(link, damaged, marks=[pytest.mark.slow] * (LINKS.index(link) != DAMAGED.index(damaged)))
        for link in LINKS
        for damaged in DAMAGED
    ],
)
def test_a_damaged_file_of_the_cache_is_a_miss_and_is_made_anew(
    link: str, damaged: str, copy_repository: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = fresh_repository(copy_repository, tmp_path / "repository", link)
    digest = dvc_hash(first.folder / damaged)
    sound = dvc_hash(first.folder / "data/partition")
    damage(cache_of(first.repository)[digest])
    second = open_workspace(first.repository, "second")
    assert not second.restore("partition")
    # A damaged list of a folder's files can also name missing files; then DVC finds nothing to restore.
    assert damaged == "data/partition" or [record for record in caplog.messages if "is damaged" in record]
    run_partition(second)
    second.commit("partition")
    assert dvc_hash(second.folder / "data/partition") == sound
    third = open_workspace(first.repository, "third")
    assert third.restore("partition")
    assert dvc_hash(third.folder / "data/partition") == sound
    for name, path in cache_of(first.repository).items():
        assert dvc_hash(path) == name.removesuffix(".dir")


@pytest.mark.parametrize("link", ["copy", pytest.param("hardlink", marks=pytest.mark.slow), "symlink"])
def test_an_output_damaged_in_the_workspace_is_never_taken_for_done(
    link: str, copy_repository: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = fresh_repository(copy_repository, tmp_path / "repository", link)
    sound = dvc_hash(first.folder / "data/partition")
    assert first.restore("partition")  # unchanged, as a retry finds it
    damage(first.folder / "data/partition/clients_000.npz")
    taken = first.restore("partition")
    assert "data/partition is damaged" in caplog.text
    assert taken == (link == "copy")  # only a copy leaves a sound object in the cache
    if not taken:
        run_partition(first)
        first.commit("partition")
    assert dvc_hash(first.folder / "data/partition") == sound


@pytest.mark.parametrize(
    "link", [pytest.param("copy", marks=pytest.mark.slow), "hardlink", pytest.param("symlink", marks=pytest.mark.slow)]
)
def test_a_forced_run_replaces_what_is_damaged_in_the_cache(
    link: str, copy_repository: Callable[..., Path], tmp_path: Path
) -> None:
    first = fresh_repository(copy_repository, tmp_path / "repository", link)
    path = "data/partition/clients_000.npz"
    sound = dvc_hash(first.folder / path)
    damage(cache_of(first.repository)[sound])
    forced = open_workspace(first.repository, "forced")
    forced.clear("partition")
    run_partition(forced)
    forced.commit("partition")
    assert dvc_hash(forced.folder / path) == sound
    assert dvc_hash(cache_of(first.repository)[sound]) == sound


@pytest.mark.slow
def test_a_damaged_entry_of_the_run_cache_is_a_miss(copy_repository: Callable[..., Path], tmp_path: Path) -> None:
    first = fresh_repository(copy_repository, tmp_path / "repository", "copy")
    (entry,) = [path for path in (first.repository / ".dvc/cache/runs").rglob("*") if path.is_file()]
    kept = entry.read_bytes()
    for number, content in enumerate((b"", b"\xff\xfe\x00", b"- a\n- b", b"outs: 3\n", b"{")):
        entry.parent.mkdir(exist_ok=True)
        entry.write_bytes(content)
        again = open_workspace(first.repository, f"again-{number}")
        assert not again.restore("partition")
        run_partition(again)
        again.commit("partition")
        assert entry.read_bytes() == kept
