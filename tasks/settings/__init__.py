"""The settings of a run: frozen models of params.yaml, one section for each step.

A section with alternatives has a field `kind`. A field that only some kinds use names them in `used_by`. With any other
kind it must keep its default, so that no setting is silently without effect. This check and the form in Prefect need
the defaults, so they are here and in params.yaml; a test keeps both equal.
"""

from tasks.settings.aggregator import WEIGHTED, AggregatorSettings
from tasks.settings.base import STEPS, Section
from tasks.settings.change import laid_over, switch_kind, value_at, with_settings
from tasks.settings.client import ClientKind, ClientSettings, ScheduleSettings
from tasks.settings.data import DataKind, DataSettings, Missing
from tasks.settings.federate import (
    EarlyStoppingSettings,
    FaultKind,
    FaultSettings,
    FederateSettings,
    LocalWorkSettings,
    RuntimeSettings,
    SamplingSettings,
    ServerOptimizerSettings,
)
from tasks.settings.naming import naming
from tasks.settings.partition import PartitionKind, PartitionSettings
from tasks.settings.preprocess import PreprocessSettings
from tasks.settings.prune import PruneSettings
from tasks.settings.reading import load, parse
from tasks.settings.whole import Settings, fields, sections

__all__ = [
    "STEPS",
    "WEIGHTED",
    "AggregatorSettings",
    "ClientKind",
    "ClientSettings",
    "DataKind",
    "DataSettings",
    "EarlyStoppingSettings",
    "FaultKind",
    "FaultSettings",
    "FederateSettings",
    "LocalWorkSettings",
    "Missing",
    "PartitionKind",
    "PartitionSettings",
    "PreprocessSettings",
    "PruneSettings",
    "RuntimeSettings",
    "SamplingSettings",
    "ScheduleSettings",
    "Section",
    "ServerOptimizerSettings",
    "Settings",
    "fields",
    "laid_over",
    "load",
    "naming",
    "parse",
    "sections",
    "switch_kind",
    "value_at",
    "with_settings",
]
