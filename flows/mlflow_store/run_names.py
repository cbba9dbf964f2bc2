"""The name of a run, in MLflow and in Prefect."""

from tasks.settings import AggregatorSettings, Settings

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
