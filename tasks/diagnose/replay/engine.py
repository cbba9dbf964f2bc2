"""Runs rounds again from before the rise: the same seeds, the same sampled clients, one factor changed."""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks.clients import CLIENTS, TEST, Examples, read_client, write_client
from tasks.diagnose.replay.change import NOTHING, Change
from tasks.errors import NoClientLeft
from tasks.federate import runner
from tasks.federate.aggregators import check
from tasks.federate.checkpoint import checkpoints_of, load_state, saved_states
from tasks.federate.cohort import Cohort, cohort_of
from tasks.federate.round import Round
from tasks.federate.rounds import identity_of
from tasks.federate.runner import Phase, Runner, build_computations
from tasks.federate.schedule import clients_per_round
from tasks.files import read_json, read_rows, write_json
from tasks.local import faults
from tasks.models import build
from tasks.parameters import digest
from tasks.round_log.columns import LOSS_COLUMNS
from tasks.runtime.failed import Failed
from tasks.runtime.kinds import runtime
from tasks.settings import FaultSettings, RuntimeSettings, Settings, with_settings

_log = logging.getLogger(__name__)

# What a round's computations do not depend on: these come with each client's input, or are the host's business.
_PER_ROUND = ("rounds", "evaluate_every", "checkpoint_every", "guard", "local_work", "exclude", "early_stopping")
_SEED_STEP = 7919
"""Between the seeds of two replays; any number that is no user's next seed."""

_COMPUTATIONS: dict[str, Round] = {}
_KEPT = 32
"""Computations of this process and how many are kept, the oldest forgotten first: to trace one takes seconds, and they
do not depend on the data, so that whoever diagnoses many runs traces each but once."""


@dataclass
class Course:
    """One replay under way.

    Attributes:
        change: what is different in it.
        losses: after each round so far, by column (`val_loss`, `train_loss`); infinite once no client is left whose
            update is finite.
        lines: what each round logged.
    """

    change: Change
    runner: Runner
    state: Any
    next_round: int
    losses: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in LOSS_COLUMNS})
    lines: list[Mapping[str, Any]] = field(default_factory=list)
    broken: bool = False

    @property
    def ended(self) -> bool:
        """Whether its change ends training before the next round."""
        return bool(self.next_round > self.change.settings.get("federate.rounds", self.next_round))


class Replayer:
    """Replays of one run; use it as the context that `replayer` gives."""

    def __init__(self, settings: Settings, folder: Path, holder: Path) -> None:
        self.settings = with_settings(settings, {"federate.evaluate_every": 1, "federate.guard": "continue"})
        self._run, self._folder, self._holder = settings, folder, holder
        self.cohort = cohort_of(settings, folder)
        self.model = build(settings.federate.model, self.cohort.input_shape, self.cohort.num_classes, settings.seed)
        self.phase = Phase("federate", 1, settings.federate.rounds)
        self._cohorts: dict[str, Cohort] = {}
        self._initial = Runner(self.settings, self.cohort, self.model, self.phase, self._of(self.settings, self.cohort))
        self._fresh = self._initial.fresh()
        # Data that changed in the course of the run are what a diagnosis looks for: the model may be of others.
        identity = identity_of(settings, self.cohort, self.model, self.phase)
        self._saved = saved_states(folder, self.phase.name, identity)
        if not self._saved and _logged_as_reported(
            folder, self.phase.name, self.cohort, by_place="kept" in self._fresh
        ):
            others = {name: value for name, value in identity.items() if name != "data"}
            self._saved = saved_states(folder, self.phase.name, others)
        self._loaded: tuple[int, Any] | None = None
        self.spent = 0
        self.from_round = self.sound_after = 0
        self._state = self._fresh
        self._loss = np.nan
        self._unchanged: Course | None = None

    def go_to(self, latest: int) -> None:
        """Starts the replays from the last checkpoint at or before round `latest`, after which the model was sound.

        Where no checkpoints are, as after a run that came from DVC's cache, the rounds up to there are run again.
        """
        self.sound_after, self._unchanged = latest, None
        usable = [round_num for round_num in self._saved if round_num <= latest]
        if usable:
            self.from_round = max(usable)
            self._state = self._after(self.from_round)
        else:
            every = self.settings.federate.checkpoint_every
            self.from_round = latest // every * every
            _log.info("no checkpoint: running rounds 1 to %d again", self.from_round)
            course = Course(NOTHING, self._initial, self._fresh, 1)
            while course.next_round <= self.from_round:
                self._step(course)
            self._state = course.state
        self._loss = self._initial.validate(self._state["server"]["params"])[0]

    @property
    def params(self) -> NDArray[np.float32]:
        """(P,) the global model that the replays start from."""
        return np.asarray(self._state["server"]["params"])

    @property
    def loss(self) -> float:
        """Loss of the hold-out data under that model."""
        return self._loss

    def data(self) -> dict[str, Examples]:
        """Returns the clients' preprocessed examples, without public ones, as a simulated fault leaves them."""
        return {client: self._examples(client) for client in self.cohort.clients}

    def _examples(self, client: str) -> Examples:
        x, y = read_client(self._folder / CLIENTS / client)
        simulated = self.settings.federate.faults
        if client not in simulated.clients:
            return x, y
        told = faults.told(simulated, self.settings.seed, simulated.from_round, client)
        found = faults.examples(simulated, told, tf.constant(x), tf.constant(y), self.cohort.num_classes)
        return found[0].numpy(), found[1].numpy()

    def updates(self, round_num: int, clients: Sequence[str] | None = None, seed: int = 0) -> dict[str, Any]:
        """Returns what `clients` (None: all) send in round `round_num` from the model that the replays start from.

        That counts as the rounds that it takes until each of them has been drawn once. Another `seed` draws other
        batches.
        """
        asked = list(self.cohort.clients) if clients is None else clients
        self._spend(len(asked))
        if not seed:
            return self._initial.updates(self._state, round_num, asked)
        again = self.course(NOTHING, seed)
        return again.runner.updates(again.state, round_num, asked)

    @property
    def saved(self) -> list[int]:
        """The rounds after which the run's model is known, ascending: 0, before the first, and its checkpoints."""
        return sorted({0, *self._saved})

    def params_after(self, saved: int) -> NDArray[np.float32]:
        """Returns the run's model (P,) after round `saved`, one of `saved`."""
        return np.asarray(self._after(saved)["server"]["params"])

    def _after(self, saved: int) -> Any:
        if not saved:
            return self._fresh
        # Whoever asks for one client after the other asks for the same state, which may be of gigabytes.
        if self._loaded is None or self._loaded[0] != saved:
            self._loaded = saved, load_state(self._saved[saved], self._fresh)
        return self._loaded[1]

    @property
    def unchanged(self) -> Course:
        """The replay that changes nothing and draws what the run drew, as far as it has been run."""
        if self._unchanged is None:
            self._unchanged = self.course(NOTHING, 0)
        return self._unchanged

    def reaches(self, round_num: int) -> bool:
        """Whether the model before a round is known, or given by the replay that changes nothing."""
        return round_num - 1 in self.saved or round_num >= self.unchanged.next_round

    def _before(self, round_num: int) -> Any:
        if round_num - 1 in self.saved:
            return self._after(round_num - 1)
        self.advance(self.unchanged, round_num - 1)
        return self.unchanged.state

    def repeated(self, round_num: int, clients: Sequence[str]) -> dict[str, Any]:
        """Returns what training on today's data gives `clients` in a round that is reached; who fails is left out.

        What a fault makes of an update is not in it, and what it makes of data is, from whichever round on either is
        simulated. It counts as the rounds that drawing the clients takes. If the replay has not come to the run's model
        before that round, neither is the `loss_before` of its clients the logged one.
        """
        state = self._before(round_num)
        if not np.isfinite(state["server"]["params"]).all():
            return {}
        self._spend(len(clients))
        found = self._trained().updates(state, round_num, clients)
        return {client: result for client, result in found.items() if not isinstance(result, Failed)}

    def _trained(self) -> Runner:
        simulated = self.settings.federate.faults
        if simulated.kind == "none":
            return self._initial
        honest = (
            FaultSettings() if simulated.kind not in faults.OF_DATA else simulated.model_copy(update={"from_round": 1})
        )
        return self.course(Change("", {"federate.faults": honest.model_dump(mode="json")}), 0).runner

    def first_batch(self, round_num: int, client: str) -> NDArray[np.int32]:
        """Returns which of its examples the client's first batch of the round holds."""
        return self._initial.order(client, round_num)[: self.settings.federate.client.batch_size]

    def _spend(self, num_clients: int) -> None:
        per_round = clients_per_round(self.settings.federate.sampling, len(self.cohort.clients))
        self.spent += -(-num_clients // per_round)

    def course(self, change: Change, seed: int) -> Course:
        """Returns a replay that has not begun; seed 0 draws what the run drew.

        Raises:
            SettingsError: the run's other settings or its data do not allow the change.
        """
        settings = with_settings(self.settings, change.settings)
        if change.surgery and settings.federate.faults.kind in faults.OF_DATA:
            # What was operated on has the fault in it already.
            settings = with_settings(settings, {"federate.faults": FaultSettings().model_dump(mode="json")})
        cohort = self._cohort(settings, change)
        check(settings, len(cohort.clients))
        computations = self._of(settings, cohort)
        stepper = Runner(
            settings,
            cohort,
            self.model,
            self.phase,
            computations,
            local_seed=self.settings.seed + seed * _SEED_STEP,
            absent=change.without,
            validate=self._initial.validate,
        )
        return Course(change, stepper, self._start(settings, cohort, stepper), self.from_round + 1)

    def advance(self, course: Course, until: int) -> None:
        """Runs `course` up to round `until`, as far as it has not been run."""
        while course.next_round <= min(until, self.phase.last):
            self.spent += not course.broken and not course.ended
            self._step(course)

    def _step(self, course: Course) -> None:
        if course.ended and not course.lines:
            for name, losses in course.losses.items():
                losses.append(self._loss if name == "val_loss" else np.inf)
            course.next_round += 1
            return
        if not course.broken and not course.ended:
            try:
                done = course.runner.step(course.state, course.next_round)
                course.state = done.state
                course.lines.append(done.line)
            except NoClientLeft:
                # Of the clients that were drawn none may take part: nothing changes. Else the model is past saving.
                course.broken = not course.change.without
        row = course.lines[-1]["row"] if course.lines and not course.broken else {}
        for name, losses in course.losses.items():
            loss = row.get(name)
            losses.append(float(loss) if loss is not None and np.isfinite(loss) else np.inf)
        course.next_round += 1

    def _start(self, settings: Settings, cohort: Cohort, runner: Runner) -> Any:
        """The state of the checkpoint, as far as what it holds means the same under `settings`."""
        now, before = settings.federate, self.settings.federate
        fresh = runner.fresh()
        state, fresh["server"] = self._state, dict(fresh["server"])
        fresh["server"]["params"] = state["server"]["params"]
        if now.server_optimizer == before.server_optimizer:
            fresh["server"]["optimizer"] = state["server"]["optimizer"]
        if now.aggregator == before.aggregator:
            fresh["aggregator"] = state["aggregator"]
        if now.client.kind == before.client.kind:
            if "shared" in state["server"]:
                fresh["server"]["shared"] = state["server"]["shared"]
            if "kept" in state:
                fresh["kept"] = state["kept"]
                if _shares(cohort) != _shares(self.cohort):
                    fresh = runner.settled(fresh, list(cohort.clients))
        return fresh

    def _cohort(self, settings: Settings, change: Change) -> Cohort:
        federate = settings.federate
        key = json.dumps(
            [*change.surgery, federate.aggregator.weighting, federate.shared_fraction, sorted(federate.exclude)]
        )
        if key not in self._cohorts:
            folder = self._operated(change) if change.surgery else self._folder
            self._cohorts[key] = cohort_of(settings, folder)
        return self._cohorts[key]

    def _operated(self, change: Change) -> Path:
        folder = self._holder / f"{len(self._cohorts)}"
        sites: Mapping[str, Examples] = self.data()
        for surgery in change.surgery.values():
            sites = surgery(sites)
        for client, (x, y) in sites.items():
            write_client(folder / CLIENTS / client, x, y)
        shutil.copytree(self._folder / CLIENTS / TEST, folder / CLIENTS / TEST)
        described = read_json(self._folder / CLIENTS / "preprocess.json")
        # Clients that are excluded or broken stay named, so that they are here what they were in the run.
        described["clients"] |= {client: len(y) for client, (_, y) in sites.items()}
        write_json(folder / CLIENTS / "preprocess.json", described)
        return folder

    @cached_property
    def as_they_are(self) -> bool:
        """Whether a logged loss is that of the client's own examples as they are, of the model and of nothing else.

        Not with augmentation or public examples, nor where the model draws random numbers or adds a penalty.
        """
        augment = self.settings.preprocess.augment
        others = augment.flip or augment.brightness > 0 or self.settings.federate.shared_fraction > 0
        return not (others or self.model.losses or self._of(self.settings, self.cohort).draws)

    def _of(self, settings: Settings, cohort: Cohort) -> Round:
        federate = settings.model_dump(mode="json")["federate"]
        for name in _PER_ROUND:
            del federate[name]
        del federate["client"]["learning_rate"], federate["client"]["schedule"]
        shape = [cohort.input_shape, cohort.num_classes, len(cohort.clients)]
        augment = settings.preprocess.augment.model_dump(mode="json")
        key = json.dumps([federate, augment, shape, digest(self.model), cohort.shared is not None and cohort.digest])
        if key not in _COMPUTATIONS:
            while len(_COMPUTATIONS) >= _KEPT:
                del _COMPUTATIONS[next(iter(_COMPUTATIONS))]
            _COMPUTATIONS[key] = build_computations(settings, cohort, self.model, masked=False)
        return _COMPUTATIONS[key]


def _logged_as_reported(folder: Path, phase: str, cohort: Cohort, by_place: bool) -> bool:
    """Whether the log beside the checkpoints is that of reports/rounds.csv, and of the cohort: else of another run.

    What clients keep is stored `by_place` among all: of other clients, it would go to the wrong ones.
    """
    log, reported = checkpoints_of(folder, phase) / "log.jsonl", folder / "reports/rounds.csv"
    if not log.is_file() or not reported.is_file():
        return False
    rows = {row["round"]: row.get("train_loss", "") for row in read_rows(reported)}
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        took_part = {row["client"] for line in lines for row in line["clients"] if row["finite"]}
        reported_lines = [(line["row"]["train_loss"], rows.get(str(line["round"]))) for line in lines]
        pairs = [(loss, float(text)) for loss, text in reported_lines if text]
    except (ValueError, KeyError, TypeError):
        return False
    same = took_part == {*cohort.clients} if by_place else took_part <= {*cohort.clients, *cohort.broken}
    return bool(pairs and same) and all(
        one is not None and np.isclose(one, other, rtol=1e-5, equal_nan=True) for one, other in pairs
    )


def _shares(cohort: Cohort) -> dict[str, float]:
    return {client: info.share for client, info in cohort.clients.items()}


@contextmanager
def replayer(settings: Settings, folder: Path) -> Iterator[Replayer]:
    """Yields what replays the run with `settings` in the workspace `folder`, in this process; nothing is left after.

    Raises:
        UndriftError: the clients' data are missing, or not those that the settings can train on.
    """
    threads = RuntimeSettings(threads=settings.federate.runtime.threads)
    with tempfile.TemporaryDirectory() as holder, runtime(threads), _hushed():
        yield Replayer(settings, folder, Path(holder))


@contextmanager
def _hushed() -> Iterator[None]:
    """A client that fails in a replay fails in every one: the run's own log has said so."""
    noisy = logging.getLogger(runner.__name__)
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        yield
    finally:
        noisy.setLevel(level)
