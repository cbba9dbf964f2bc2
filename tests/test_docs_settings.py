"""docs/settings.md against the settings' models."""

import re

import pytest

from docs.settings import PAGE, page
from tasks.settings import fields

ROWS = {
    "data.drop_columns": "`[]` | list of texts | `table` |",
    "partition.num_clients": "`10` | whole number ≥ 1, ≤ 100000 | all except `natural` |",
    "partition.alpha": "`0.5` | number > 0 | `dirichlet`, `label_mix`, `quantity` |",
    "preprocess.resize": "`[]` | list of whole numbers ≥ 1 |",
    "preprocess.normalize": "`global` | `none`, `global`, `client` |",
    "federate.width": "`{}` | mapping of texts to numbers > 0, ≤ 1 |",
    "federate.client.schedule.decay": "`0.99` | number > 0, ≤ 1 | `exponential`, `step` |",
    "federate.aggregator.zeroing": "`false` | `true`, `false` | `clipped_mean` |",
    "track.register_as": '`""` | text |',
}
"""setting → its default, what is allowed and, if its section has kinds, the kinds that use it."""


def test_settings_page_is_what_make_docs_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "docs/settings.md differs from tasks/settings: run `make docs`"


def test_every_setting_has_one_row_in_the_chapter_of_its_section() -> None:
    section, rows = "", []
    for heading, name in re.findall(r"^## (\S+)$|^\| `([\w.]+)` \|", page(), re.MULTILINE):
        section = heading or section
        rows += [(section, name)] if name else []
    assert sorted(rows) == sorted((name.rpartition(".")[0] or name, name) for name in fields())


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_the_default_what_is_allowed_and_the_kinds(name: str) -> None:
    (row,) = re.findall(rf"^\| `{re.escape(name)}` \| (.*) \|$", page(), re.MULTILINE)
    assert f"{row.rpartition(' | ')[0]} |" == ROWS[name]
    assert row.endswith(fields()[name].description)
