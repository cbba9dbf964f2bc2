"""Runs of one of two runs with some of their differences taken back, from raw data to the last round."""

import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.clients import TEST, read_raw, writing
from tasks.diagnose.compared.code import trained_by
from tasks.diagnose.compared.differences import Difference
from tasks.diagnose.compared.side import PARTITION, Side
from tasks.diagnose.replay.change import NO_CHANGE
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.replay.engine import Replay, Replayer, holding, replaying
from tasks.errors import UndriftError
from tasks.federate.schedule import stops_early
from tasks.files import write_json
from tasks.preprocess import preprocess
from tasks.settings import Settings, with_settings


@dataclass
class Mixtures:
    """Runs with differences taken back; made by `mixtures`.

    All have the hold-out data of `this`, so that their losses can be compared.

    Attributes:
        this: the run whose loss is higher.
        other: the run with which it is compared.
        holder: an empty folder.
        cache: of computations.
        code: the folder with the code of `other`; None if that cannot be tried.
        spent: rounds that were run.
        refused: why a mixture could not be run, by its differences.
    """

    this: Side
    other: Side
    holder: Path
    cache: ComputationCache
    code: Path | None = None
    spent: int = 0
    refused: dict[frozenset[Difference], str] = field(default_factory=dict)
    _folders: dict[tuple[Any, ...], Path] = field(default_factory=dict)
    _replayers: dict[str, Replayer] = field(default_factory=dict)
    _losses: dict[tuple[frozenset[Difference], int], dict[int, float]] = field(default_factory=dict)

    def settings_of(self, taken_back: Collection[Difference]) -> Settings:
        """Returns the settings with the differences taken back.

        Raises:
            SettingsError: they do not fit each other.
        """
        changes = {name: value for each in taken_back for name, value in each.settings.items()}
        return with_settings(self.this.settings, changes)

    def knows(self, taken_back: Collection[Difference], seed: int) -> bool:
        """Returns whether `losses` needs no further round."""
        return (frozenset(taken_back), seed) in self._losses or frozenset(taken_back) in self.refused

    def tell(self, taken_back: Collection[Difference], losses: Mapping[int, float]) -> None:
        """Says the hold-out loss by round with seed 0, where a run's own log has it."""
        self._losses[frozenset(taken_back), 0] = dict(losses)

    def losses(self, taken_back: Collection[Difference], seed: int) -> dict[int, float] | None:
        """Returns the hold-out loss by round, nats per example.

        None, with the reason in `refused`, if it cannot be run.

        Args:
            taken_back: the differences that are taken back.
            seed: 0 draws what the run drew.
        """
        key = frozenset(taken_back)
        if key in self.refused:
            return None
        if (key, seed) not in self._losses:
            try:
                self._losses[key, seed] = self._run(key, seed)
            except UndriftError as exc:
                self.refused[key] = str(exc)
                return None
        return self._losses[key, seed]

    def _run(self, taken_back: frozenset[Difference], seed: int) -> dict[int, float]:
        settings = self.settings_of(taken_back)
        folder = self._data(taken_back, settings)
        if any(each.what == "code" for each in taken_back):
            if self.code is None:
                raise UndriftError("the code of the other run is not there")
            self.spent += settings.federate.rounds
            return trained_by(self.code, settings, folder, seed)
        key = repr((str(folder), settings.model_dump(mode="json")))
        if key not in self._replayers:
            if not (folder / "data/clients").is_dir():
                preprocess(settings, folder)
            self._replayers[key] = Replayer(settings, folder, self._fresh(), self.cache)
            self._replayers[key].go_to(0)
        replays = self._replayers[key]
        replay = replays.begin(NO_CHANGE, seed)
        while replay.next_round <= settings.federate.rounds and not _ended(settings, replay):
            replays.advance(replay, replay.next_round)
            self.spent += 1
        return dict(enumerate(replay.losses["val_loss"], start=1))

    def _data(self, taken_back: frozenset[Difference], settings: Settings) -> Path:
        """The folder with data/partition: this run's clients, but those of `taken_back` as they were."""
        sources = self._sources(taken_back)
        of = (settings.preprocess.normalize, *((client, side.digests[client]) for client, side in sources.items()))
        if of in self._folders:
            return self._folders[of]
        folder = self._folders[of] = self._fresh()
        form = {"classes": self.this.content["classes"], "images": self.this.content["images"]}
        form |= {"input_shape": self.this.content["input_shape"]}
        sizes = {client: side.sizes[client] for client, side in sources.items()}
        with writing(folder / PARTITION, list(sizes)) as write:
            for client, side in sources.items():
                write(client, *read_raw(side.stored[client]))
            write(TEST, *read_raw(self.this.stored[TEST]))
        described: dict[str, Any] = {c: side.content["clients"][c] for c, side in sources.items()}
        write_json(folder / PARTITION / "partition.json", form | {"clients": described})
        return folder

    def _sources(self, taken_back: frozenset[Difference]) -> dict[str, Side]:
        """Client to the run whose data it has, sorted by id.

        Raises:
            UndriftError: the two runs' examples have another form.
        """
        with_data = [each for each in taken_back if each.clients or each.whole]
        if with_data and self.this.kind_of_data != self.other.kind_of_data:
            raise UndriftError("the examples of the two runs have different shapes or classes")
        if any(each.whole for each in with_data):
            return dict.fromkeys(sorted(self.other.digests), self.other)
        sources = dict.fromkeys(self.this.digests, self.this)
        for each in with_data:
            for client in each.clients:
                if each.what == "new_client":
                    del sources[client]
                else:
                    sources[client] = self.other
        return {client: sources[client] for client in sorted(sources)}

    def _fresh(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.holder))


def _ended(settings: Settings, replay: Replay) -> bool:
    """Whether early stopping ended the run."""
    early = settings.federate.early_stopping
    return bool(early.patience) and stops_early(early, [line.row["train_loss"] for line in replay.lines])


@contextmanager
def mixtures(this: Side, other: Side, cache: ComputationCache, code: Path | None = None) -> Iterator[Mixtures]:
    """Yields what runs mixtures of two runs; nothing is left after the block."""
    with holding(this.settings, this.workspace) as holder, replaying(this.settings, holder):
        yield Mixtures(this, other, holder, cache, code)
