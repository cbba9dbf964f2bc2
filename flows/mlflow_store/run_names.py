"""The name of a run, in MLflow and in Prefect, and its settings as text."""

import json
from typing import Any

from tasks.settings import AggregatorSettings, Settings, fields, value_at

_STRENGTH = {
    "dirichlet": "alpha",
    "label_mix": "alpha",
    "quantity": "law",
    "shards": "shards_per_client",
    "classes": "classes_per_client",
    "feature_noise": "sigma",
}


def run_name(settings: Settings) -> str:
    """Returns a run's name from the settings that users compare: `mlp dirichlet(0.3) mean(uniform) sgd`."""
    partition, federate = settings.partition, settings.federate
    kind: str = partition.kind
    if kind in _STRENGTH:
        kind = f"{kind}({getattr(partition, _STRENGTH[kind])})"
    rule: str = federate.aggregator.kind
    if federate.aggregator.weighting != AggregatorSettings().weighting:
        rule = f"{rule}({federate.aggregator.weighting})"
    return f"{federate.model} {kind} {rule} {federate.client.kind}"


def in_name(settings: Settings) -> set[str]:
    """Returns the settings that `run_name` shows."""
    names = {"federate.model", "partition.kind", "federate.aggregator.kind", "federate.client.kind"}
    if settings.partition.kind in _STRENGTH:
        names.add(f"partition.{_STRENGTH[settings.partition.kind]}")
    return names | {"federate.aggregator.weighting"}


def spelled_settings(settings: Settings) -> dict[str, str]:
    """Returns dotted name → value, for every setting; texts are as they are, other values in JSON."""
    values = settings.model_dump()
    return {name: _spell(value_at(values, name)) for name in fields()}


def _spell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
