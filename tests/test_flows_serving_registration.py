"""The forms of the deployments, and how many flow runs a machine runs at a time."""

import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

from prefect.utilities.callables import parameter_schema

from flows.pipeline import pipeline
from flows.serving.registration import FIRST, arrange, default_limit
from tasks.settings import fields, sections


def in_order(properties: dict[str, Any], definitions: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields the settings as Prefect's form shows them: sorted by `position`, a section in place of its name."""
    models = {name: model.__name__ for name, model in sections()}
    for name in sorted(properties, key=lambda name: properties[name]["position"]):
        if prefix + name in models:
            inner = definitions[models[prefix + name]]["properties"]
            yield from in_order(inner, definitions, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_the_settings_that_people_change_first_come_first_in_their_sections() -> None:
    schema = parameter_schema(pipeline.fn)
    arrange(schema.properties, schema.definitions)
    assert sorted(schema.properties, key=lambda name: schema.properties[name]["position"])[-1] == "settings"
    shown = list(in_order(schema.definitions["Settings"]["properties"], schema.definitions))
    assert sorted(shown) == sorted(fields())  # the form has every setting, where it was before
    assert len(FIRST) == 10
    assert [name for name in shown if name in FIRST] == [*FIRST]
    assert shown[:3] == [*FIRST[:3]]
    for section, model in sections():
        mine = [f"{section}.{name}".lstrip(".") for name in model.model_fields]
        plain = [name for name in shown if name in mine]
        first = [name for name in FIRST if name in mine]
        assert plain[: len(first)] == first, section


def test_the_default_limit_is_one_run_per_core_at_most() -> None:
    assert 1 <= default_limit() <= len(os.sched_getaffinity(0))


def test_a_line_outside_of_a_flow_run_makes_prefect_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("tasks.federate.step", "flows.serving.worker"):
            logging.getLogger(name).warning("a line of a command, or of a stage of DVC")
