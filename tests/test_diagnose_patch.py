import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from diagnosis_values import diagnosis, with_settings_of_remedy

from flows.workspace.overrides import with_overrides
from tasks.diagnose.report.markdown import to_markdown
from tasks.diagnose.report.patch import flags, patch
from tasks.diagnose.report.wording import headline


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("federate.client.kind", "scaffold"),
        ("federate.client.learning_rate", 0.01),
        ("federate.client.learning_rate", 1e-05),
        ("federate.server_optimizer.kind", "sgd"),
        ("federate.aggregator.zeroing", True),
        ("federate.local_work.by_client", {"03": 1, "b": 5}),
        ("federate.width", {"03": 0.5}),
        ("preprocess.resize", [8, 8]),
        ("federate.model", "my_module:build"),
        ("data.client_column", ""),
        ("data.client_column", 'it\'s 1, {a} [b] = "c"'),
        ("data.client_column", "a\\"),
        ("data.client_column", '\\"a\\\\"b'),
        ("federate.model", "$x {y}"),
        ("federate.width", {"007": 0.5, "site-1.b_2": 0.25, "00": 1}),
        ("data.client_column", "true"),
        ("data.client_column", "007"),
        ("data.client_column", "1e3"),
    ],
)
def test_flags_and_patch_set_what_the_settings_say(name: str, value: Any) -> None:
    """The flags go through a shell's splitting, then Hydra's reading, as `python -m flows.pipeline` does."""
    settings = {name: value, "seed": 3}
    given = shlex.split(flags(settings))
    assert given[::2] == ["-S", "-S"]
    params = (Path(__file__).parents[1] / "params.yaml").read_text()
    changed = yaml.safe_load(with_overrides(params, given[1::2]))
    patched = yaml.safe_load(patch(settings))
    for key in name.split("."):
        changed, patched = changed[key], patched[key]
    assert {**changed, **value} == changed if isinstance(value, dict) else float_of(changed) == float_of(value)
    assert patched == value


def float_of(value: Any) -> Any:
    """YAML 1.1 reads 1e-05 as text; the settings read it as a number."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"\d+e-\d+", value) else value


@pytest.mark.parametrize("key", ["7", "0", "-3", "1e3", "0.5", "true", "null", "a b", "a:b", "1_0", ""])
def test_what_hydra_would_misread_is_given_as_a_patch_only(key: str) -> None:
    answer = with_settings_of_remedy(diagnosis(), {"federate.width": {key: 0.5}})
    assert flags({"federate.width": {key: 0.5}}) == ""
    assert headline(answer).endswith("; remedy: SCAFFOLD (the settings below), which removes 86 % of the rise.")
    text = to_markdown(answer)
    assert "```sh" not in text
    assert yaml.safe_load(re.findall("```yaml\n(.*?)```", text, re.DOTALL)[0]) == {"federate": {"width": {key: 0.5}}}


def test_reference_to_another_setting_is_no_flag() -> None:
    assert flags({"federate.model": "${seed}"}) == ""


def test_patch_of_a_setting_below_a_value_keeps_both() -> None:
    assert yaml.safe_load(patch({"a": 1, "a.b": 2})) == {"a": 1, "a.b": 2}
