"""Runs rounds again from before the rise: the same seeds, the same sampled clients, one factor changed."""

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.clients import Examples
from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.checkpointed import CheckpointedStates
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.replay.variants import Variants
from tasks.errors import NoClientLeft, SettingsError
from tasks.federate import runner
from tasks.federate.loop import identity_of
from tasks.federate.record import RoundLine
from tasks.federate.runner import Runner
from tasks.federate.schedule import clients_per_round, sample
from tasks.federate.state import ClientResult, ServerState
from tasks.round_log.columns import LOSS_COLUMNS
from tasks.runtime.failed import Failed
from tasks.runtime.kinds import runtime
from tasks.settings import Settings

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class Replay:
    """Rounds of one run with one change and one seed, as far as they have been run.

    Attributes:
        change: what is different in it.
        runner: of its rounds.
        state: after the last round that was run.
        next_round: the round to be run next.
        start_loss: hold-out loss of the model that it starts from.
        losses: after each round so far, by column (`val_loss`, `train_loss`); infinite once no client is left whose
            update is finite. If no client took part in a round, its `train_loss` is the one of the round before.
        lines: what each round logged.
        broken: whether no client is left whose update is finite.
    """

    change: Change
    runner: Runner
    state: ServerState
    next_round: int
    start_loss: float = np.nan
    losses: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in LOSS_COLUMNS})
    lines: list[RoundLine] = field(default_factory=list)
    broken: bool = False

    @property
    def ended(self) -> bool:
        """Whether its change ends training before the next round."""
        return bool(self.next_round > self.change.settings.get("federate.rounds", self.next_round))

    @property
    def costs(self) -> bool:
        """Whether its next round trains: after training has ended or broken down, the losses stay as they are."""
        return not self.broken and not self.ended

    def run_round(self) -> None:
        """Runs the next round."""
        if self.costs:
            try:
                done = self.runner.step(self.state, self.next_round)
                self.state = done.state
                self.lines.append(done.line)
            except NoClientLeft:
                self.broken = True
        for name, losses in self.losses.items():
            losses.append(self._loss(name))
        self.next_round += 1

    def losses_without(self, clients: tuple[str, ...]) -> list[float]:
        """Returns the training loss after each round so far, over the other clients; infinite if none of them is left.

        If no client took part in a round, it is the loss of the round before.
        """
        rows = {line.round: line.clients for line in self.lines}
        first = self.next_round - len(self.losses["train_loss"])
        losses, last = [], np.inf
        for round_num in range(first, self.next_round):
            others = [row for row in rows.get(round_num, ()) if row["finite"] and row["client"] not in clients]
            used = [(row["weight"] or 0.0, row["loss_before"]) for row in others if row["loss_before"] is not None]
            total = sum(weight for weight, _ in used)
            if total:
                last = sum(weight * loss for weight, loss in used) / total
            losses.append(last if np.isfinite(last) and not self.broken else np.inf)
        return losses

    def _loss(self, name: str) -> float:
        if self.ended and not self.lines:
            return self.start_loss if name == "val_loss" else np.inf
        rows = (line.row for line in reversed(self.lines))
        measured = (row for row in rows if name == "val_loss" or row["num_clients"] > row["num_failed"])
        row: Mapping[str, Any] = {} if self.broken else next(measured, {})
        loss = row.get(name)
        return float(loss) if loss is not None and np.isfinite(loss) else np.inf


class Replayer:
    """Replays of one run, all from the model after one of its rounds; made by `replayer`.

    Attributes:
        settings: of the run; every round is evaluated, and no rise ends a replay.
        cohort: its clients.
        model: the global model.
        from_round: round after which the replays start.
        sound_after: last round after which the model was sound.
        spent: rounds that the replays have taken.
    """

    def __init__(self, settings: Settings, folder: Path, holder: Path, cache: ComputationCache) -> None:
        """See `Variants`."""
        self._variants = variants = Variants(settings, folder, holder, cache)
        self.settings, self.cohort, self.model = variants.settings, variants.cohort, variants.model
        self._fresh = variants.unchanged.fresh()
        identity = identity_of(settings, self.cohort, self.model, variants.phase)
        self._saved = CheckpointedStates(folder, variants.phase.name, identity, self.cohort, self._fresh)
        self.spent = self.from_round = self.sound_after = 0
        self._state, self._loss = self._fresh, np.nan
        self._unchanged: Replay | None = None

    def go_to(self, latest: int) -> None:
        """Starts the replays from the last checkpoint at or before round `latest`, after which the model was sound.

        Without such a checkpoint, as after a run that came from DVC's cache, the rounds up to there are run again.
        """
        self.sound_after, self._unchanged = latest, None
        saved, runner_ = self._saved.latest(latest), self._variants.unchanged
        if saved is not None:
            self.from_round, self._state = saved, self._saved.after(saved)
        else:
            every = self.settings.federate.checkpoint_every
            self.from_round = latest // every * every
            if self.from_round:
                _log.info("no checkpoint: running rounds 1 to %d again", self.from_round)
            replay = Replay(NO_CHANGE, runner_, self._fresh, 1)
            while replay.next_round <= self.from_round:
                replay.run_round()
            self._state = replay.state
        self._loss = runner_.validate(self._state.params)[0]

    @property
    def params(self) -> NDArray[np.float32]:
        """(P,) the global model that the replays start from."""
        return np.asarray(self._state.params)

    @property
    def loss(self) -> float:
        """Loss of the hold-out data under that model, nats per example."""
        return self._loss

    @property
    def last_round(self) -> int:
        """The last round of the run."""
        return self._variants.phase.last

    @property
    def num_clients(self) -> int:
        """The number of clients of the run."""
        return len(self.cohort.clients)

    def num_examples(self, client: str) -> int:
        """Returns the number of a client's examples today; -1 if it is not among the clients."""
        info = self.cohort.clients.get(client)
        return info.num_examples if info else -1

    def at_clients(self, compute: Callable[[str, Examples], T], clients: Iterable[str] | None = None) -> dict[str, T]:
        """Returns what a client computation gives at each of `clients` (None: all), by client; see `Variants`."""
        return self._variants.at_clients(compute, self.cohort.clients if clients is None else clients)

    @cached_property
    def as_they_are(self) -> bool:
        """Whether a logged loss is the model's loss on a client's own examples as they are, and nothing else.

        It is not if one of these holds:
        1. Examples are augmented, or public ones are added.
        2. The model draws random numbers while it trains.
        3. The model adds a penalty to the loss.
        """
        augment = self.settings.preprocess.augment
        others = augment.flip or augment.brightness > 0 or self.settings.federate.shared_fraction > 0
        return not (others or self.model.losses or self._variants.draws)

    @property
    def saved(self) -> list[int]:
        """The rounds after which the run's model is known, ascending: 0, before the first, and its checkpoints."""
        return self._saved.rounds

    def params_after(self, saved: int) -> NDArray[np.float32]:
        """Returns the run's model (P,) after round `saved`, one of `saved`."""
        return np.asarray(self._saved.after(saved).params)

    def hold_out_loss(self, saved: int) -> float:
        """Returns the loss of today's hold-out data under the run's model after round `saved`, one of `saved`."""
        return float(self._variants.unchanged.validate(self.params_after(saved))[0])

    def updates(
        self, round_num: int, clients: Sequence[str] | None = None, seed: int = 0
    ) -> dict[str, ClientResult | Failed]:
        """Returns what `clients` (None: all) send in round `round_num` from the model that the replays start from.

        It counts as the rounds that it takes until each of them has been drawn once. Another `seed` draws other
        batches.
        """
        senders = list(self.cohort.clients) if clients is None else clients
        self._spend(len(senders))
        runner_, state = self._variants.again(seed, self._state)
        return runner_.updates(state, round_num, senders)

    def repeated(self, round_num: int, clients: Sequence[str]) -> dict[str, ClientResult]:
        """Returns what training on today's data gives `clients` in a round that is reached, less those that fail.

        What a simulated fault makes of an update is not in it. What it makes of data is in it, from the first round on.
        It counts as the rounds that it takes until each client has been drawn once. If the replay has not come to the
        run's model before that round, its `loss_before` is not the logged one.
        """
        state = self._before(round_num)
        if not np.isfinite(state.params).all():
            return {}
        self._spend(len(clients))
        results = self._variants.honest(self._state).updates(state, round_num, clients)
        return {client: result for client, result in results.items() if not isinstance(result, Failed)}

    def first_batch(self, round_num: int, client: str) -> NDArray[np.int32]:
        """Returns which of its examples the client's first batch of the round holds."""
        return self._variants.unchanged.order(client, round_num)[: self.settings.federate.client.batch_size]

    def drawn(self, round_num: int) -> list[str]:
        """Returns the clients that the run's sampling draws in a round in which no client has been excluded, sorted.

        With `power_of_choice`, they are the candidates, of which the model's losses decide.
        """
        sampling, clients = self.settings.federate.sampling, self.cohort.clients
        sizes = {client: info.num_examples for client, info in clients.items()}
        return sample(sampling, sizes, self.settings.seed, round_num, {c: info.labels for c, info in clients.items()})

    @property
    def unchanged(self) -> Replay:
        """The replay that changes nothing and draws what the run drew, as far as it has been run."""
        if self._unchanged is None:
            self._unchanged = self.begin(NO_CHANGE, 0)
        return self._unchanged

    def reaches(self, round_num: int) -> bool:
        """Returns whether the model before a round is saved, or is one that the replay of nothing comes to."""
        return round_num - 1 in self.saved or round_num >= self.unchanged.next_round

    def _before(self, round_num: int) -> ServerState:
        if round_num - 1 in self.saved:
            return self._saved.after(round_num - 1)
        self.advance(self.unchanged, round_num - 1)
        return self.unchanged.state

    def begin(self, change: Change, seed: int) -> Replay:
        """Returns a replay of which no round has been run; seed 0 draws what the run drew.

        Raises:
            SettingsError: the run's other settings or its data do not allow the change.
        """
        runner_, state = self._variants.changed(change, seed, self._state)
        return Replay(change, runner_, state, self.from_round + 1, self._loss)

    def begin_after(self, saved: int, change: Change, seed: int = 0) -> Replay:
        """Returns a replay like `begin`, from the model after round `saved`, one of `saved`.

        Raises:
            SettingsError: see `begin`.
        """
        runner_, state = self._variants.changed(change, seed, self._saved.after(saved))
        return Replay(change, runner_, state, saved + 1)

    def advance(self, replay: Replay, until: int) -> None:
        """Runs `replay` up to round `until`, as far as it has not been run; rounds without training cost nothing."""
        while replay.next_round <= min(until, self.last_round):
            self.spent += replay.costs
            replay.run_round()

    def _spend(self, num_clients: int) -> None:
        per_round = clients_per_round(self.settings.federate.sampling, self.num_clients)
        self.spent += -(-num_clients // per_round)


def begun(replays: Replayer, change: Change, seed: int, from_round: int) -> Replay | None:
    """Returns a replay of which no round has been run; None, with a line in the log, if the change is not allowed.

    `from_round` is the round that the log names as its start.
    """
    try:
        replay = replays.begin(change, seed)
    except SettingsError as exc:
        _log.info("no replay (%s): %s", change.says, exc)
        return None
    again = f", seed {seed + 1}" if seed else ""
    _log.info("replay from round %d: %s%s", from_round, change.says or "nothing changed", again)
    return replay


@contextmanager
def replayer(settings: Settings, folder: Path, cache: ComputationCache | None = None) -> Iterator[Replayer]:
    """Yields what replays the run with `settings` in the workspace `folder`; nothing is left after the block.

    Args:
        settings: of the run.
        folder: its workspace.
        cache: of computations, for several replayers to share; None: an own one.

    Raises:
        UndriftError: the clients' data are missing, or not those that the settings can train on.
    """
    with holding(settings, folder) as holder, replaying(settings, holder):
        yield Replayer(settings, folder, holder, cache or ComputationCache())


@contextmanager
def holding(settings: Settings, folder: Path) -> Iterator[Path]:
    """Yields a new folder for changed data, which is gone after the block.

    It is in the workspace `folder` if the clients are computed on other machines, which read these data.
    """
    there = folder / "models" if settings.federate.runtime.kind == "dask" else None
    if there is not None:
        there.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="replays-", dir=there) as holder:
        yield Path(holder).resolve()


@contextmanager
def replaying(settings: Settings, holder: Path) -> Iterator[None]:
    """Lets replays run in the block, where `federate.runtime` says; `holder` is that of `holding`.

    They do not say which clients fail: a client that fails in a replay fails in every one, and the run's own log has
    said so.
    """
    noisy = logging.getLogger(runner.__name__)
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with runtime(settings.federate.runtime, holder):
            yield
    finally:
        noisy.setLevel(level)
