"""A step that begins removes the outputs of an earlier run. tests/test_dvc.py tests which outputs each step has."""

import shutil
from pathlib import Path

import pytest

from tasks import outputs
from tasks.diagnose import diagnose
from tasks.errors import DataError, GuardStop, InputError, RunError
from tasks.evaluate import evaluate
from tasks.federate import federate
from tasks.files import write_json
from tasks.prune import prune

SMALL = {
    "federate.model": "logistic",
    "federate.rounds": 4,
    "prune.rounds": 2,
    "prune.end_round": 2,
}


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A workspace with outputs of `partition`, some of them links into a cache, and with files that a kill left."""
    cache, folder = tmp_path / "cache", tmp_path / "workspace"
    cache.mkdir()
    (cache / "object").write_text("kept")
    (folder / "data/partition/00").mkdir(parents=True)
    (folder / "data/partition/00/x.npy").symlink_to(cache / "object")
    (folder / "data/partition.txt").write_text("kept")
    (folder / "data/.partition.abcd_123/partition").mkdir(parents=True)
    (folder / "data/.partition.before").mkdir()
    (folder / "reports").mkdir()
    (folder / "reports/labels.png").symlink_to(cache / "object")
    return folder


OTHERS = ["data", "data/partition.txt", "reports"]


def test_in_the_block_the_earlier_outputs_are_gone_and_no_target_of_a_link(earlier: Path) -> None:
    with outputs.renewed(outputs.of("partition", earlier)):
        assert not any(path.exists() for path in outputs.of("partition", earlier))
        (earlier / "reports/labels.png").write_text("new")
    assert tree(earlier) == [*OTHERS, "reports/labels.png"]
    assert (earlier / "reports/labels.png").read_text() == "new"
    assert (earlier / "../cache/object").read_text() == "kept"


@pytest.mark.parametrize("error", [RunError("no"), OSError(28, "full"), KeyboardInterrupt(), SystemExit(143)])
def test_a_step_that_began_and_failed_leaves_none_of_them(error: BaseException, earlier: Path) -> None:
    with pytest.raises(type(error)), outputs.renewed(outputs.of("partition", earlier)):
        raise error
    assert tree(earlier) == OTHERS
    assert (earlier / "../cache/object").read_text() == "kept"


def test_wrong_input_puts_them_back(earlier: Path) -> None:
    with pytest.raises(DataError), outputs.renewed(outputs.of("partition", earlier)):
        raise DataError("no")
    assert tree(earlier) == sorted(
        [*OTHERS, "data/partition", "data/partition/00", "data/partition/00/x.npy", "reports/labels.png"]
    )
    assert (earlier / "data/partition/00/x.npy").read_text() == "kept"


def test_a_link_in_place_of_a_folder_is_removed_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/x").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/clients").symlink_to(tmp_path / "shared", target_is_directory=True)
    with outputs.renewed(outputs.of("preprocess", tmp_path)):
        pass
    assert tree(tmp_path) == ["data", "shared", "shared/x"]


def test_a_place_that_cannot_be_written_to_is_an_error_before_anything_is_moved(earlier: Path) -> None:
    """A folder in the place of a file belongs to the user, so it is not removed."""
    (earlier / "reports/labels.png").unlink()
    (earlier / "reports/labels.png").mkdir()
    (earlier / "reports/labels.png/mine").touch()
    before = tree(earlier)
    with pytest.raises(IsADirectoryError, match=r"labels\.png"), outputs.renewed(outputs.of("partition", earlier)):
        pass
    assert tree(earlier) == before
    shutil.rmtree(earlier / "reports")
    (earlier / "reports").touch()
    with pytest.raises(FileExistsError, match="reports"), outputs.renewed(outputs.of("partition", earlier)):
        pass
    assert (earlier / "data/partition/00/x.npy").read_text() == "kept"


def test_of_nothing_nothing_is_removed(tmp_path: Path) -> None:
    for step in outputs.OUTPUTS:
        with outputs.renewed(outputs.of(step, tmp_path)):
            pass
    assert tree(tmp_path) == []


@pytest.fixture(scope="module")
def once(make_clients, settings_of, tmp_path_factory):
    """A workspace in which `federate` and `prune` have run."""
    folder = make_clients().write(tmp_path_factory.mktemp("once"))
    federate(settings_of(SMALL), folder)
    prune(settings_of(SMALL), folder)
    return folder


@pytest.fixture
def finished(once, tmp_path):
    """A copy of that workspace, to be changed."""
    return shutil.copytree(once, tmp_path, dirs_exist_ok=True)


def test_run_that_the_guard_stops_leaves_no_earlier_model(finished, settings_of):
    stops = settings_of(
        {
            **SMALL,
            "federate.guard": "stop",
            "federate.faults.kind": "not_finite",
            "federate.faults.clients": ["02"],
            "federate.faults.from_round": 3,
        }
    )
    with pytest.raises(GuardStop):
        federate(stops, finished)
    assert not (finished / "models/global.h5").exists()
    # The log has the rounds of the stopped run, for a diagnosis, and no round of the earlier run.
    assert len((finished / "reports/rounds.csv").read_text().splitlines()) == 1 + 3
    with pytest.raises(DataError, match="run the step federate"):
        prune(stops, finished)


def test_wrong_settings_and_missing_input_leave_the_earlier_run_whole(finished, settings_of):
    made = [name for step in ("federate", "prune") for name in outputs.OUTPUTS[step]]
    before = {name: (finished / name).read_bytes() for name in made}
    wrong = (
        {"federate.exclude": ["nobody"]},
        {"federate.aggregator.kind": "krum", "federate.aggregator.num_faulty": 3},  # of 4 clients
        {"federate.model": "nowhere:model"},
    )
    for changes in wrong:
        with pytest.raises(InputError):
            federate(settings_of({**SMALL, **changes}), finished)
    assert {name: (finished / name).read_bytes() for name in made} == before


def test_a_log_or_a_model_of_another_run_is_not_gone_on_with(finished, settings_of, make_clients):
    """Other clients, sizes or rounds: DVC would run `federate` again, but a user who runs steps by hand may not."""
    with pytest.raises(DataError, match=r"must have the 3 rounds of federate\.rounds, got 4: run the step"):
        prune(settings_of({**SMALL, "federate.rounds": 3}), finished)
    for sizes in ((7, 4, 11), (7, 4, 11, 6)):
        shutil.rmtree(finished / "data")
        make_clients(sizes=sizes).write(finished)
        partition = {"classes": ["a", "b", "c"], "clients": {f"{k:02}": {} for k in range(len(sizes))}}
        write_json(finished / "data/partition/partition.json", partition)
        for step in (prune, evaluate):
            with pytest.raises(DataError, match=r"must belong to the clients in data/clients, got client 03 with 5"):
                step(settings_of(SMALL), finished)
    # A public set adds examples to every client, but the data are still the same.
    public = {"federate.shared_fraction": 0.2}
    federate(settings_of({**SMALL, **public}), finished)
    prune(settings_of({**SMALL, **public}), finished)


def test_evaluation_and_diagnosis_that_cannot_begin_write_nothing(finished, settings_of):
    (finished / "reports/rounds.csv").write_text("")
    for step in (evaluate, diagnose):
        with pytest.raises(DataError):
            step(settings_of(SMALL), finished)
    assert not (finished / "reports/metrics.json").exists()
    assert not (finished / "reports/diagnosis.json").exists()
