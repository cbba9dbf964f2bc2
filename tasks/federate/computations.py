"""The computations of a run, from its settings, its clients and its model."""

from collections.abc import Mapping

import tensorflow as tf

from tasks.errors import SettingsError
from tasks.federate import schedule
from tasks.federate.aggregators import aggregator
from tasks.federate.client_updates import CLIENT_UPDATES
from tasks.federate.cohort import Cohort
from tasks.federate.round import Round, build_round
from tasks.federate.server_optimizers import SERVER_OPTIMIZERS
from tasks.local.architecture import Architecture, narrower, whole
from tasks.local.descent import LocalTraining
from tasks.models import build, num_params
from tasks.settings import Settings


def build_computations(settings: Settings, cohort: Cohort, model: tf.keras.Model, masked: bool) -> Round:
    """Returns a run's computations, which do not depend on the client learning rate, local work, weights and data."""
    federate = settings.federate
    return build_round(
        _architectures(settings, cohort, model),
        _local_training(settings, cohort, model),
        aggregator(federate.aggregator, schedule.clients_per_round(federate.sampling, len(cohort.clients))),
        SERVER_OPTIMIZERS[federate.server_optimizer.kind](federate.server_optimizer),
        masked=masked,
    )


def _local_training(settings: Settings, cohort: Cohort, model: tf.keras.Model) -> LocalTraining:
    client, augment = settings.federate.client, settings.preprocess.augment
    return LocalTraining(
        input_shape=cohort.input_shape,
        num_classes=cohort.num_classes,
        num_params=num_params(model),
        batch_size=client.batch_size,
        algorithm=CLIENT_UPDATES[client.kind](client),
        flip=augment.flip,
        brightness=augment.brightness > 0,
        public=cohort.public,
        faults=settings.federate.faults,
    )


def widths(by_client: Mapping[str, float]) -> list[float]:
    """Returns the widths of the architectures, the whole model's first."""
    return [1.0, *sorted({width for width in by_client.values() if width < 1})]


def _architectures(settings: Settings, cohort: Cohort, model: tf.keras.Model) -> list[Architecture]:
    name, shape = settings.federate.model, cohort.input_shape
    architectures = [whole(name, model)]
    for width in widths(settings.federate.width)[1:]:
        try:
            narrow = build(name, shape, cohort.num_classes, settings.seed, width)
            architectures.append(narrower(name, model, narrow))
        except (TypeError, ValueError) as exc:
            raise SettingsError(f"federate.model {name} has no width {width:g} (federate.width): {exc}") from exc
    return architectures
