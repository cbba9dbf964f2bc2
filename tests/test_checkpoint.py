import json
import resource
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.federate.checkpoint import Checkpoints, checkpoints_of, finish

IDENTITY = {"phase": ["federate", 1, 9], "settings": {"seed": 0, "rate": 0.1}, "data": "abc"}


def make_state(seed=0):
    rng = np.random.default_rng(seed)
    server = OrderedDict(
        params=rng.normal(size=5).astype(np.float32), optimizer=OrderedDict(m=np.float32(rng.normal()), v=np.ones(3))
    )
    return OrderedDict(server=server, aggregator=[np.int32(seed), ()])


def assert_same(state, other):
    np.testing.assert_equal(state, other)
    assert state["server"]["params"].dtype == other["server"]["params"].dtype


@pytest.fixture
def opened(tmp_path):
    """Opens the checkpoints again, as a run that follows does."""
    held = []

    def reopen(identity=IDENTITY):
        held.append(Checkpoints(checkpoints_of(tmp_path, "federate"), identity))
        return held[-1]

    yield reopen
    for checkpoints in held:
        checkpoints.close()


def test_new_folder_has_no_rounds_and_no_log(opened):
    checkpoints = opened()
    assert checkpoints.rounds() == []
    assert checkpoints.log(0) == []


def test_state_comes_back_with_its_structure_and_bits(opened):
    checkpoints, state = opened(), make_state(3)
    checkpoints.save(2, state)
    found = opened().load(2, make_state(0))
    assert_same(found, state)
    assert list(found) == ["server", "aggregator"]


def test_state_of_many_leaves_keeps_their_order(opened):
    # np.savez names them arr_0 … arr_11: sorted as text, arr_10 would come before arr_2.
    state = [np.int32(i) for i in range(12)]
    checkpoints = opened()
    checkpoints.save(1, state)
    assert [int(leaf) for leaf in checkpoints.load(1, state)] == list(range(12))


def test_rounds_are_ascending_numbers(opened):
    checkpoints = opened()
    for round_num in (0, 5, 10, 100_000, 99_999):
        checkpoints.save(round_num, make_state(round_num))
    assert opened().rounds() == [0, 5, 10, 99_999, 100_000]
    assert_same(opened().load(100_000, make_state()), make_state(100_000))


def test_killed_run_finds_its_checkpoints_and_its_log(opened):
    checkpoints = opened()
    checkpoints.save(0, make_state(0))
    for round_num in (1, 2, 3):
        checkpoints.append({"round": round_num, "row": {"loss": 0.1 * round_num, "val_loss": None}})
        if round_num == 2:
            checkpoints.save(2, make_state(2))
    # Not closed: the process is gone.
    found = opened()
    assert found.rounds() == [0, 2]
    assert found.log(2) == [{"round": r, "row": {"loss": 0.1 * r, "val_loss": None}} for r in (1, 2)]
    # Round 3 will run again: its old line is forgotten, on disk too.
    found.append({"round": 3, "row": {}})
    assert [line["round"] for line in opened().log(9)] == [1, 2, 3]


@pytest.mark.parametrize("missing", range(1, 23))
def test_cut_off_last_line_is_tolerated(missing, opened, tmp_path):
    checkpoints = opened()
    for round_num in (1, 2, 3):
        checkpoints.append({"round": round_num, "row": {}})
    path = checkpoints_of(tmp_path, "federate") / "log.jsonl"
    content = path.read_bytes()
    assert len(content) == 3 * len('{"round": 3, "row": {}}\n')
    path.write_bytes(content[:-missing])
    found = opened()
    # Without its newline alone, the line is whole.
    assert [line["round"] for line in found.log(9)] == ([1, 2, 3] if missing == 1 else [1, 2])
    found.append({"round": 3, "row": {}})
    lines = path.read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == ([1, 2, 3] if missing > 1 else [1, 2, 3, 3])


@pytest.mark.parametrize(
    "identity",
    [
        {**IDENTITY, "phase": ["federate", 1, 10]},
        {**IDENTITY, "settings": {"seed": 1, "rate": 0.1}},
        {**IDENTITY, "data": "abd"},
    ],
    ids=["rounds", "seed", "data"],
)
def test_another_run_starts_afresh(identity, opened):
    checkpoints = opened()
    checkpoints.save(4, make_state())
    checkpoints.append({"round": 1})
    other = opened(identity)
    assert other.rounds() == []
    assert other.log(99) == []
    # And back again: nothing of the first is left either.
    assert opened().rounds() == []


def test_finished_run_starts_afresh(opened, tmp_path):
    checkpoints = opened()
    checkpoints.save(4, make_state())
    checkpoints.append({"round": 1})
    finish(tmp_path, "federate")
    assert checkpoints.rounds() == [4]  # kept for a replay until the next run
    assert opened().rounds() == []
    assert opened().log(99) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", None])
def test_unreadable_description_of_the_run_starts_afresh(content, opened, tmp_path):
    opened().save(4, make_state())
    path = checkpoints_of(tmp_path, "federate") / "run.json"
    path.unlink() if content is None else path.write_bytes(content)
    assert opened().rounds() == []
    assert json.loads(path.read_text()) == {"identity": IDENTITY, "finished": False}


# NumPy's half-written archive complains once more when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_state_that_does_not_fit_on_the_disk_leaves_the_last_one(opened, tmp_path):
    checkpoints = opened()
    checkpoints.save(1, make_state(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoints.save(1, [np.zeros(100_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_same(opened().load(1, make_state()), make_state(1))
    assert opened().rounds() == [1]
    assert sorted(path.name for path in (checkpoints_of(tmp_path, "federate")).iterdir()) == [
        "log.jsonl",
        "round_00001.npz",
        "run.json",
    ]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 30), st.integers(1, 7))
def test_log_and_checkpoints_agree_wherever_the_run_is_cut(tmp_path_factory, cut, every):
    """A run of `cut` rounds, one more line, and a kill: the log up to the last checkpoint is whole."""
    folder = tmp_path_factory.mktemp("run")
    run = Checkpoints(folder / "run", IDENTITY)
    run.save(0, make_state())
    for round_num in range(1, cut + 1):
        run.append({"round": round_num})
        if round_num % every == 0:
            run.save(round_num, make_state(round_num))
    again = Checkpoints(folder / "run", IDENTITY)
    last = again.rounds()[-1]
    assert last == cut // every * every
    assert [line["round"] for line in again.log(last)] == list(range(1, last + 1))
    run.close()
    again.close()
