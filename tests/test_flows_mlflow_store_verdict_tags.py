"""The verdict, the name and the links of runs, in a real MLflow store."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.entities import Run

from flows.mlflow_store import (
    changed_settings,
    connection,
    mending,
    run_content,
    run_record,
    run_scores,
    verdict_tags,
)
from flows.mlflow_store.run_names import run_name
from tasks import files
from tasks.settings import Settings, parse

pytestmark = pytest.mark.slow

FLIPPED = {
    "verdict": "faulty_clients",
    "question": "rise",
    "increase": {"detected": True, "round": 14},
    "harm": {"loss": 0.63},
    "causes": [
        {"cause": "faulty_clients", "clients": ["03", "07"], "remedy": {"recovers": 0.861}},
        {"cause": "server_learning_rate", "clients": [], "remedy": None},
    ],
}
QUIET: dict[str, Any] = {"verdict": "none", "question": "rise", "increase": {"detected": False, "round": None}}
QUIET |= {"causes": [], "harm": None}


def write(folder: Path, content: dict[str, Any], answer: str) -> Path:
    """Writes diagnosis.json and .md into the reports of a workspace, and returns the workspace."""
    files.write_json(folder / "reports/diagnosis.json", content)
    (folder / "reports/diagnosis.md").write_text(f"# Why\n\n{answer}\n\n## Evidence\n\nMuch.\n")
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[connection.Store]:
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield connection.connect(tmp_path_factory.mktemp("store"))


def new_run(store: connection.Store, folder: Path, settings: Settings | None = None, **tags: str) -> str:
    return run_content.create(store.client, store.experiment_id, settings or Settings(), folder, tags)


def note(run: Run) -> str:
    return str(run.data.tags[verdict_tags.NOTE])


def test_runs_are_found_by_their_verdict(store: connection.Store, tmp_path: Path) -> None:
    flipped = write(tmp_path / "a", FLIPPED, "It rose because clients 03\\_x flip labels (`-S federate.exclude=[]`).")
    quiet = write(tmp_path / "b", QUIET, "The loss did not rise.")
    first, second = new_run(store, tmp_path), new_run(store, tmp_path)
    verdict_tags.mark(store.client, first, flipped / "reports", "**mlp**")
    verdict_tags.mark(store.client, second, quiet / "reports", "**mlp**")

    def found(text: str) -> list[str]:
        return [run.info.run_id for run in store.client.search_runs([store.experiment_id], text)]

    assert found("tags.`diagnosis.verdict` = 'faulty_clients'") == [first]
    assert found("tags.diagnosis.verdict = 'none'") == [second]
    assert found("tags.diagnosis.clients LIKE '%07%'") == [first]
    tags = store.client.get_run(first).data.tags
    assert {name: tags[f"diagnosis.{name}"] for name in ("question", "clients", "round", "recovers", "answer")} == {
        "question": "rise",
        "clients": "03,07",
        "round": "14",
        "recovers": "0.86",
        "answer": "It rose because clients 03_x flip labels (-S federate.exclude=[]).",
    }
    assert "diagnosis.round" not in store.client.get_run(second).data.tags
    assert note(store.client.get_run(second)) == "The loss did not rise.\n\n**mlp**"


def test_a_new_diagnosis_replaces_the_verdict_only(store: connection.Store, tmp_path: Path) -> None:
    run_id = new_run(store, tmp_path)
    verdict_tags.mark(store.client, run_id, write(tmp_path, FLIPPED, "It rose.") / "reports", "**mlp**\n\nscores")
    verdict_tags.mark(store.client, run_id, write(tmp_path, QUIET, "It did not.") / "reports")
    run = store.client.get_run(run_id)
    assert note(run) == "It did not.\n\n**mlp**\n\nscores"
    assert run.data.tags["diagnosis.verdict"] == "none"
    assert not {"diagnosis.clients", "diagnosis.round", "diagnosis.recovers"} & set(run.data.tags)


def test_a_run_that_ended_early_gets_its_verdict(store: connection.Store, tmp_path: Path) -> None:
    ended = {"verdict": "non_finite", "question": "ended", "causes": [], "ending": {"round": 4}}
    write(tmp_path, ended, "The run ended in round 4.")
    run_id = new_run(store, tmp_path)
    run_record.terminate(store.client, tmp_path, run_id, "FAILED")
    run = store.client.get_run(run_id)
    assert (run.info.status, run.data.tags["diagnosis.round"], note(run)) == (
        "FAILED",
        "4",
        "The run ended in round 4.",
    )


def test_a_folder_without_a_whole_diagnosis_changes_no_tag(store: connection.Store, tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/diagnosis.json").write_text("{")
    run_id = new_run(store, tmp_path)
    verdict_tags.mark(store.client, run_id, tmp_path / "reports")
    assert not {name for name in store.client.get_run(run_id).data.tags if name.startswith("diagnosis.")}


@pytest.mark.parametrize(
    ("change", "clean"),
    [
        ({}, True),
        ({"verdict": "label_skew"}, False),
        ({"increase": {"detected": True, "round": 3}}, False),  # a rise whose cause is not proven
        ({"harm": {"loss": 1.0}}, False),
        ({"ending": {"round": 3}}, False),
    ],
)
def test_a_diagnosis_is_clean_if_it_found_nothing(change: dict[str, Any], clean: bool, tmp_path: Path) -> None:
    assert verdict_tags.is_clean(write(tmp_path, QUIET | change, "x") / "reports") == clean


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository whose committed params.yaml has 40 rounds; the file itself has 50 now."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"federate": {"rounds": 40}}))
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(tmp_path)]
    for arguments in (["init", "-q"], ["add", "params.yaml"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"federate": {"rounds": 50}}))
    return tmp_path


def test_the_name_says_what_differs_from_the_committed_settings(store: connection.Store, repository: Path) -> None:
    usual = parse({"federate": {"rounds": 40}})
    faulty = parse(
        {
            "federate": {
                "rounds": 40,
                "exclude": ["07"],
                "faults": {"kind": "flipped_labels", "clients": ["03", "04"]},
                "client": {"kind": "fedprox", "learning_rate": 0.2},
            },
            "track": {"register_as": "x"},
        }
    )
    workspace = repository / ".runs/some-id"
    names = [store.client.get_run(new_run(store, workspace, each)).info.run_name for each in (usual, faulty)]
    assert names == [
        "mlp dirichlet(0.5) mean sgd",
        "mlp dirichlet(0.5) mean fedprox · client.learning_rate=0.2 exclude=07 faults.kind=flipped_labels "
        "faults.clients=03,04",
    ]
    (run,) = store.client.search_runs([store.experiment_id], "tags.settings.changed LIKE '%exclude=[\"07\"]%'")
    assert run.data.tags["settings.changed"].startswith(
        "federate.client.kind=fedprox federate.client.learning_rate=0.2"
    )


def test_a_long_name_counts_the_differences_that_it_leaves_out() -> None:
    settings = parse({"seed": 3, "data": {"kind": "npz", "path": f"raw/{'x' * 50}.npz"}, "prune": {"rounds": 12}})
    changes = changed_settings.changed(settings, Path("/nowhere"))
    assert set(changes) == {"seed", "data.kind", "data.path", "prune.rounds"}
    named = changed_settings.name_of(settings, changes | {"federate.rounds": "9"}, run_name(settings))
    assert named.split(" · ")[1] == f"seed=3 data.kind=npz data.path=raw/{'x' * 25}… prune.rounds=12 +1"


def test_a_run_links_to_the_run_that_it_mends(
    store: connection.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = new_run(store, tmp_path)
    run_content.log_scores(store.client, bad, {"loss": 0.634}, {})
    report = {"run_id": bad, "tracking_uri": store.uri, "experiment_id": store.experiment_id}
    files.write_json(tmp_path / "reports/mlflow.json", report)
    monkeypatch.setenv(mending.VARIABLE, "")  # restored after the test
    mending.next_run_mends(str(tmp_path))
    good = store.client.get_run(new_run(store, tmp_path))
    assert good.data.tags["diagnosis.mends"] == bad
    said = mending.compared(store.client, good, 0.41)
    assert said == f"Mends run mlp dirichlet(0.5) mean sgd ({bad}): hold-out loss 0.634 → 0.41."
    (found,) = store.client.search_runs([store.experiment_id], f"tags.diagnosis.mends = '{bad}'")
    assert found.data.tags["diagnosis.mended_loss"] == "0.634 → 0.41"
    assert store.client.get_run(bad).data.tags["diagnosis.mended_by"] == good.info.run_id
    mending.next_run_mends(str(tmp_path / "reports"))  # a folder without an MLflow run
    assert mending.link() == {}


def test_the_description_names_the_worst_with_their_support() -> None:
    ranked = {
        "client": {"client": "03", "accuracy": 0.71, "num_examples": 212},
        "client_class": {"client": "03", "class": "eel", "recall": 0.5, "num_examples": 12},
    }
    assert run_scores.worst(ranked) == (
        "Global model: worst client 03: accuracy 0.71 on 212 examples of its own; worst class at a client, eel at 03: "
        "recall 0.5 on 12 examples."
    )
    assert run_scores.worst({}) == ""
