import json
import resource
import shutil
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import DataError
from tasks.federate.checkpoint import Checkpoints, checkpoints_of, finish, load_state, saved_states
from tasks.federate.state import ServerState
from tests.mutations import mutated
from tests.rounds import kept_of

IDENTITY = {"phase": ["federate", 1, 9], "settings": {"seed": 0, "rate": 0.1}, "data": "abc"}


def make_state(seed=0):
    rng = np.random.default_rng(seed)
    params = rng.normal(size=5).astype(np.float32)
    return ServerState(params, OrderedDict(m=np.float32(rng.normal()), v=np.ones(3)), [np.int32(seed), ()])


def assert_same(state, other):
    np.testing.assert_equal(state.nested, other.nested)
    assert state.params.dtype == other.params.dtype


@pytest.fixture
def opened(tmp_path):
    """Opens the checkpoints again, like the next run."""
    held = []

    def reopen(identity=IDENTITY):
        held.append(Checkpoints(checkpoints_of(tmp_path, "federate"), identity))
        return held[-1]

    yield reopen
    for checkpoints in held:
        checkpoints.close()


def run_to(checkpoints, last, every=1, first=1):
    """Writes rounds `first` to `last` as a run does, with the phase's checkpoint before its first round."""
    checkpoints.save(first - 1, make_state(first - 1))
    for round_num in range(first, last + 1):
        checkpoints.log.append({"round": round_num, "row": {"loss": 0.1 * round_num, "val_loss": None}})
        if round_num % every == 0:
            checkpoints.save(round_num, make_state(round_num))


def lines_to(last, first=1):
    return [{"round": r, "row": {"loss": 0.1 * r, "val_loss": None}} for r in range(first, last + 1)]


def assert_goes_on_after(checkpoints, last, before=0):
    """Asserts that the newest checkpoint that counts is of round `last`, and that nothing after it is left."""
    done, state = checkpoints.resume(before, make_state())
    assert done == last
    assert_same(state, make_state(last))
    assert list(checkpoints.log) == lines_to(last, before + 1)
    assert checkpoints.rounds()[-1] == last


def test_new_folder_has_no_rounds_and_nothing_to_go_on_from(opened):
    checkpoints = opened()
    assert checkpoints.rounds() == []
    assert checkpoints.resume(0, make_state()) is None


def test_state_comes_back_with_its_structure_and_bits(opened):
    checkpoints, state = opened(), make_state(3)
    checkpoints.save(2, state)
    found = opened().load(2, make_state(0))
    assert_same(found, state)
    assert list(found.nested) == ["server", "aggregator"]


def test_state_of_many_leaves_keeps_their_order(opened):
    # np.savez names the arrays arr_0 … arr_11. Sorted as text, arr_10 would come before arr_2.
    state = ServerState(np.zeros(2, np.float32), [], [np.int32(i) for i in range(12)])
    checkpoints = opened()
    checkpoints.save(1, state)
    assert [int(leaf) for leaf in checkpoints.load(1, state).aggregator] == list(range(12))


def test_arrays_of_a_checkpoint_stand_in_the_order_of_the_state(opened, tmp_path):
    # By name at each level: aggregator, then server (mask, optimizer, params, shared).
    parts = {name: np.array([number], np.float32) for number, name in enumerate(("a", "m", "o", "p", "s"))}
    state = ServerState(parts["p"], [parts["o"]], [parts["a"]], parts["m"], parts["s"])
    opened().save(1, state)
    with np.load(checkpoints_of(tmp_path, "federate") / "round_00001.npz") as arrays:
        assert [int(arrays[f"arr_{place}"][0]) for place in range(5)] == list(range(5))
    assert_same(opened().load(1, state), state)


VECTORS = {client: np.arange(5, dtype=np.float32) + k for k, client in enumerate(("00", "02", "x-1"))}


def with_kept(vectors, clients=("00", "01", "02", "x-1")):
    return replace(make_state(), kept=kept_of(vectors, clients))


def test_vectors_that_clients_keep_come_back_by_client(opened, tmp_path):
    checkpoints = opened()
    checkpoints.save(1, with_kept(VECTORS))
    with np.load(checkpoints_of(tmp_path, "federate") / "round_00001.npz") as arrays:
        assert arrays["kept_clients"].tolist() == ["00", "02", "x-1"]
        np.testing.assert_array_equal(arrays["kept"], np.stack(list(VECTORS.values())))
    # Another run can have other clients, in another order: a client without a vector has zeros.
    found = checkpoints.load(1, with_kept({"02": np.ones(5, np.float32)}, ("x-1", "03", "02"))).kept
    assert list(found) == ["x-1", "03", "02"]
    for client in found:
        np.testing.assert_array_equal(found[client], VECTORS.get(client, np.zeros(5)))
    # The vectors stay although the checkpoint goes, as when a new run begins.
    shutil.rmtree(checkpoints_of(tmp_path, "federate"))
    np.testing.assert_array_equal(found["02"], VECTORS["02"])


def test_vectors_of_another_model_or_of_no_client_are_refused(opened, tmp_path):
    checkpoints = opened()
    checkpoints.save(1, with_kept(VECTORS))
    with pytest.raises(DataError, match="it belongs to another model or other settings"):
        checkpoints.load(1, make_state())
    checkpoints.save(2, make_state())
    with pytest.raises(DataError, match="it belongs to another model or other settings"):
        checkpoints.load(2, with_kept(VECTORS))
    path = checkpoints_of(tmp_path, "federate") / "round_00001.npz"
    with np.load(path) as arrays:
        longer = {**arrays, "kept": np.ones((3, 6), np.float32)}
    np.savez(path, **longer)
    with pytest.raises(DataError, match=r"round_00001\.npz must be a checkpoint, got .*vectors of shape \(3, 6\)"):
        checkpoints.load(1, with_kept(VECTORS))


def test_damaged_vector_is_an_error(opened, tmp_path):
    checkpoints = opened()
    checkpoints.save(1, with_kept({"00": np.full(5, 7.25, np.float32)}))
    path = checkpoints_of(tmp_path, "federate") / "round_00001.npz"
    content = path.read_bytes()
    assert content.count(np.full(5, 7.25, np.float32).tobytes()) == 1
    path.write_bytes(content.replace(np.full(5, 7.25, np.float32).tobytes(), np.full(5, 7.5, np.float32).tobytes()))
    with pytest.raises(DataError, match=r"round_00001\.npz must be a checkpoint, got .*damaged"):
        checkpoints.load(1, with_kept(VECTORS))


def test_rounds_are_ascending_numbers(opened):
    checkpoints = opened()
    for round_num in (0, 5, 10, 100_000, 99_999):
        checkpoints.save(round_num, make_state(round_num))
    assert opened().rounds() == [0, 5, 10, 99_999, 100_000]
    assert_same(opened().load(100_000, make_state()), make_state(100_000))


def test_killed_run_finds_its_checkpoints_and_its_log(opened, tmp_path):
    run_to(opened(), 3, every=2)  # not closed, because the process was killed
    found = opened()
    assert found.rounds() == [0, 2]
    assert_goes_on_after(found, 2)
    # Round 3 will run again: its old line is removed, on disk too.
    assert len((checkpoints_of(tmp_path, "federate") / "log.jsonl").read_text().splitlines()) == 2
    found.log.append(lines_to(3)[-1])
    found.save(3, make_state(3))
    assert_goes_on_after(opened(), 3)


def test_phase_that_begins_later_counts_its_rounds_from_there(opened):
    run_to(opened(), 12, every=3, first=8)
    assert opened().rounds() == [7, 9, 12]
    assert_goes_on_after(opened(), 12, before=7)


def test_cut_off_last_line_costs_its_round_alone(opened, tmp_path):
    path = checkpoints_of(tmp_path, "federate") / "log.jsonl"
    for missing in range(1, 24):
        checkpoints = opened()
        run_to(checkpoints, 3, every=2)
        content = path.read_bytes()
        path.write_bytes(content[:-missing])
        found = opened()
        assert_goes_on_after(found, 2)
        found.log.append(lines_to(3)[-1])
        assert path.read_bytes() == content
        finish(tmp_path, "federate")  # so the next example begins a new run


@pytest.mark.parametrize(
    ("damage", "last"),
    [
        # Six rounds, each with a checkpoint. The last that counts is the one before the first damaged line.
        (lambda lines: lines[:3], 3),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], 2),
        (lambda lines: [line for line in lines for _ in range(2)], 1),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 1),
        (lambda lines: [*lines[:4], lines[4].replace("0.5", "0.6"), lines[5]], 4),
        (lambda lines: [*lines[:4], "", *lines[4:]], 4),
        (lambda lines: [*lines[:4], "{", *lines[4:]], 4),
        (lambda lines: lines[1:], 0),
        (lambda lines: [], 0),
    ],
    ids=["cut", "one doubled", "all doubled", "swapped", "a number", "an empty line", "no JSON", "no first", "empty"],
)
def test_checkpoint_counts_only_if_its_log_holds_exactly_its_rounds(damage, last, opened, tmp_path, caplog):
    run_to(opened(), 6)
    path = checkpoints_of(tmp_path, "federate") / "log.jsonl"
    path.write_text("".join(f"{line}\n" for line in damage(path.read_text().splitlines())))
    assert_goes_on_after(opened(), last)
    # Each checkpoint that does not count is named and deleted.
    assert [f"round_{r:05}.npz" in caplog.text for r in range(7)] == [r > last for r in range(7)]


def test_a_folder_in_the_place_of_a_checkpoint_does_not_count(opened, tmp_path):
    run_to(opened(), 4, every=2)
    path = checkpoints_of(tmp_path, "federate") / "round_00004.npz"
    path.unlink()
    path.mkdir()
    assert_goes_on_after(opened(), 2)


def test_log_that_is_gone_leaves_the_beginning(opened, tmp_path):
    run_to(opened(), 4)
    (checkpoints_of(tmp_path, "federate") / "log.jsonl").unlink()
    assert_goes_on_after(opened(), 0)


def test_stray_checkpoints_do_not_count(opened, tmp_path):
    folder = checkpoints_of(tmp_path, "federate")
    run_to(opened(), 4, every=2)
    (folder / "round_00099.npz").write_bytes((folder / "round_00004.npz").read_bytes())
    (folder / "round_00003.npz").write_bytes((folder / "round_00002.npz").read_bytes())
    np.savez(folder / "round_00005.npz", *make_state(5).params)
    (folder / "round_x.npz").write_bytes(b"")
    assert_goes_on_after(opened(), 4)


def test_checkpoint_of_another_run_does_not_count(opened, tmp_path):
    other = Checkpoints(tmp_path / "other", {**IDENTITY, "data": "abd"})
    for checkpoints in (other, opened()):
        run_to(checkpoints, 4, every=2)
    other.close()
    # The same log line by line, and a state of the same shapes.
    shutil.copy(tmp_path / "other" / "round_00004.npz", checkpoints_of(tmp_path, "federate") / "round_00004.npz")
    assert_goes_on_after(opened(), 2)


@pytest.mark.parametrize("at", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_damaged_newest_checkpoint_falls_back_to_the_one_before(at, how, opened, tmp_path, caplog):
    run_to(opened(), 4, every=2)
    path = checkpoints_of(tmp_path, "federate") / "round_00004.npz"
    content = bytearray(path.read_bytes())
    place = int(at * len(content))
    if how == "cut":
        del content[place:]
    else:
        content[place] ^= 0xFF
    path.write_bytes(content)
    checkpoints = opened()
    done, state = checkpoints.resume(0, make_state())
    # A flip can hit a byte that is not read (a date in the archive): then the checkpoint still counts.
    assert done in (2, 4) if how == "flipped" else done == 2
    assert_same(state, make_state(done))
    assert list(checkpoints.log) == lines_to(done)
    assert ("round_00004.npz" in caplog.text) == (done == 2)


@pytest.mark.parametrize(
    "change",
    [
        {"phase": ["federate", 1, 10]},
        {"settings": {"seed": 1, "rate": 0.1}},
        {"data": "abd"},
    ],
    ids=["rounds", "seed", "data"],
)
def test_another_run_starts_afresh(change, opened):
    run_to(opened(), 4)
    other = opened({**IDENTITY, **change})
    assert other.rounds() == []
    assert other.resume(0, make_state()) is None
    # Back to the first run: its checkpoints are gone too.
    assert opened().rounds() == []


def test_finished_run_starts_afresh(opened, tmp_path):
    checkpoints = opened()
    run_to(checkpoints, 4, every=4)
    finish(tmp_path, "federate")
    assert checkpoints.rounds() == [0, 4]  # kept for a replay until the next run
    assert opened().rounds() == []
    assert opened().resume(0, make_state()) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, None])
def test_unreadable_description_of_the_run_starts_afresh(content, opened, tmp_path):
    run_to(opened(), 4)
    path = checkpoints_of(tmp_path, "federate") / "run.json"
    path.unlink() if content is None else path.write_bytes(content)
    assert opened().rounds() == []
    assert json.loads(path.read_text()) == {"identity": IDENTITY, "finished": False}


def test_replays_use_the_checkpoints_that_count(opened, tmp_path, caplog):
    run_to(opened(), 6, every=2)
    folder = checkpoints_of(tmp_path, "federate")
    assert sorted(saved_states(tmp_path, "federate", IDENTITY)) == [0, 2, 4, 6]
    assert saved_states(tmp_path, "federate", {"data": "abd"}) == {}
    lines = (folder / "log.jsonl").read_text().splitlines()
    (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in [*lines[:3], lines[2], *lines[3:]]))
    (folder / "round_00002.npz").write_bytes(b"no archive")
    assert saved_states(tmp_path, "federate", IDENTITY) == {0: folder / "round_00000.npz"}
    assert [f"round_{r:05}.npz" in caplog.text for r in (0, 2, 4, 6)] == [False, True, True, True]
    assert len(list(folder.glob("round_*"))) == 4  # they are only read


def test_replays_may_name_less_than_the_run_does(opened, tmp_path):
    run_to(opened(), 4, every=2)
    assert sorted(saved_states(tmp_path, "federate", {"data": "abc", "settings": IDENTITY["settings"]})) == [0, 2, 4]
    assert saved_states(tmp_path, "federate", {"data": "abc", "settings": {"seed": 0}}) == {}
    assert saved_states(tmp_path, "federate", {"data": "abc", "model": "mlp"}) == {}


def test_state_in_an_archive_that_was_cut_is_one_error(opened, tmp_path):
    run_to(opened(), 1)
    whole = (checkpoints_of(tmp_path, "federate") / "round_00001.npz").read_bytes()
    path = tmp_path / "cut.npz"
    # Before and within the first array, after it, and within the archive's list of contents.
    for length in (0, 3, 100, 700, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut\.npz must be a checkpoint, got") as caught:
            load_state(path, make_state())
        assert str(caught.value).isprintable()


def test_state_of_as_many_arrays_of_other_shapes_is_refused(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, np.zeros(3), np.zeros(2))
    with pytest.raises(
        DataError, match=r"must hold 2 arrays of the model's shapes, got 2: it belongs to another model"
    ):
        load_state(path, ServerState(np.zeros(3), [np.zeros(3)], []))


def test_state_that_does_not_fit_on_the_disk_leaves_the_last_one(opened, tmp_path):
    checkpoints = opened()
    checkpoints.save(1, make_state(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoints.save(1, ServerState(np.zeros(100_000, np.float32), [], []))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_same(opened().load(1, make_state()), make_state(1))
    assert opened().rounds() == [1]
    assert sorted(path.name for path in (checkpoints_of(tmp_path, "federate")).iterdir()) == [
        "log.jsonl",
        "round_00001.npz",
        "run.json",
    ]


@settings(max_examples=20)
@given(st.integers(0, 30), st.integers(1, 7))
def test_log_and_checkpoints_agree_wherever_the_run_is_cut(tmp_path_factory, cut, every):
    """A run of `cut` rounds and one more line is killed: the log up to the last checkpoint is complete."""
    folder = tmp_path_factory.mktemp("run")
    run = Checkpoints(folder / "run", IDENTITY)
    run_to(run, cut, every)
    again = Checkpoints(folder / "run", IDENTITY)
    assert_goes_on_after(again, cut // every * every)
    run.close()
    again.close()


@pytest.mark.parametrize("name", ["round_00004.npz", "log.jsonl", "run.json"])
@pytest.mark.parametrize("times", [50, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_give_a_state_of_the_run_or_none(times, name, tmp_path):
    """There is never another state, another line or a traceback, and the run can go on from there."""
    rng = np.random.default_rng(times)
    whole = Checkpoints(tmp_path / "whole", IDENTITY)
    run_to(whole, 5, every=2)
    whole.close()
    for _ in range(times):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / "run")
        (folder / name).write_bytes(mutated((folder / name).read_bytes(), rng))
        opened = Checkpoints(folder, IDENTITY)
        found = opened.resume(0, make_state())
        done = 0
        if found is not None:
            done, state = found
            assert done in (0, 2, 4)
            assert_same(state, make_state(done))
            assert list(opened.log) == lines_to(done)
        opened.log.append({"round": done + 1})
        opened.close()
        assert len((folder / "log.jsonl").read_text().splitlines()) == done + 1
        shutil.rmtree(folder)


def test_a_run_whose_frozen_parameters_are_others_is_another(make_clients, settings_of, tmp_path):
    import tensorflow as tf

    from tasks.federate.cohort import cohort_of
    from tasks.federate.loop import identity_of
    from tasks.federate.runner import Phase

    settings = settings_of({})
    cohort = cohort_of(settings, make_clients().write(tmp_path))
    frozen = tf.keras.layers.Dense(2, trainable=False)
    model = tf.keras.Sequential([tf.keras.layers.Input((3,)), frozen, tf.keras.layers.Dense(2)])
    before = identity_of(settings, cohort, model, Phase("federate", 1, 2))
    frozen.kernel.assign(frozen.kernel + 1)
    after = identity_of(settings, cohort, model, Phase("federate", 1, 2))
    assert {name for name in before if before[name] != after[name]} == {"constants"}
