"""All settings of a run, and every setting by its dotted name."""

from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from tasks.settings.base import Section, setting
from tasks.settings.data import DataSettings
from tasks.settings.diagnose import DiagnoseSettings
from tasks.settings.evaluate import EvaluateSettings
from tasks.settings.federate import FederateSettings
from tasks.settings.partition import PartitionSettings
from tasks.settings.preprocess import PreprocessSettings
from tasks.settings.prune import PruneSettings
from tasks.settings.track import TrackSettings


class Settings(Section):
    """All settings of a run: params.yaml."""

    seed: int = setting(
        0, ge=0, lt=2**31, title="Seed", description="seed of every random draw of the run, except the noise of dp_mean"
    )
    data: DataSettings = setting(DataSettings(), title="Data", description="where the raw data comes from")
    partition: PartitionSettings = setting(
        PartitionSettings(), title="Partition", description="which client gets which examples"
    )
    preprocess: PreprocessSettings = setting(
        PreprocessSettings(),
        title="Preprocess",
        description="how features are scaled and images are resized and augmented",
    )
    federate: FederateSettings = setting(FederateSettings(), title="Federate", description="the federated training")
    prune: PruneSettings = setting(
        PruneSettings(), title="Prune", description="further rounds in which weights are pruned"
    )
    evaluate: EvaluateSettings = setting(
        EvaluateSettings(), title="Evaluate", description="the final scores of the models"
    )
    diagnose: DiagnoseSettings = setting(DiagnoseSettings(), title="Diagnose", description="why the loss rose")
    track: TrackSettings = setting(TrackSettings(), title="Track", description="what is logged to MLflow")


def fields(section: type[Section] = Settings, prefix: str = "") -> dict[str, Any]:
    """Returns {dotted name: pydantic's FieldInfo} of every setting; sections are walked and not listed."""
    by_name: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        if inner := _section_of(field):
            by_name |= fields(inner, f"{prefix}{name}.")
        else:
            by_name[prefix + name] = field
    return by_name


def sections(section: type[Section] = Settings, name: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Yields (dotted name, model) of each section, in the order of params.yaml; first the whole file, with name ""."""
    yield name, section
    for key, field in section.model_fields.items():
        if inner := _section_of(field):
            yield from sections(inner, f"{name}.{key}".lstrip("."))


def _section_of(field: FieldInfo) -> type[Section] | None:
    """Returns the model of a field that is a section; None if the field is a setting."""
    model = field.annotation
    return model if isinstance(model, type) and issubclass(model, Section) else None
