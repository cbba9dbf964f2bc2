"""live_run.py and run_record.py with a store that is slow or does not answer: each row is logged exactly once."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.mlflow_store import connection, live_run, run_content, run_record
from tasks.settings import parse

Write = Callable[[list[int]], None]


@pytest.fixture
def ended() -> list[tuple[Any, ...]]:
    """The ends of runs in MLflow: (status, whether the workspace's reports were logged)."""
    return []


@pytest.fixture
def opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ended: list[tuple[Any, ...]]
) -> Callable[..., tuple[live_run.LiveRun, list[int]]]:
    """(function that is called at each write of rounds, ...) → a live run with a store in memory, and its rounds."""

    def begin(write: Write, last: int = 0) -> tuple[live_run.LiveRun, list[int]]:
        written: list[int] = []

        def log_rounds(_client: Any, _run_id: str, rows: Sequence[Mapping[str, str]]) -> int:
            rounds = [int(row["round"]) for row in rows]
            write(rounds)
            written.extend(rounds)
            return max(rounds, default=0)

        connected = SimpleNamespace(client=None, uri="memory", experiment_id="0")
        monkeypatch.setattr(connection, "connect", lambda _: connected)
        monkeypatch.setattr(run_record, "begin", lambda *_: "run")
        monkeypatch.setattr(run_record, "terminate", lambda _client, _folder, _run_id, *how: ended.append(how))
        monkeypatch.setattr(run_content, "log_settings", lambda *_: None)
        monkeypatch.setattr(run_content, "last_round", lambda *_: last)
        monkeypatch.setattr(run_content, "log_rounds", log_rounds)
        return live_run.LiveRun(tmp_path, parse({}), {}), written

    return begin


def test_rows_that_arrive_during_a_slow_write_are_logged_after_it(opened: Callable[..., Any]) -> None:
    began, goes_on = threading.Event(), threading.Event()

    def slow(rounds: list[int]) -> None:
        if rounds == [1]:
            began.set()
            assert goes_on.wait(20)

    run, written = opened(slow)
    run.round({"round": 1, "val_loss": 0.5})
    assert began.wait(20)
    run.round({"round": 2, "val_loss": None})
    goes_on.set()
    run.end("FINISHED")
    assert written == [1, 2]


def test_rows_wait_while_the_store_does_not_answer(opened: Callable[..., Any]) -> None:
    tried = []

    def away(rounds: list[int]) -> None:
        tried.append(rounds)
        if len(tried) == 1:
            raise ConnectionError("away")

    run, written = opened(away)
    run.round({"round": 1})
    run.flush()
    run.round({"round": 2})
    run.end("KILLED")
    assert written == [1, 2]


def test_rounds_that_an_earlier_attempt_logged_are_not_logged_again(opened: Callable[..., Any]) -> None:
    run, written = opened(lambda rounds: None, last=3)
    for number in (2, 3, 4):
        run.round({"round": number})
    run.end("FINISHED")
    assert written == [4]


@pytest.mark.parametrize("with_reports", [True, False])
def test_a_run_is_ended_with_the_reports_of_its_workspace_unless_they_are_of_other_data(
    opened: Callable[..., Any], ended: list[tuple[Any, ...]], with_reports: bool
) -> None:
    run, _ = opened(lambda rounds: None)
    if with_reports:
        run.end("FAILED")
    else:
        run.end("FAILED", with_reports=False)
    assert ended == [("FAILED", with_reports)]


@pytest.mark.parametrize(
    ("status", "with_reports", "logged"),
    [
        ("FAILED", True, ["rounds.csv", "clients.csv"]),
        ("KILLED", True, ["rounds.csv", "clients.csv"]),
        ("FAILED", False, []),
        ("FINISHED", True, []),  # logged together with the other rows
    ],
)
def test_a_run_that_did_not_finish_keeps_the_log_of_its_rounds(
    status: str, with_reports: bool, logged: list[str], tmp_path: Path
) -> None:
    (tmp_path / "reports").mkdir()
    for name in ("rounds.csv", "clients.csv"):
        (tmp_path / "reports" / name).write_text("round\n1\n")
    calls: list[tuple[str, ...]] = []
    client: Any = SimpleNamespace(
        log_artifact=lambda run_id, path, folder: calls.append((run_id, Path(path).name, folder)),
        set_terminated=lambda run_id, how: calls.append((run_id, how)),
    )
    run_record.terminate(client, tmp_path, "run", status, with_reports)
    assert calls == [*(("run", name, "reports") for name in logged), ("run", status)]
    assert not run_record.is_unfinished(tmp_path)
