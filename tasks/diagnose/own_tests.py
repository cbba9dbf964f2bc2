"""The tests by which a cause is proven or refuted apart from replays of its change."""

from dataclasses import dataclass, replace

from tasks.diagnose import before, hold_out
from tasks.diagnose.causes import Candidate
from tasks.diagnose.evidence.drift_of_data import DataDrift
from tasks.diagnose.evidence.findings import Findings
from tasks.diagnose.evidence.unseen import Unseen, earliest_start, halves, unseen_losses
from tasks.diagnose.incident import Incident
from tasks.diagnose.investigation import Proof
from tasks.diagnose.replay.engine import Replayer
from tasks.diagnose.replay.trials import Trials
from tasks.diagnose.tournament import NOT_REPLAYED, unproven
from tasks.local.probe import Probe
from tasks.round_log.read import ClientLog

REFUTATIONS = (hold_out.REFUTED, before.WITH_THEM)
"""Why a cause is not proven, if that refutes it; for any other reason, it is not known whether it is one."""


@dataclass
class OwnTests:
    """These tests of one rise, with what they measured.

    Attributes:
        replays: of the run.
        probe: of its model.
        trials: whose budget the tests share.
        incident: the rise.
        log: clients.csv.
        unseen: the losses of a model that half of the clients did not train, by which overfitting was tested; None if
            it was not tested.
        first_half: the same, if the hold-out data were tested; None if not.
    """

    replays: Replayer
    probe: Probe
    trials: Trials
    incident: Incident
    log: ClientLog
    unseen: Unseen | None = None
    first_half: Unseen | None = None

    def refuted(self, candidate: Candidate) -> str:
        """Returns why the candidate is refuted; empty if it is not.

        Overfitting has to pass a test: clients' data that were not trained on have a high loss, too.
        """
        if candidate.cause != "overfitting":
            return ""
        last, left = self.trials.window.last, self.trials.allowed - self.trials.spent
        start = earliest_start(self.replays, last, left)
        self.unseen = self.unseen or self.first_half
        if self.unseen is None and start is not None:
            left_out, _ = halves(list(self.replays.cohort.clients))
            self.unseen = unseen_losses(self.replays, self.probe, start, last, left_out)
        if self.unseen is None:
            return "it could not be tested on data of clients that were not trained on"
        return "" if self.unseen.overfits else "the loss on data of clients that were not trained on stays low"

    def decided(self, candidate: Candidate, findings: Findings) -> Proof:
        """Returns the proof of a cause that no replay of its change can decide about, or why it is not proven."""
        if candidate.cause == "hold_out_shift":
            return self._of_hold_out(candidate, findings.drift)
        if candidate.cause == "missing_clients" and {*candidate.clients} <= {*self.replays.cohort.clients}:
            return unproven(self.trials, candidate, before.WITH_THEM)
        since = findings.absence.first - 1 if findings.absence else 0
        if candidate.cause == "data_drift" and findings.drift:
            since = findings.drift.last_before
        if not self._allows(before.MOST_ROUNDS):
            return unproven(self.trials, candidate, NOT_REPLAYED)
        found = before.from_before(self.replays, self.incident, candidate, since)
        return found or unproven(self.trials, candidate, before.NOT_SHOWN)

    def _of_hold_out(self, candidate: Candidate, drift: DataDrift | None) -> Proof:
        """Whether the hold-out data were replaced in the run, or are unlike the clients' data.

        If they have not changed and most clients' data have, it is the clients' data that drifted.
        """
        last = self.trials.window.last
        if not self._allows(before.MOST_ROUNDS + hold_out.MOST_REPLAYS * last):
            return unproven(self.trials, candidate, NOT_REPLAYED)
        until = self.incident.first - 1
        replaced = before.from_before(self.replays, self.incident, candidate, until, self.log)
        if replaced is not None:
            return replace(replaced, evidence=hold_out.replaced_evidence(replaced))
        proof, self.first_half = hold_out.prove_hold_out_shift(self.replays, self.probe, 0, last)
        if proof is not None and drift is not None and drift.hold_out is not None and not drift.hold_out.changed:
            return replace(proof, candidate=replace(proof.candidate, cause="data_drift", clients=drift.clients))
        why = hold_out.NOT_COMPARED if self.first_half is None else hold_out.REFUTED
        return proof or unproven(self.trials, candidate, why)

    def _allows(self, rounds: int) -> bool:
        return self.trials.spent + rounds <= self.trials.allowed
