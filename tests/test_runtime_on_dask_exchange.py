"""tasks/runtime/on_dask/exchange.py: what a worker has written into the shared folder arrives, and nothing stays."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tasks.runtime.on_dask.exchange import Exchange, exchange, prove, written

LARGE = {"sum": np.arange(400_000, dtype=np.float32), "rest": [np.ones(3), np.arange(7, dtype=np.int8), "text", None]}


def same(found):
    assert found["sum"].dtype == np.float32
    assert (found["sum"] == LARGE["sum"]).all()
    assert (found["rest"][0] == 1).all()
    assert found["rest"][1].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert found["rest"][2:] == ["text", None]


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_large_arrays_arrive_as_a_file_and_are_the_host_s_own(tmp_path):
    with exchange(tmp_path) as host:
        before = files(tmp_path)
        answer = written(LARGE, host.folder)
        assert len(answer) < 2_000  # the arrays have 1.6 MB
        assert len(files(tmp_path)) == len(before) + 1
        found = host.loaded(answer)
        assert files(tmp_path) == before
        same(found)
        assert all(array.ctypes.data % 64 == 0 for array in (found["sum"], *found["rest"][:2]))
        found["sum"] += 1  # it can be changed, as an array that came over the connection can
    assert found["sum"][-1] == 400_000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["", "/nowhere/at/all"])
def test_without_a_folder_that_can_be_written_to_all_is_in_the_answer(folder):
    same(Exchange(None).loaded(written(LARGE, folder)))


def test_small_answers_make_no_file(tmp_path):
    small = np.arange(1000.0)
    with exchange(tmp_path) as host:
        before = files(tmp_path)
        answer = written(small, host.folder)
        assert files(tmp_path) == before
        assert (host.loaded(answer) == small).all()


def test_a_file_that_did_not_come_is_an_error_of_the_system(tmp_path):
    with exchange(tmp_path) as host:
        answer = written(LARGE, host.folder)
        host.loaded(answer)
        with pytest.raises(FileNotFoundError):
            host.loaded(answer)


def test_a_worker_shares_the_folder_only_if_its_file_comes_into_it(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with exchange(tmp_path / "here") as host, exchange(tmp_path / "elsewhere") as other:
        assert host.is_shared(prove(host.folder))
        before = files(tmp_path)
        assert not host.is_shared(prove(other.folder))  # as on a machine where this path is another folder
        assert not host.is_shared(prove(str(tmp_path / "nowhere")))
        assert not host.is_shared("")
        assert len(files(tmp_path)) == len(before) + 1  # that of the other folder, which goes with it
    assert files(tmp_path) == []
    assert not Exchange(None).is_shared(prove(""))


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_live_one_stays(tmp_path):
    code = "import os\nfrom pathlib import Path\nfrom tasks.runtime.on_dask.exchange import exchange\n"
    code += f"with exchange(Path({str(tmp_path)!r})):\n    os.kill(os.getpid(), 9)\n"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    (killed,) = tmp_path.iterdir()
    on_another_machine = tmp_path / killed.name.replace(socket.gethostname(), "another-host")
    on_another_machine.mkdir()
    with exchange(tmp_path) as first:
        assert not killed.exists()
        with exchange(tmp_path):
            assert os.path.isdir(first.folder)
    assert list(tmp_path.iterdir()) == [on_another_machine]
