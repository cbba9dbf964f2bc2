"""flows/tracking.py with a real MLflow store: the command fills a SQLite file in a temporary folder."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml
from mlflow.entities import ViewType

from flows.mlflow_store import (
    connection,
    data_versions,
    finished_run,
    logged_models,
    registry,
    run_content,
    run_files,
    run_names,
    tracked_results,
    verdict_tags,
)
from flows.running.session import Session
from flows.workspace.dvc_hashes import dvc_hash
from flows.workspace.run_folder import Workspace
from tasks import files
from tasks.errors import RunError, UndriftError
from tasks.settings import load, with_settings
from tests.shards import write_sites

ROOT = Path(__file__).parents[1]
ROUNDS = 300  # with these columns, more points than MLflow takes in one call (1000)
COLUMNS = ("round", "phase", "train_loss", "val_loss", "num_clients", "drift", "sparsity")
CLASSES = ["zero", "one", "two"]
STATISTICS = {"of_all": {"mean": [0.5], "sd": [0.25]}}


def write_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("partition", "clients"):
        sites = {
            client: (rng.random((6, 4, 4, 1), np.float32), rng.integers(0, 3, 6, np.int32))
            for client in ("00", "01", "test")
        }
        write_sites(folder / "data" / kind, sites)
    clients = {client: {"num_examples": 6, "counts": [2, 2, 2]} for client in ("00", "01")}
    shape = {"input_shape": [4, 4, 1], "images": True, "classes": CLASSES}
    files.write_json(
        folder / "data/partition/partition.json",
        {**shape, "kind": "iid", "num_examples": 12, "clients": clients, "test": {"num_examples": 6}},
    )
    files.write_json(
        folder / "data/clients/preprocess.json",
        {**shape, "num_classes": 3, "clients": {"00": 6, "01": 6}, "normalize": "global", "statistics": STATISTICS},
    )


def write_reports(folder: Path) -> None:
    reports = folder / "reports"
    rows = [
        {
            "round": number,
            "phase": "federate" if number <= ROUNDS - 10 else "prune",
            "train_loss": 2.0 / number,
            "val_loss": "" if number % 2 else 3.0 / number,
            "num_clients": 2,
            "drift": "nan" if number == 5 else 0.5,
            "sparsity": 0.8 if number == ROUNDS else 0.0,
        }
        for number in range(1, ROUNDS + 1)
    ]
    files.write_rows(reports / "rounds.csv", COLUMNS, rows)
    files.write_rows(reports / "clients.csv", ("round", "client"), [{"round": 1, "client": "00"}])
    files.write_rows(reports / "timings.csv", ("step", "round", "seconds"), [])
    scores = {"accuracy": 0.75, "loss": 0.5, "sparsity": 0.8, "pruned_accuracy": 0.7, "pruned_loss": 0.6}
    scores["pruned_h5_size_bytes"] = 3900
    baselines = {"pooled_loss": 0.4, "clients_better_alone": 1}
    files.write_json(reports / "metrics.json", {**scores, **baselines, "size_bytes": 4000, "pruned_size_bytes": 900})
    files.write_json(reports / "evaluation.json", {"baselines": {"says": ["The federation pays", "for some."]}})
    for name in ("prune", "diagnosis"):
        files.write_json(reports / f"{name}.json", {})
    (reports / "diagnosis.md").write_text("# no rise")
    (reports / "diagnosis.html").write_text("<h1>no rise</h1>")
    for name in ("confusion", "drift", "labels", "loss"):
        (reports / f"{name}.png").write_bytes(b"\x89PNG")


def write_models(folder: Path) -> None:
    from tasks.models import build, save_model

    for seed, name in enumerate(("global", "pruned")):
        save_model(build("mlp", (4, 4, 1), 3, seed), folder / f"models/{name}.h5")
    for name in ("pruned", "pruned_float"):
        (folder / f"models/{name}.tflite").write_bytes(b"TFL3")


def lock_data(folder: Path) -> None:
    """Writes a dvc.lock with the hashes of the run's data and models."""
    paths = [*run_files.DATA, *run_files.MODEL_FILES.values()]
    outs = [{"path": path, "hash": "md5", "md5": dvc_hash(folder / path)} for path in paths]
    (folder / "dvc.lock").write_text(
        yaml.safe_dump({"schema": "2.0", "stages": {"all": {"cmd": "make", "outs": outs}}})
    )


def run_command(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PYTHONPATH"))}
    return subprocess.run(
        [sys.executable, "-m", "flows.tracking"],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the outputs of all other stages."""
    folder = tmp_path_factory.mktemp("workspace")
    params = (ROOT / "params.yaml").read_text()
    (folder / "params.yaml").write_text(params.replace("register_as: ''", "register_as: digits"))
    write_data(folder)
    write_reports(folder)
    write_models(folder)
    lock_data(folder)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(folder)]
    subprocess.run([*git, "init", "-q", "-b", "trunk"], check=True)
    subprocess.run([*git, "add", "params.yaml", "models/global.h5"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    (folder / ".git/info/exclude").write_text("*\n")
    return folder


@pytest.fixture(scope="module")
def tracked(finished: Path) -> Path:
    """The workspace after the command, whose output must have only its own two lines."""
    done = run_command(finished)
    assert (done.returncode, done.stdout) == (0, "")
    assert len(done.stderr.splitlines()) == 2, done.stderr  # the database was created; the run was logged
    return finished


@pytest.fixture
def opened(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> connection.Store:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return connection.connect(tracked)


@pytest.fixture
def run(tracked: Path, opened: connection.Store) -> mlflow.entities.Run:
    return opened.client.get_run(files.read_json(tracked / "reports/mlflow.json")["run_id"])


def test_report_names_the_run(tracked: Path, opened: connection.Store, run: mlflow.entities.Run) -> None:
    report = files.read_json(tracked / "reports/mlflow.json")
    assert report["tracking_uri"] == "sqlite:///mlflow.db"
    assert report["experiment_id"] == run.info.experiment_id
    assert opened.client.get_experiment(run.info.experiment_id).name == "undrift"
    assert (run.info.status, run.info.run_name) == ("FINISHED", "mlp dirichlet(0.5) mean sgd")


def test_parameters_are_all_settings_by_dotted_name(tracked: Path, run: mlflow.entities.Run) -> None:
    assert run.data.params == run_names.spelled_settings(load(tracked / "params.yaml"))
    assert run.data.params["federate.client.learning_rate"] == "0.05"
    assert run.data.params["preprocess.augment.flip"] == "false"
    assert run.data.params["federate.local_work.by_client"] == "{}"


def test_every_round_is_a_point(opened: connection.Store, run: mlflow.entities.Run) -> None:
    history = opened.client.get_metric_history(run.info.run_id, "train_loss")
    assert {point.step: point.value for point in history} == {n: 2.0 / n for n in range(1, ROUNDS + 1)}


def test_a_round_without_validation_gives_no_point(opened: connection.Store, run: mlflow.entities.Run) -> None:
    history = opened.client.get_metric_history(run.info.run_id, "val_loss")
    assert sorted(point.step for point in history) == list(range(2, ROUNDS + 1, 2))


def test_a_loss_that_is_not_a_number_is_logged_as_such(opened: connection.Store, run: mlflow.entities.Run) -> None:
    history = opened.client.get_metric_history(run.info.run_id, "drift")
    assert [point.step for point in history if np.isnan(point.value)] == [5]


def test_text_and_round_numbers_are_no_metrics(run: mlflow.entities.Run) -> None:
    assert not {"phase", "round"} & set(run.data.metrics)


def test_final_numbers_stand_at_step_0_or_end_a_curve(
    tracked: Path, opened: connection.Store, run: mlflow.entities.Run
) -> None:
    for key, value in files.read_json(tracked / "reports/metrics.json").items():
        assert run.data.metrics[key] == value
        steps = {point.step for point in opened.client.get_metric_history(run.info.run_id, key)}
        assert steps == (set(range(1, ROUNDS + 1)) if key == "sparsity" else {0})


def test_digests_are_dvc_directory_hashes(tracked: Path, run: mlflow.entities.Run) -> None:
    # DVC's hash of a folder is the md5 of a JSON list with the md5 and path of each file, sorted by path.
    listing = [
        {
            "md5": hashlib.md5(path.read_bytes()).hexdigest(),
            "relpath": path.relative_to(tracked / "data/clients").as_posix(),
        }
        for path in (tracked / "data/clients").rglob("*")
        if path.is_file()
    ]
    listing.sort(key=lambda entry: entry["relpath"])
    expected = hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"
    digests = {each.dataset.name: each.dataset.digest for each in run.inputs.dataset_inputs}
    assert set(digests) == {"partition", "clients"}
    assert digests["clients"] == expected
    assert run.data.tags["dvc.data/clients"] == expected


def test_artifacts_are_reports_pictures_settings_and_exported_models(
    opened: connection.Store, run: mlflow.entities.Run
) -> None:
    def walk(path: str = "") -> set[str]:
        found: set[str] = set()
        for entry in opened.client.list_artifacts(run.info.run_id, path):
            found |= walk(entry.path) if entry.is_dir else {entry.path}
        return found

    assert walk() == {*run_files.FILES, run_files.TIMINGS, run_files.LOCK}


def test_the_logged_lock_does_not_name_an_earlier_run(
    opened: connection.Store, tracked: Path, run: mlflow.entities.Run, tmp_path: Path
) -> None:
    lock = yaml.safe_load((tracked / "dvc.lock").read_text())
    with_track = {"schema": "2.0", "stages": {**lock["stages"], "track": {"cmd": "x", "outs": [{"path": "of before"}]}}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(with_track))
    assert yaml.safe_load(data_versions.lock_of_results(tmp_path / "dvc.lock")) == lock
    (tmp_path / "logged").mkdir()
    logged = opened.client.download_artifacts(run.info.run_id, "dvc.lock", str(tmp_path / "logged"))
    assert yaml.safe_load(Path(logged).read_text()) == lock


def test_a_lock_of_other_data_is_not_logged(opened: connection.Store, tracked: Path, tmp_path: Path) -> None:
    for name in ("data", "models", "reports", "params.yaml", "dvc.lock"):
        (tmp_path / name).symlink_to(tracked / name)
    run_id = opened.client.create_run(opened.experiment_id).info.run_id
    digests = dict.fromkeys(run_files.DATA, f"{'0' * 32}.dir")
    run_files.log_artifacts(opened.client, run_id, tmp_path, digests)
    assert "dvc.lock" not in [entry.path for entry in opened.client.list_artifacts(run_id)]


def test_tags_say_which_code_ran(tracked: Path, run: mlflow.entities.Run) -> None:
    head = subprocess.run(["git", "-C", tracked, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert run.data.tags["mlflow.source.git.commit"] == head.stdout.strip()
    assert run.data.tags["mlflow.source.git.branch"] == "trunk"
    assert run.data.tags["git.dirty"] == "false"


def test_code_is_dirty_unless_only_settings_changed(tracked: Path, tmp_path: Path) -> None:
    shutil.copytree(tracked / ".git", tmp_path / ".git")
    shutil.copytree(tracked / "models", tmp_path / "models")
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    assert run_content.origin(tmp_path)["git.dirty"] == "false"
    (tmp_path / "models/global.h5").write_bytes(b"changed")
    assert run_content.origin(tmp_path)["git.dirty"] == "true"


@pytest.mark.parametrize("name", ["global", "pruned"])
def test_models_load_and_predict_the_same(name: str, tracked: Path, opened: connection.Store) -> None:
    import mlflow.tensorflow
    import tensorflow as tf

    registered = f"models:/{'digits' if name == 'global' else 'digits-pruned'}/1"
    x = np.random.default_rng(1).random((5, 4, 4, 1), np.float32)
    expected = tf.keras.models.load_model(tracked / f"models/{name}.h5", compile=False)(x).numpy()
    np.testing.assert_array_equal(mlflow.tensorflow.load_model(registered)(x).numpy(), expected)
    info = mlflow.models.get_model_info(registered)
    assert info.metadata == {"classes": CLASSES}


def test_both_model_pages_have_the_same_names_for_scores(opened: connection.Store, run: mlflow.entities.Run) -> None:
    models = {model.name: model for model in opened.client.search_logged_models([run.info.experiment_id])}
    scores = {name: {metric.key: metric.value for metric in model.metrics} for name, model in models.items()}
    assert scores["global"] == {"accuracy": 0.75, "loss": 0.5, "size_bytes": 4000}
    of_pruned = {"accuracy": 0.7, "loss": 0.6, "size_bytes": 3900, "tflite_size_bytes": 900, "sparsity": 0.8}
    assert scores["pruned"] == of_pruned


def test_a_version_has_a_description_tags_and_the_alias_candidate(
    opened: connection.Store, run: mlflow.entities.Run
) -> None:
    for name, loss, accuracy in (("digits", "0.5", "0.75"), ("digits-pruned", "0.6", "0.7")):
        version = opened.client.get_model_version_by_alias(name, "candidate")
        assert version.run_id == run.info.run_id
        assert version.description.endswith(f": loss {loss}, accuracy {accuracy} on the hold-out data.")
        assert (version.tags["loss"], version.tags["diagnosis.clean"]) == (loss, "false")
        assert "champion" not in opened.client.get_registered_model(name).aliases


def test_baselines_are_scores_of_the_run_and_of_no_model(opened: connection.Store, run: mlflow.entities.Run) -> None:
    assert (run.data.metrics["pooled_loss"], run.data.metrics["clients_better_alone"]) == (0.4, 1)
    for output in run.outputs.model_outputs:
        names = {metric.key for metric in opened.client.get_logged_model(output.model_id).metrics or []}
        assert "loss" in names
        assert not names & {"pooled_loss", "clients_better_alone"}
    assert run.data.tags["mlflow.note.content"].endswith("\n\nThe federation pays for some.")


def test_a_run_that_was_begun_gets_what_it_lacks(tracked: Path, opened: connection.Store, tmp_path: Path) -> None:
    for name in ("data", "models", "params.yaml"):
        (tmp_path / name).symlink_to(tracked / name)
    shutil.copytree(tracked / "reports", tmp_path / "reports")
    settings = load(tmp_path / "params.yaml")
    mine = connection.connect(tmp_path)
    run_id = run_content.create(mine.client, mine.experiment_id, settings, tmp_path, {"flow": "42"})
    run_content.log_settings(mine.client, run_id, settings)
    rows = files.read_rows(tracked / "reports/rounds.csv")
    # The logged rounds have a gap after a kill, and if a restored step comes before a step that runs.
    assert (
        run_content.log_rounds(mine.client, run_id, [*rows[:7], rows[8]])
        == run_content.last_round(mine.client, run_id)
        == 9
    )
    finished_run.log_finished(settings, tmp_path, run_id)
    history = mine.client.get_metric_history(run_id, "num_clients")
    assert sorted(point.step for point in history) == list(range(1, ROUNDS + 1))
    run = mine.client.get_run(run_id)
    assert (run.info.status, run.data.tags["flow"], run.data.metrics["accuracy"]) == ("RUNNING", "42", 0.75)
    assert files.read_json(tmp_path / "reports/mlflow.json")["run_id"] == run_id


def copy_of(finished: Path, folder: Path) -> Path:
    for name in ("data", "models", "params.yaml", "mlflow.db", "mlartifacts"):
        (folder / name).symlink_to(finished / name)
    shutil.copytree(finished / "reports", folder / "reports")
    return folder


def test_a_model_becomes_champion_only_after_its_run_was_compared_with_the_last_good_one(
    tracked: Path, tmp_path: Path
) -> None:
    quiet = {"verdict": "none", "question": "rise", "increase": {"detected": False}, "causes": []}

    def night(name: str) -> Session:
        folder = tmp_path / ".runs" / name
        folder.mkdir(parents=True)
        for path in ("data", "models", "params.yaml"):
            (folder / path).symlink_to(tracked / path)
        shutil.copytree(tracked / "reports", folder / "reports")
        files.write_json(folder / "reports/diagnosis.json", quiet)
        settings = with_settings(load(folder / "params.yaml"), {"track.promote": True})
        session = Session(Workspace(tmp_path, folder), settings, {})
        session.is_compared = True
        session.finish()
        return session

    worse, client = night("worse"), connection.connect(tmp_path).client
    assert client.get_registered_model("digits").aliases == {"candidate": 1}
    against, run_id = worse.workspace.folder / "reports/against", worse.mlflow()["run_id"]
    files.write_json(against / "diagnosis.json", quiet | {"question": "against", "worse": True})
    (against / "diagnosis.md").write_text("# Why\n\nIt is worse.\n")
    verdict_tags.mark(client, run_id, against)
    registry.found_worse(client, run_id)
    worse.promote()
    worse.end("FINISHED")
    assert client.get_registered_model("digits").aliases == {"candidate": 1}
    version = client.get_model_version("digits", "1")
    assert version.tags["promotion"] == "not promoted: the diagnosis is not clean: It is worse."
    assert (version.tags["diagnosis.question"], version.tags["diagnosis.clean"]) == ("against", "false")
    said = str(version.description).split("\n\n")
    assert (said[0], said[-1]) == ("It is worse.", "Not promoted: the diagnosis is not clean: It is worse.")

    good = night("good")
    assert client.get_registered_model("digits").aliases == {"candidate": 2}
    good.promote()
    good.end("FINISHED")
    for name in ("digits", "digits-pruned"):
        assert client.get_registered_model(name).aliases == {"candidate": 2, "champion": 2}


def test_an_attempt_killed_as_it_logged_leaves_no_model_twice(
    tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt logs one model and begins the second; the next attempt continues in the same run."""
    folder = copy_of(tracked, tmp_path)
    settings, mine = load(folder / "params.yaml"), connection.connect(folder)
    run_id = run_content.create(mine.client, mine.experiment_id, settings, folder)

    def die_in_second(store: connection.Store, run: str, name: str, *others: object) -> str:
        if name == "pruned":
            store.client.create_logged_model(store.experiment_id, name=name, source_run_id=run)
            raise SystemExit(9)
        return log(store, run, name, *others)  # type: ignore[arg-type]

    log = logged_models.log_model
    settings = with_settings(settings, {"track.register_as": ""})
    with monkeypatch.context() as killed:
        killed.setattr(logged_models, "log_model", die_in_second)
        with pytest.raises(SystemExit):
            finished_run.log_finished(settings, folder, run_id)
    finished_run.log_finished(settings, folder, run_id)
    found = mine.client.search_logged_models([mine.experiment_id], filter_string=f"source_run_id = '{run_id}'")
    assert sorted(model.name for model in found) == ["global", "pruned"]
    assert {str(model.status) for model in found} == {"READY"}
    pruned = next(model for model in found if model.name == "pruned")
    assert {metric.key for metric in pruned.metrics} >= {"accuracy", "loss"}


def test_a_run_with_the_same_settings_and_results_is_logged_once(tracked: Path, tmp_path: Path) -> None:
    """The case of results that DVC restored: the folder has no reports/mlflow.json, the store has the run."""
    folder = copy_of(tracked, tmp_path)
    report, tracked_file = (folder / name for name in (tracked_results.REPORT, tracked_results.TRACKED))
    expected = report.read_text(), tracked_file.read_text()
    for path in (report, tracked_file):
        path.unlink()
    settings = load(folder / "params.yaml")
    assert finished_run.find_logged(settings, folder)
    assert (report.read_text(), tracked_file.read_text()) == expected
    # Where clients are trained is no part of a result; the seed is, also if the results are the same.
    assert finished_run.find_logged(with_settings(settings, {"federate.runtime.threads": 2}), folder)
    assert not finished_run.find_logged(with_settings(settings, {"seed": 5}), folder)
    (folder / "reports/prune.json").write_text('{"other": 1}')
    assert not finished_run.find_logged(settings, folder)


def test_a_run_that_is_not_finished_or_deleted_holds_no_results(tracked: Path, tmp_path: Path) -> None:
    opened = connection.connect(tmp_path)
    results = tracked_results.results_of(load(tracked / "params.yaml"), tracked)
    create = partial(opened.client.create_run, opened.experiment_id, tags={tracked_results.TAG: results.digest})
    failed, deleted, older, newer = (create().info.run_id for _ in range(4))
    opened.client.set_terminated(failed, "FAILED")
    assert tracked_results.find(opened, results) == ""
    for run_id in (deleted, older, newer):
        opened.client.set_terminated(run_id)
    opened.client.delete_run(deleted)
    assert tracked_results.find(opened, results) in (older, newer)
    opened.client.delete_run(newer)
    assert tracked_results.find(opened, results) == older


def test_a_report_of_other_results_names_no_run(tracked: Path, tmp_path: Path) -> None:
    """The case of `dvc checkout` of another run: DVC restores tracked.json, and not reports/mlflow.json."""
    folder = copy_of(tracked, tmp_path)
    run_id = files.read_json(folder / "reports/mlflow.json")["run_id"]
    assert tracked_results.run_in(folder) == run_id
    path = folder / "reports/tracked.json"
    path.write_text(json.dumps({**files.read_json(path), "digest": "0" * 32}))
    assert tracked_results.run_in(folder) == ""
    path.write_text("[]")
    assert tracked_results.run_in(folder) == ""
    path.unlink()  # an earlier version wrote none
    assert tracked_results.run_in(folder) == run_id


@pytest.mark.slow
def test_dvc_repro_changes_no_lock_and_the_command_finds_the_run_of_restored_results(
    finished: Path, tmp_path: Path
) -> None:
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["track"]
    of_code = ("tasks", "flows")
    deps = [path for path in stage["deps"] if not path.startswith(of_code)]
    command = f"{sys.executable} -m flows.tracking"
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"track": {**stage, "cmd": command, "deps": deps}}}))
    for name in ("data", "models", "reports"):
        shutil.copytree(finished / name, tmp_path / name, ignore=shutil.ignore_patterns("mlflow.json", "tracked.json"))
    shutil.copy(finished / "params.yaml", tmp_path)
    dvc(tmp_path, "init", "--no-scm")
    params, lock, report = (tmp_path / name for name in ("params.yaml", "dvc.lock", "reports/mlflow.json"))

    def repro(says: str) -> str:
        assert says in dvc(tmp_path, "repro")
        return str(files.read_json(report)["run_id"])

    first = repro("Running stage 'track'")
    locked = lock.read_bytes()
    assert repro("didn't change") == first
    usual = params.read_text()
    params.write_text(usual.replace("seed: 0", "seed: 1", 1))
    second = repro("Running stage 'track'")
    params.write_text(usual)
    assert repro("is cached") == second  # of the settings before
    assert lock.read_bytes() == locked
    assert tracked_results.run_in(tmp_path) == ""
    assert run_command(tmp_path).returncode == 0
    assert tracked_results.run_in(tmp_path) == first != second
    assert "up to date" in dvc(tmp_path, "status")
    # A new clone on another machine: neither its store nor its cache has the run.
    shutil.rmtree(tmp_path / ".dvc/cache")
    for path in (*tmp_path.glob("mlflow.db*"), report, tmp_path / "reports/tracked.json"):
        path.unlink()
    assert repro("Running stage 'track'") not in (first, second)
    assert lock.read_bytes() == locked


def dvc(folder: Path, *arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def run_ids(folder: Path) -> dict[str, str]:
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return {run.info.run_id: run.info.status for run in client.search_runs(["1"])}


@pytest.mark.slow
def test_a_run_left_by_a_killed_track_is_ended_by_the_next(finished: Path, tmp_path: Path) -> None:
    for name in ("data", "models"):
        (tmp_path / name).symlink_to(finished / name)
    shutil.copytree(finished / "reports", tmp_path / "reports")
    shutil.copy(finished / "params.yaml", tmp_path)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    killed = subprocess.Popen(
        [sys.executable, "-m", "flows.tracking"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    until = time.monotonic() + 120
    while not (tmp_path / ".mlflow-run").exists():
        assert killed.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    ((first, status),) = run_ids(tmp_path).items()
    assert status == "RUNNING"
    params = tmp_path / "params.yaml"
    params.write_text(
        params.read_text().replace("seed: 0", "seed: 1", 1)
    )  # with this seed, the killed run's rounds would be others
    done = run_command(tmp_path)
    assert done.returncode == 0, done.stderr
    second = files.read_json(tmp_path / "reports/mlflow.json")["run_id"]
    assert run_ids(tmp_path) == {first: "KILLED", second: "FINISHED"}
    assert not (tmp_path / ".mlflow-run").exists()


def test_git_does_not_see_the_record_of_a_run() -> None:
    names = [".mlflow-run", ".undrift.lock"]
    ignored = subprocess.run(["git", "check-ignore", "--no-index", *names], cwd=ROOT, capture_output=True, text=True)
    assert ignored.stdout.split() == names


def test_the_record_of_a_flow_run_is_left_alone(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The case of a user who calls `python -m flows.tracking` in the folder of a flow run."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / ".runs" / "some-id"
    folder.mkdir(parents=True)
    for name in ("data", "models", "params.yaml"):
        (folder / name).symlink_to(finished / name)
    shutil.copytree(finished / "reports", folder / "reports")
    (folder / ".mlflow-run").write_text("0123 KILLED")
    finished_run.track(with_settings(load(folder / "params.yaml"), {"track.register_as": ""}), folder)
    assert (folder / ".mlflow-run").read_text() == "0123 KILLED"


def test_a_step_that_was_not_run_is_named(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    done = run_command(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: data/partition/partition.json is missing: run the step that makes it first\n"
    assert not (tmp_path / "mlflow.db").exists()


def test_a_failed_log_marks_the_run_failed(tracked: Path, opened: connection.Store, tmp_path: Path) -> None:
    for name in ("data", "models", "params.yaml"):
        (tmp_path / name).symlink_to(tracked / name)
    shutil.copytree(tracked / "reports", tmp_path / "reports")
    (tmp_path / "mlartifacts").write_text("a file where MLflow needs a folder")
    done = run_command(tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: MLflow at sqlite:///mlflow.db: ")
    assert "Traceback" not in done.stderr
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiments = [each.experiment_id for each in client.search_experiments()]
    assert [each.info.status for each in client.search_runs(experiments, run_view_type=ViewType.ALL)] == ["FAILED"]
    assert not (tmp_path / "reports/mlflow.json").exists()  # the file would name an earlier run


def test_a_run_that_is_interrupted_is_killed_in_mlflow(opened: connection.Store) -> None:
    run_id = opened.client.create_run(opened.experiment_id).info.run_id
    with pytest.raises(SystemExit), finished_run.ending(opened.client, run_id):
        raise SystemExit(143)
    assert opened.client.get_run(run_id).info.status == "KILLED"


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_one_line(tracked: Path) -> None:
    done = run_command(tracked, MLFLOW_TRACKING_URI="http://me:secret@127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "http://127.0.0.1:9" in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    "address",
    [
        "http://me:pass/se cret@127.0.0.1:9",
        pytest.param("http://127.0.0.1:9?token=secret", marks=pytest.mark.slow),
        pytest.param("postgresql://me:secret@127.0.0.1:9/db?sslpassword=secret", marks=pytest.mark.slow),
        pytest.param("me:secret@127.0.0.1:9", marks=pytest.mark.slow),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_password(tracked: Path, address: str) -> None:
    done = run_command(tracked, MLFLOW_TRACKING_URI=address, MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")
    (line,) = done.stderr.splitlines()
    assert (done.returncode in (1, 2), line.startswith("error: ")) == (True, True)
    assert not any(word in line for word in ("secret", "se cret", "cret@"))


def test_a_store_is_named_without_its_password(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"sqlite:///{tracked / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{address}?timeout=30&token=s3cret/77")
    assert connection.connect(tracked).uri == address
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cret77@127.0.0.1:9?password=s3cret77")
    with pytest.raises(UndriftError, match=r"MLflow at http://127\.0\.0\.1:9: it does not answer") as raised:
        connection.connect(tracked)
    assert "s3cret" not in str(raised.value)


@pytest.mark.slow
def test_the_report_holds_no_password_of_the_store(tracked: Path, tmp_path: Path) -> None:
    for name in ("data", "models", "params.yaml"):
        (tmp_path / name).symlink_to(tracked / name)
    shutil.copytree(tracked / "reports", tmp_path / "reports")
    address = f"sqlite:///{tmp_path / 'mlflow.db'}?timeout=30&token=s3cret/77"
    done = run_command(tmp_path, MLFLOW_TRACKING_URI=address)
    assert done.returncode == 0, done.stderr
    report = files.read_json(tmp_path / "reports/mlflow.json")
    assert report["tracking_uri"] == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert "s3cret" not in done.stderr


@pytest.mark.slow
def test_processes_that_begin_at_once_share_one_fresh_database(tmp_path: Path) -> None:
    connect = "from flows.mlflow_store.connection import connect"
    script = f"from pathlib import Path; {connect}; print(connect(Path()).experiment_id)"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert {each.communicate(timeout=120)[0] for each in starts} == {"1\n"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_private_workspaces_share_the_repository_s_store(tmp_path: Path) -> None:
    assert connection.store_folder(tmp_path / ".runs/some-id") == tmp_path
    assert connection.store_folder(tmp_path / ".dvc/tmp/exps/tmp1") == tmp_path
    assert connection.store_folder(tmp_path) == tmp_path


def test_a_deleted_experiment_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fresh = connection.connect(tmp_path)
    fresh.client.delete_experiment(fresh.experiment_id)
    with pytest.raises(RunError, match="mlflow experiments restore"):
        connection.connect(tmp_path)
