"""What is known of the clients before a replay: their data, their updates, and the run as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.diagnose.evidence.data_finding import DataFinding
from tasks.diagnose.evidence.update_finding import UpdateFinding
from tasks.diagnose.thresholds import BEYOND, FAR_GROWN, OUTGROWN, OVERSHOT, TOO_STEEP, UNEQUAL_WORK
from tasks.skew import earth_mover

if TYPE_CHECKING:  # its import takes TensorFlow's
    from tasks.diagnose.evidence.absent import Absence
    from tasks.diagnose.evidence.drift_of_data import DataDrift
    from tasks.diagnose.evidence.local_models import LocalModel
    from tasks.diagnose.evidence.unseen import Unseen
    from tasks.diagnose.standing.examine import Examined


@dataclass(frozen=True, kw_only=True)
class ClientFinding(DataFinding, UpdateFinding):
    """One client: its data, its updates, and its part in the rounds of the rise.

    Attributes:
        client: id.
        labels: (C,) examples of each label.
        epochs: mean passes over its data in a round of the rise; NaN if it took part in none.
        width: share of the hidden units that it trains.
        failed: first round of the rise in which its update was not finite; None if it never failed.
        first_broken: index of the first step of plain SGD on its data whose loss is not finite; None if there is none,
            or if the client never failed.
        examined: its data beside the hold-out data, if these speak against it (standing/examine.py).
    """

    client: str
    labels: NDArray[np.int64]
    epochs: float
    width: float
    failed: int | None = None
    first_broken: int | None = None
    examined: "Examined | None" = None

    @property
    def took_part(self) -> bool:
        """Whether it took part in the first rounds of the rise; if not, its updates explain nothing of the rise."""
        return bool(np.isfinite(self.epochs)) or self.failed is not None

    @property
    def wrong_data(self) -> bool:
        """Whether its data are a fault.

        They have changed to wrong labels, noise, or features that look like the others'; or they contradict the
        hold-out data, and not only by their features.
        """
        if self.examined is not None:
            return not self.examined.is_shifted
        return self.changed and (self.relabelled or not self.shifted or not self.makes_sense)


@dataclass(frozen=True)
class Findings:
    """The findings of all clients and of the run as a whole."""

    clients: tuple[ClientFinding, ...]
    label_skew: float
    """Mean over the clients, weighted by examples, of the earth mover's distance of their labels to all: 0 to 2."""
    size_skew: float
    """Gini coefficient of the clients' examples."""
    steepness: float
    """Largest curvature of the loss times the client learning rate, median over at most five clients; NaN if not
    known."""
    train_trend: float
    """ln of the mean training loss of the rise's second half over that of its first; NaN if not known."""
    val_trend: float
    """ln of the mean hold-out loss of the rise's second half over that of its first; NaN if not known."""
    dissimilarity: float
    """B of the clients' full gradients at the model before the rise: 1 if they agree (FedProx, definition 3)."""
    local_drift: tuple[float, ...]
    """1/K sum_k ||y_ki - x||^2 after each local step i of plain SGD from the model before the rise, which SCAFFOLD's
    drift averages over the steps (Karimireddy 2020, equation 9), up to the steps of the client with the fewest."""
    cleared: tuple[str, ...]
    """Clients with odd updates that harm the model no more than honest ones."""
    local_models: "Mapping[str, LocalModel]"
    """The model that each client makes of that before the rise, of at most 50 clients (local_models.py)."""
    objective_gap: float
    """1/2 sum_k |w_k - p_k|, w_k in proportion to p_k times the client's steps: how far the weights that plain
    averaging gives are from those that were meant, 0 to 1 (FedNova, Wang 2020, theorem 1)."""
    train_rise: float = np.nan
    """ln of the mean training loss of the rise over the highest of the four rounds before; NaN if not known."""
    unseen: "Unseen | None" = None
    """The loss on clients' data that a model was not trained on (unseen.py); None if not measured."""
    resized: bool | None = None
    """Whether some client's number of examples changed in the run; None if the log has no round before the rise."""

    absence: "Absence | None" = None
    """Clients that stay away from about the first round of the rise on (absent.py); None if there are none."""
    drift: "DataDrift | None" = None
    """A change of most clients' data (drift_of_data.py); None if there is none."""
    hold_out_in_conflict: bool = False
    """Whether the hold-out loss of the model before the rise is more than CONFLICT_LOSS times the clients' loss on data
    with the same labels."""

    @property
    def overshooting(self) -> float:
        """The share of the clients with sound data whose local training raises the loss on their data, or fails."""
        raised = [
            client.failed is not None or not self.local_models[client.client].lowers_loss
            for client in self.clients
            if not client.in_conflict and (client.failed is not None or client.client in self.local_models)
        ]
        return float(np.mean(raised)) if raised else np.nan

    @property
    def overshoots(self) -> bool:
        """Whether local training goes too far: it diverges, or most clients raise the loss on their own data.

        A steepness of a little more than 2 is no sign: training at a sound rate comes there by itself, and stays (edge
        of stability, Cohen 2021, arXiv 2103.00065).
        """
        return bool(self.steepness > TOO_STEEP or self.overshooting > OVERSHOT)

    @property
    def usual_epochs(self) -> float:
        """Median passes of a client over its data in a round."""
        epochs = [client.epochs for client in self.clients if np.isfinite(client.epochs)]
        return float(np.median(epochs)) if epochs else 1.0

    @property
    def usual_growth(self) -> float:
        """Median `grown` of the clients whose data do not contradict the model; NaN if it is not known of any."""
        grown = [client.grown for client in self.clients if not client.in_conflict and np.isfinite(client.grown)]
        return float(np.median(grown)) if grown else np.nan

    def works_unequally(self, client: ClientFinding) -> bool:
        """Whether the client passes over its data far more or far less often than the median client."""
        ratio = client.epochs / self.usual_epochs
        return bool(np.isfinite(ratio) and not 1 / UNEQUAL_WORK <= ratio <= UNEQUAL_WORK)

    def outgrown(self, client: ClientFinding) -> bool:
        """Whether its update grew far more than the others', and is at least as long as the median client's."""
        longer = client.grown > max(FAR_GROWN, OUTGROWN * self.usual_growth)
        return bool(longer and not client.norm < 1)

    def wrong_update(self, client: ClientFinding) -> bool:
        """Whether a client with unchanged data sends what its work does not explain."""
        if client.changed or client.examined is not None:
            return False
        if client.verified is not None:
            return not client.verified
        odd = client.turned or client.uphill or client.oversized or self.outgrown(client)
        return odd and not self._excused(client)

    def _excused(self, client: ClientFinding) -> bool:
        """Whether an odd update proves nothing against the client.

        One of six must hold: (1) its update harms the model no more than an honest one, (2) it took no part in the
        rise, (3) local training diverges, so that honest updates have any length and direction, (4) it works more or
        less than the others, (5) it trains a part of the model, or (6) its features are unusual and its earlier updates
        are not known: unusual features give unusual updates from the start.
        """
        diverges = self.steepness > TOO_STEEP
        by_features = client.shifted and np.isnan(client.grown)
        by_its_work = self.works_unequally(client) or client.width < 1
        return bool(client.client in self.cleared or not client.took_part or diverges or by_its_work or by_features)

    def faulty(self) -> tuple[str, ...]:
        """Returns the clients with wrong data, or with updates that their work does not explain."""
        return tuple(client.client for client in self.clients if client.wrong_data or self.wrong_update(client))

    def shifted(self) -> tuple[str, ...]:
        """Returns the clients whose features are unlike the others' and new to the model, and whose data make sense."""
        moved = [client for client in self.clients if client.shifted and client.changed and not client.relabelled]
        foreign = {client.client for client in self.clients if client.examined and client.examined.is_shifted}
        new = {client.client for client in moved if client.makes_sense and not client.examined}
        return tuple(client.client for client in self.clients if client.client in new | foreign)

    def failed(self) -> tuple[str, ...]:
        """Returns the clients whose updates were not finite, the first to fail first.

        Two groups are not blamed:

        1. If local training diverges, every client whose loss is at most BEYOND times the expected loss.
        2. Clients that sent wrong but finite updates first: their later failure is a consequence.
        """
        failed = [
            client
            for client in self.clients
            if client.failed is not None and not (np.isfinite(client.norm) and self.wrong_update(client))
        ]
        if self.steepness > TOO_STEEP:
            failed = [client for client in failed if not client.loss <= BEYOND * client.expected_loss]
        return tuple(client.client for client in sorted(failed, key=lambda client: (client.failed or 0, client.client)))


def no_findings() -> Findings:
    """Returns that nothing is known of any client."""
    return Findings((), np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, (), (), {}, np.nan)


def mean_label_distance(labels: Mapping[str, NDArray[np.int64]]) -> float:
    """Returns the mean over clients, weighted by examples, of sum_c |p_k(c) - p(c)|: 0 (alike) to 2."""
    counts = np.array(list(labels.values()), dtype=np.float64)
    whole = counts.sum(axis=0) / counts.sum()
    sizes = counts.sum(axis=1)
    return float(sizes @ earth_mover(counts / np.maximum(sizes, 1)[:, None], whole) / sizes.sum())
