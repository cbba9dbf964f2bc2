"""A stand-in for a replayer: each replay has the losses that the test gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np

from tasks.diagnose.confirmation import Confirmation
from tasks.diagnose.incident import Incident
from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.engine import Replay
from tasks.diagnose.window import Window
from tasks.errors import SettingsError
from tasks.settings import Settings
from tests.diagnosis_values import RISE, client_log

START, FIRST, LAST = 15, 16, 19
LEVEL, RISEN = 0.3, 1.2
"""Both losses before the rise, and in the replay with nothing changed."""


def loss_of(share: float) -> float:
    """Returns the loss of a replay in which a share of the rise, on the logarithm, is gone."""
    return LEVEL * (RISEN / LEVEL) ** (1 - share)


@dataclass
class ScriptedReplayer:
    """Replays with given losses: the share of the rise that each change removes, by its `says`; 0 if not given.

    Attributes:
        val: shares of `val_loss`; a sequence has one share a seed.
        train: shares of `train_loss`; the default is the share in `val`.
        refused: changes that the settings do not allow.
        failed: failed clients of each round; a sequence has one number a seed.
        broken_from: the round in which no client is left.
        late: shares of both losses after the window, by `says`; the default is the share in the window.
        restarted: shares of both losses in replays from round 1, by `says`; the default is as in other replays.
        ran: (what the change says, seed) of each replay that was begun.
        ran_from_start: what the change says, of each replay that was begun before round 1.
    """

    val: Mapping[str, float | Sequence[float]] = field(default_factory=dict)
    train: Mapping[str, float | Sequence[float]] | None = None
    refused: Sequence[str] = ()
    failed: Mapping[str, int | Sequence[int]] = field(default_factory=dict)
    broken_from: Mapping[str, int] = field(default_factory=dict)
    from_round: int = START
    last_round: int = 30
    num_clients: int = 10
    spent: int = 0
    late: Mapping[str, float | Sequence[float]] = field(default_factory=dict)
    restarted: Mapping[str, float] = field(default_factory=dict)
    ran: list[tuple[str, int]] = field(default_factory=list)
    ran_from_start: list[str] = field(default_factory=list)
    loss: float = LEVEL
    settings: Settings = field(default_factory=Settings)
    cohort: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(test_y=np.array([0, 1])))

    def __post_init__(self) -> None:
        self.unchanged = self._replay(NO_CHANGE, 0)

    def begin(self, change: Change, seed: int) -> Replay:
        if change.says in self.refused:
            raise SettingsError("not allowed")
        if change is not NO_CHANGE:
            self.ran.append((change.says, seed))
        return self._replay(change, seed)

    def begin_after(self, saved: int, change: Change, seed: int = 0) -> Replay:
        if change.says in self.refused:
            raise SettingsError("not allowed")
        self.ran_from_start.append(change.says)
        return self._replay(change, seed, saved + 1)

    def advance(self, replay: Replay, until: int) -> None:
        while replay.next_round <= min(until, self.last_round):
            self.spent += replay.costs
            replay.run_round()
            if replay.next_round == self.broken_from.get(replay.change.says):
                replay.broken = True

    def _replay(self, change: Change, seed: int, first: int = 0) -> Replay:
        shares = self.val, self.val if self.train is None else self.train
        losses = [loss_of(_of_seed(by.get(change.says, 0.0), seed)) for by in shares]
        failed = _of_seed(self.failed.get(change.says, 0), seed)
        late = [loss_of(_of_seed(self.late[change.says], seed))] * 2 if change.says in self.late else losses
        if first == 1 and change.says in self.restarted:
            losses = late = [loss_of(self.restarted[change.says])] * 2

        def step(state: None, round_num: int) -> SimpleNamespace:
            val, train = (LEVEL, LEVEL) if round_num < FIRST else late if round_num > LAST else losses
            row = {"val_loss": val, "train_loss": train, "num_failed": failed, "num_clients": self.num_clients}
            clients = [{"client": f"{k:02}", "loss_before": train, "num_examples": 10} for k in range(self.num_clients)]
            return SimpleNamespace(state=state, line=SimpleNamespace(round=round_num, row=row, clients=clients))

        return Replay(change, SimpleNamespace(step=step), None, first or self.from_round + 1, self.loss)


def _of_seed(value: float | Sequence[float], seed: int) -> float:
    return value[seed] if isinstance(value, Sequence) else value


def window(loss="val_loss", rounds=None, **levels) -> Window:
    """Rounds 16 to 19 of a rise of `loss`; both losses were at LEVEL before it."""
    counted = tuple(range(FIRST, LAST + 1)) if rounds is None else rounds
    return Window(loss, FIRST, LAST, counted, {"val_loss": LEVEL, "train_loss": LEVEL, **levels})


def confirmation(replays: ScriptedReplayer, allowed: int = 1000, hidden: tuple[str, ...] = ()) -> Confirmation:
    """Replays to the end of a run whose losses rose to RISEN in round FIRST and stayed there."""
    column = "train_loss" if hidden else "val_loss"
    rise = replace(RISE, loss=column, round=FIRST, until=30, alarm=FIRST, loss_before=LEVEL, clients=hidden)
    rounds = np.arange(1, 31)
    losses = np.where(rounds < FIRST, LEVEL, RISEN)
    hold_out = dict(zip(rounds.tolist(), losses.tolist(), strict=True))
    incident = Incident(rise, rounds, losses, (0.0, 0.0), START, hold_out)
    return Confirmation(replays, incident, client_log(["03"], 30), allowed)  # type: ignore[arg-type]
