"""`diagnose --against`: the diagnosis of one run beside another."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from tasks import outputs
from tasks.diagnose.changed_data import data_changed
from tasks.diagnose.compared.answer import Answer
from tasks.diagnose.compared.code import SAME_CODE, OtherCode
from tasks.diagnose.compared.compare import compare
from tasks.diagnose.compared.comparison import Comparison
from tasks.diagnose.compared.differences import Difference, differences
from tasks.diagnose.compared.mixtures import Mixtures, mixtures
from tasks.diagnose.compared.seeds import keep_seeds, read_seeds
from tasks.diagnose.compared.side import Side
from tasks.diagnose.diagnosis import Diagnosis
from tasks.diagnose.observe.client_signals import client_signals
from tasks.diagnose.observe.observation import observe
from tasks.diagnose.phrases import count
from tasks.diagnose.replay.computations import ComputationCache
from tasks.diagnose.report.wording import headline
from tasks.diagnose.standing.ends import ending_of, mean_at_end, mean_loss
from tasks.diagnose.standing.examine import Examination, StoredSites, examine
from tasks.diagnose.standing.look import judge_of_model
from tasks.diagnose.step import write_reports
from tasks.diagnose.verdict import SEEDS
from tasks.errors import InputError, UndriftError
from tasks.files import remove, replacing
from tasks.round_log.read import ClientLog, RoundLog, read_clients, read_rounds

_log = logging.getLogger(__name__)

AGAINST = "against"
"""The folder below `reports` with the diagnosis of a run beside the last good run."""


def diagnose_against(reports: Path, this: Side, other: Side, code: OtherCode = SAME_CODE) -> Diagnosis:
    """Writes why `this`, whose logs are in `reports`, ends with a higher loss than `other`, and returns it.

    Raises:
        InputError: `this` ended early, or the two runs cannot be compared; the files of an earlier diagnosis stay.
        DataError: a file, a column or a number is missing.
    """
    with outputs.renewed([reports / Path(name).name for name in outputs.OUTPUTS["diagnose"]]):
        rounds, clients = read_rounds(reports / "rounds.csv"), read_clients(reports / "clients.csv")
        answer = explained(rounds, clients.without(rounds.rounds[rounds.pruning]), this, other, code)
        write_reports(reports, answer, rounds, clients, this.workspace)
    _log.info("%d rounds: %s", len(rounds.rounds), headline(answer))
    return answer


def diagnose_if_worse(reports: Path, this: Side, other: Side, code: OtherCode = SAME_CODE) -> Diagnosis:
    """Does the same, but writes into the folder AGAINST of `reports`, and only if `this` is worse than `other`.

    The run's own diagnosis stays as it is. If `this` clearly is not worse, few rounds are replayed or none.

    Raises:
        UndriftError: as `diagnose_against`.
    """
    remove(reports / AGAINST)
    rounds, clients = read_rounds(reports / "rounds.csv"), read_clients(reports / "clients.csv")
    trained = clients.without(rounds.rounds[rounds.pruning])
    answer = explained(rounds, trained, this, other, code, screened=True)
    if answer.against is not None and answer.against.worse:
        with replacing(reports / AGAINST) as fresh:
            fresh.mkdir()
            write_reports(fresh, answer, rounds, clients, this.workspace)
    _log.info("%s", headline(answer))
    return answer


def is_no_higher(this: Side, other: Side) -> bool:
    """Returns whether the logs say that `this` does not end with a higher loss than `other` on the same hold-out data.

    Where not every round was measured, the measured ones of the last rounds count. False if the logs do not say it.
    """
    mine, others = _of_whole_run(this), _of_whole_run(other)
    if this.hold_out_digest != other.hold_out_digest or not mine or not others:
        return False
    return mean_at_end(mine) <= mean_at_end(others)


def explained(
    rounds: RoundLog,
    clients: ClientLog,
    this: Side,
    other: Side,
    code: OtherCode = SAME_CODE,
    cache: ComputationCache | None = None,
    screened: bool = False,
) -> Diagnosis:
    """Returns why `this` ends with a higher loss than `other`, or that it does not.

    Args:
        rounds: rounds.csv of `this`.
        clients: clients.csv of `this`.
        this: the run.
        other: the run with which it is compared.
        code: what of the code of `other` differs, and where it is.
        cache: of computations.
        screened: as for `compare`.

    Raises:
        InputError: `this` ended early, or the two runs cannot be compared.
    """
    settings, trained = this.settings, rounds.rounds[~rounds.pruning]
    if not len(trained) or (len(trained) < settings.federate.rounds and not settings.federate.early_stopping.patience):
        raise InputError(
            f"{this.name} ended after {count(len(trained), 'round')} of {settings.federate.rounds}, so its loss says "
            "nothing beside another run: diagnose it without --against"
        )
    last = int(trained[-1])
    found = differences(this, other, code.names)
    tryable = [each for each in found if each.what != "code" or code.folder is not None]
    with mixtures(this, other, cache or ComputationCache(), code.folder) as mixed:
        compared = _compared(mixed, found, tryable, rounds, last, screened)
    observation = observe(rounds, clients, settings.diagnose.significance)
    named = {client for cause in compared.causes for each in cause.differences for client in each.clients}
    answer = Answer(this, other, found, compared, _examination(this, last) if named else None)
    healthy = tuple(client for client in observation.healthy if client not in named)
    limits = (*_limits(this, other, compared, found), *([code.says] if code.says else []))
    return Diagnosis(
        observation.rise,
        (),
        client_signals(observation),
        limits,
        causes=answer.causes,
        not_finished=answer.not_finished,
        remedies=answer.remedies,
        budget=answer.budget,
        signals={},
        standing=answer.standing,
        not_looked_at=healthy,
        against=answer.against,
    )


def _compared(
    mixed: Mixtures,
    found: Sequence[Difference],
    tryable: list[Difference],
    rounds: RoundLog,
    last: int,
    screened: bool,
) -> Comparison:
    this, other = mixed.this, mixed.other
    settings = this.settings.diagnose
    logged = rounds.hold_out
    if {*ending_of(last)} <= {*logged} and not data_changed(this.settings, this.workspace):
        mixed.tell((), logged)
    alike, known = this.hold_out_digest == other.hold_out_digest, None
    if alike:
        known, of_other = read_seeds(other), _logged(other)
        ends_at = mean_at_end(of_other)
        if known and of_other and known[0] != ends_at:  # measured for other code: seed 0 is the run itself
            known = None
        # If nothing differs but the losses, what makes them differ was not compared.
        is_other = bool(tryable) or ends_at == mean_loss(logged, ending_of(last))
        if of_other and len(tryable) == len(found) and is_other:
            mixed.tell(tryable, of_other)
        elif of_other:  # no replay makes the other run's losses, but its log has one
            known = (ends_at,)
    compared = compare(mixed, tryable, last, known, settings.budget, settings.significance, screened)
    if alike and known is None and tryable and len(tryable) == len(found) and len(compared.other) == SEEDS:
        keep_seeds(other, compared.other)
    return compared


def _logged(side: Side) -> dict[int, float]:
    """The hold-out loss by round, if each round at the end of the run was measured; otherwise {}."""
    losses = _of_whole_run(side)
    return losses if {*ending_of(max(losses, default=0))} <= {*losses} else {}


def _of_whole_run(side: Side) -> dict[int, float]:
    """The hold-out loss by round in the log of a run that ran to its end; {} if it is not known or not of its data."""
    with suppress(UndriftError):
        losses, settings = read_rounds(side.workspace / "reports/rounds.csv").hold_out, side.settings
        complete = max(losses, default=0) == settings.federate.rounds or bool(settings.federate.early_stopping.patience)
        if complete and not data_changed(settings, side.workspace):
            return losses
    return {}


def _examination(this: Side, last: int) -> Examination | None:
    """What the clients' data show beside the hold-out data; None if that cannot be looked at."""
    with suppress(UndriftError):
        sites = StoredSites(this.settings, this.workspace, last)
        judge = partial(judge_of_model, this.settings, this.workspace, sites)
        return examine(sites, this.settings.diagnose.significance, None, judge)
    return None


def _limits(this: Side, other: Side, compared: Comparison, found: Sequence[Difference]) -> Iterator[str]:
    if this.hold_out_digest != other.hold_out_digest:
        yield (
            f"The hold-out data differ from those of {other.name}. Both losses are measured on the hold-out data of "
            "this run."
        )
    if not found:
        yield f"Nothing that a result depends on differs from {other.name}, as far as it was compared."
    if compared.worse and not compared.causes:
        tried = "no single difference" if found else "no difference"
        yield f"No cause is proven: {tried} that was taken back removes half of what the loss is higher."
