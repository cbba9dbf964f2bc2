"""What may take a proven cause away in a real federation, where data cannot be dealt anew."""

from dataclasses import dataclass, field, replace
from typing import Any

from tasks.diagnose.causes import lower_rate, plain_server, same_work, whole_model
from tasks.diagnose.evidence.findings import Findings
from tasks.settings import Settings, switch_kind, value_at


@dataclass(frozen=True)
class Remedy:
    """Settings that may undo a cause.

    Attributes:
        says: what it is.
        settings: settings by their dotted names.
        aligned: whether the clients' features have to be standardised anew for its replay.
    """

    says: str
    settings: dict[str, Any] = field(default_factory=dict)
    aligned: bool = False

    def __or__(self, other: "Remedy") -> "Remedy | None":
        """Returns both remedies at once; None if they want different things of one setting, or the same of all."""
        both = {**self.settings, **other.settings}
        for name in self.settings.keys() & other.settings.keys():
            if name == "federate.exclude":
                both[name] = sorted({*self.settings[name], *other.settings[name]})
            elif self.settings[name] != other.settings[name]:
                return None
        if both in (self.settings, other.settings):
            return None
        return Remedy(f"{self.says}, and {other.says}", both, self.aligned or other.aligned)


def remedies(
    cause: str, settings: Settings, clients: tuple[str, ...], found: Findings, last_sound: int = 1
) -> list[Remedy]:
    """Returns the remedies for `cause`, the most fitting first, each with no more settings than it changes."""
    raw = settings.model_dump(mode="json")
    fresh = [
        replace(one, settings={name: value for name, value in one.settings.items() if value != value_at(raw, name)})
        for one in _remedies(cause, settings, clients, found, last_sound)
    ]
    return [one for one in fresh if one.settings]


def _remedies(
    cause: str, settings: Settings, clients: tuple[str, ...], found: Findings, last_sound: int = 1
) -> list[Remedy]:
    federate = settings.federate
    rate, epochs = federate.client.learning_rate, federate.local_work.epochs
    leave_out = Remedy(f"leave out {', '.join(clients)}", {"federate.exclude": sorted({*federate.exclude, *clients})})
    num = max(1, len(clients))
    slower = [
        Remedy(f"client learning rate {value:g}", {"federate.client.learning_rate": value})
        for value in dict.fromkeys((float(f"{rate / 3:.3g}"), lower_rate(settings, found.steepness)))
    ]
    match cause:
        case "faulty_clients":
            return [
                leave_out,
                Remedy("geometric median (RFA)", switch_kind("federate.aggregator", "geometric_median")),
                Remedy("multi-Krum", switch_kind("federate.aggregator", "multi_krum", num_faulty=num)),
                Remedy("coordinate-wise median", switch_kind("federate.aggregator", "median")),
            ]
        case "non_finite":
            return [leave_out, Remedy("gradients clipped at norm 1", {"federate.client.clip_norm": 1.0}), *slower]
        case "architecture_variation":
            return [Remedy("the whole model at every client", whole_model(settings))]
        case "unequal_local_work":
            return [
                Remedy("the same work at every client", same_work(settings, max(1, round(found.usual_epochs)))),
                Remedy("normalised averaging (FedNova)", switch_kind("federate.client", "fednova")),
                *slower[:1],
            ]
        case "feature_shift":
            return [
                Remedy("each client standardises its own features", {"preprocess.normalize": "client"}, aligned=True),
                leave_out,
                Remedy("a proximal term (FedProx, mu 0.1)", switch_kind("federate.client", "fedprox", mu=0.1)),
            ]
        case "server_learning_rate":
            optimizer = federate.server_optimizer
            smaller = float(f"{optimizer.learning_rate / 10:.3g}")
            return [
                Remedy("plain averaging on the server", dict(plain_server(settings).settings)),
                Remedy(f"server learning rate {smaller:g}", {"federate.server_optimizer.learning_rate": smaller}),
            ]
        case "quantity_skew":
            return [
                Remedy("every client the same weight", {"federate.aggregator.weighting": "uniform"}),
                Remedy("normalised averaging (FedNova)", switch_kind("federate.client", "fednova")),
                Remedy("control variates (SCAFFOLD)", switch_kind("federate.client", "scaffold")),
                *slower[:1],
            ]
        case "label_skew":
            tried = [
                Remedy("control variates (SCAFFOLD)", switch_kind("federate.client", "scaffold")),
                Remedy("dynamic regularisation (FedDyn)", switch_kind("federate.client", "feddyn")),
                Remedy("a proximal term (FedProx, mu 0.1)", switch_kind("federate.client", "fedprox", mu=0.1)),
            ]
            if epochs > 1 and federate.local_work.kind == "same":
                tried.append(Remedy("one local epoch", {"federate.local_work.epochs": 1}))
            shared = Remedy("a public set of 5 % of the examples at every client", {"federate.shared_fraction": 0.05})
            return [*tried, *slower, shared]
        case "client_learning_rate":
            return [*slower, Remedy("gradients clipped at norm 1", {"federate.client.clip_norm": 1.0})]
        case "overfitting":
            return [
                Remedy(f"end training after round {last_sound}", {"federate.rounds": max(1, last_sound)}),
                Remedy("weight decay 0.02", {"federate.client.weight_decay": 0.02}),
                Remedy("weight decay 0.1", {"federate.client.weight_decay": 0.1}),
                *slower[:1],
            ]
    return []
