"""What is looked at in a run in which nothing rose, and what is suspected, before any replay.

Nothing here needs TensorFlow, unless a suspicion does: most runs have none, and its import takes seconds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tasks.arrays import LogitsOf
from tasks.diagnose.evidence.findings import mean_label_distance
from tasks.diagnose.standing.choices import course_of, of_settings
from tasks.diagnose.standing.examine import Examination, StoredSites, examine, model_judge
from tasks.diagnose.standing.first_model import FirstModel
from tasks.diagnose.standing.judges import Judge
from tasks.diagnose.standing.senders import odd_senders
from tasks.diagnose.standing.suspicion import Suspicion
from tasks.round_log.read import ClientLog, RoundLog
from tasks.settings import Settings

_BATCH = 256
"""Examples that the global model predicts at a time."""


@dataclass
class Looked:
    """What was looked at in one run.

    Attributes:
        settings: of the run.
        workspace: with the clients' data.
        rounds: rounds.csv.
        log: clients.csv, the rounds of training.
        last: the last round of training.
        sites: the clients' data.
        examination: what they show.
        odd: clients whose updates are odd in the log.
        with_settings: whether settings are suspected.
    """

    settings: Settings
    workspace: Path
    rounds: RoundLog
    log: ClientLog
    last: int
    sites: StoredSites
    examination: Examination
    odd: tuple[str, ...]
    with_settings: bool = True

    @cached_property
    def first_model(self) -> FirstModel:
        """Of the run."""
        return FirstModel(self.settings, self.sites)

    @property
    def suspects_anything(self) -> bool:
        """Whether anything is suspected, as far as that is known without a replay."""
        return bool(self.examination.suspects or self.odd or self.choices or self.hold_out_is_odd)

    @cached_property
    def logged(self) -> dict[int, float]:
        """The hold-out loss of the rounds of training in which it was measured."""
        return self.rounds.hold_out

    @property
    def hold_out_is_odd(self) -> bool:
        """Whether most clients' labels contradict the hold-out data, and the model does better on the clients' data."""
        most = 2 * len(self.examination.disagreeing) > len(self.examination.clients)
        column = self.rounds.losses.get("train_loss")
        if not most or column is None or not self.logged:
            return False
        known = column.values[column.given & ~self.rounds.pruning]
        return bool(len(known) and self.logged[max(self.logged)] > 2 * known[-1])

    @cached_property
    def choices(self) -> list[Suspicion]:
        """The settings that may be in the way."""
        return list(self._of_settings(lambda: self.first_model.slope))

    @property
    def looks_at_settings(self) -> bool:
        """Whether the log shows how the run went from its first model on."""
        column = self.rounds.losses.get("train_loss")
        known = bool(self.logged) and column is not None and bool(column.given[0])
        return self.with_settings and known and int(self.rounds.rounds[0]) == 1

    def _of_settings(self, slope: Callable[[], float]) -> Iterator[Suspicion]:
        column = self.rounds.losses.get("train_loss")
        if column is None or not self.looks_at_settings:
            return iter(())
        first = float(column.values[0])
        course = course_of(self.rounds, self.log, first, self.logged[max(self.logged)])
        labels = {client: np.asarray(each.labels) for client, each in self.sites.checked_in.clients.items()}
        return of_settings(course, self.settings, mean_label_distance(labels), slope)


def look(settings: Settings, workspace: Path, rounds: RoundLog, log: ClientLog, with_settings: bool) -> Looked:
    """Returns what is looked at; see `Looked`.

    Raises:
        UndriftError: the data are missing, or not those that the settings can train on.
    """
    last = int(rounds.rounds[~rounds.pruning][-1])
    sites = StoredSites(settings, workspace, last)
    significance = settings.diagnose.significance
    examination = examine(sites, significance, _accuracy(rounds), lambda: judge_of_model(settings, workspace, sites))
    return Looked(
        settings, workspace, rounds, log, last, sites, examination, odd_senders(log, significance), with_settings
    )


def _accuracy(rounds: RoundLog) -> float | None:
    if rounds.accuracy is None:
        return None
    known = rounds.accuracy.values[rounds.accuracy.given & ~rounds.pruning]
    return float(known[-1]) if len(known) else None


def judge_of_model(settings: Settings, workspace: Path, sites: StoredSites) -> Judge | None:
    """Returns the judge that sees the logits of the run's model; None if there is no model."""
    path = workspace / "models/global.h5"
    if not path.is_file():
        return None
    from tasks.models import load_model, logits_of

    form = sites.checked_in.form
    logits: LogitsOf = logits_of(load_model(path, settings.federate.model, form.input_shape, form.num_classes), _BATCH)
    return model_judge(logits, sites.test)
