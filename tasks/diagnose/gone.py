"""A fault that has gone: the log shows wrong rows of a few clients, and without these rows the loss does not rise."""

from collections.abc import Sequence

import numpy as np

from tasks.diagnose import verdict
from tasks.diagnose.causes import Candidate
from tasks.diagnose.causes.base import Indication
from tasks.diagnose.incident import Incident
from tasks.diagnose.investigation import Gone, Proof
from tasks.diagnose.phrases import measured
from tasks.diagnose.replay.agreement import Disagreement, RowDifference, differing, logged_rows
from tasks.diagnose.replay.change import NO_CHANGE, Change
from tasks.diagnose.replay.effect import Effect, removed
from tasks.diagnose.replay.engine import Replayer
from tasks.diagnose.replay.trials import Trials
from tasks.diagnose.window import reproduced
from tasks.round_log.read import ClientLog

EARLIER = 2
"""Most rounds from the wrong rows to the first round of the rise: train_loss shows an update one round later, and a
rise that begins slowly is dated too late."""
_CHECKPOINTS = 3
"""Most later rounds, of those with a known model, in which the same clients' rows are compared again."""


def gone_fault(
    replays: Replayer, trials: Trials, incident: Incident, log: ClientLog, found: Disagreement | None
) -> Proof | None:
    """Returns the proof of a fault that has gone; None if there is none, or if it is not certain.

    It is one if all of these hold:
    1. The replay of the run agrees with the log up to a round right before the rise, or in its first rounds.
    2. In this round, the rows of a minority of the clients differ from what training on their data gives. The other
       clients' rows agree, so the round began with the run's model.
    3. In no seed does the loss rise without these rows, up to the end of the rounds that are compared. Together, the
       seeds pass the test that every cause has to pass.

    Only the clients whose row differs first are blamed: after that the global models differ, so every row differs.

    Args:
        replays: of the run.
        trials: with the replay that changes nothing.
        incident: the rise.
        log: clients.csv, without rounds of pruning.
        found: where that replay first differs from the log.
    """
    if found is None or not found.of_few or any(row.kind == "other" for row in found.rows):
        return None
    if not incident.first - EARLIER <= found.round <= incident.alarm:
        return None
    effect = gone_effect(trials, incident)
    if not effect.proven:
        return None
    change = Change("with the updates that training on today's data gives")
    kinds = {row.kind for row in found.rows}
    fault = {"data": "data", "update": "updates"}[kinds.pop()] if len(kinds) == 1 else ""
    last = _last_evident_round(replays, log, found, incident.until)
    evidence = tuple(_indication(row, found.round) for row in found.rows)
    return Proof(
        Candidate("faulty_clients", change, found.clients),
        effect,
        trials.window.loss,
        logged_losses(trials, incident),
        trials.unchanged_mean(trials.window.loss),
        Gone((found.round, last), fault),
        evidence,
        "log_without",
    )


def gone_effect(trials: Trials, incident: Incident) -> Effect:
    """Returns the share of the logged rise that is gone with nothing changed, by seed; no seed if one's loss rises."""
    window, shares = trials.window, []
    rounds = [r for r in window.rounds if r in incident.logged]
    logged = [incident.logged[r] for r in rounds]
    for seed in range(verdict.SEEDS):
        if seed and not trials.affords(1):
            break
        trials.run_unchanged(seed)
        losses = dict(zip(window.rounds, trials.losses(NO_CHANGE, seed=seed), strict=False))
        if reproduced(list(losses.values()), logged, incident.loss_after, window.level):
            return Effect(())
        both = [r for r in rounds if r in losses]
        shares.append(
            removed([incident.logged[r] for r in both], [losses[r] for r in both], window.level) if both else np.nan
        )
    return Effect(tuple(share for share in shares if np.isfinite(share)))


def logged_losses(trials: Trials, incident: Incident) -> tuple[float, ...]:
    """Returns the logged loss of each round after the checkpoint, NaN where it was not measured."""
    return tuple(incident.logged.get(r, np.nan) for r in range(trials.start + 1, trials.window.last + 1))


def _last_evident_round(replays: Replayer, log: ClientLog, found: Disagreement, until: int) -> int:
    """The last round whose model is known and in which the same clients' rows still differ."""
    last = found.round
    later = [saved + 1 for saved in replays.saved if found.round <= saved < until]
    for round_num in later[:_CHECKPOINTS]:
        logged = {c: row for c, row in logged_rows(log, round_num).items() if c in found.clients and row["finite"]}
        if not logged:
            continue
        results = replays.repeated(round_num, sorted(logged))
        trained = {
            client: {
                "finite": result.finite,
                "num_steps": result.num_steps,
                "loss_before": float(result.loss_before),
                "update_norm": float(np.linalg.norm(np.asarray(result.update, np.float64))),
            }
            for client, result in results.items()
        }
        if not differing({c: logged[c] for c in trained}, trained):
            break
        last = round_num
    return last


def _indication(row: RowDifference, round_num: int) -> Indication:
    if row.kind == "data":
        return Indication(
            "loss_before",
            row.logged,
            row.replayed,
            f"In round {round_num}, client {row.client} logged a loss of {row.logged:.7g} before local training. Its "
            f"data of today have a loss of {row.replayed:.7g} under the same model, so it trained on other data.",
        )
    ratio = row.logged / row.replayed
    return Indication(
        "sent_over_trained",
        ratio,
        1.0,
        f"In round {round_num}, client {row.client} sent an update that is {measured(ratio)} times as long as the "
        "update that training on its data gives.",
    )


def says_where(found: Disagreement | None) -> str:
    """Returns where the replay first differs from the log, in a sentence; empty if it does not."""
    if found is None:
        return ""
    clients = "all clients" if len(found.rows) == found.num_clients else f"{len(found.rows)} of {found.num_clients}"
    named = f" ({', '.join(_first(found.clients))})" if found.of_few else ""
    return f"The replay first differs from the log in round {found.round}, in the rows of {clients}{named}."


def _first(clients: Sequence[str]) -> Sequence[str]:
    return clients if len(clients) <= 5 else [*clients[:5], f"{len(clients) - 5} more"]
