"""flows/comparing/grid.py: how a grid is read, the names of its cells, and which grids are refused before a run."""

from pathlib import Path

import pytest
import yaml

from flows.comparing import grid
from tasks.errors import SettingsError
from tasks.settings import fields

BASE = (Path(__file__).parents[1] / "params.yaml").read_text()
OPTIMIZERS, SEEDS = "federate.server_optimizer.kind=sgd,adam", "seed=0,1,2"


def test_every_combination_is_a_cell_in_the_grid_s_order() -> None:
    cells = grid.cells(BASE, [OPTIMIZERS, SEEDS], same_clients=True)
    assert [(cell.settings.federate.server_optimizer.kind, cell.settings.seed) for cell in cells] == [
        ("sgd", 0),
        ("sgd", 1),
        ("sgd", 2),
        ("adam", 0),
        ("adam", 1),
        ("adam", 2),
    ]
    assert [cell.name for cell in cells] == [f"cell-0{number}" for number in range(6)]


def test_a_label_says_only_what_differs() -> None:
    cells = grid.cells(BASE, [OPTIMIZERS, "federate.client.learning_rate=0.05", SEEDS], same_clients=True)
    assert cells[4].label == "server_optimizer=adam, client.learning_rate=0.05, seed=1"
    assert (cells[4].group, cells[4].seed) == (("adam", "0.05"), "1")


def test_short_names_are_those_of_one_setting_only() -> None:
    names = {name: grid.short_name(name) for name in fields()}
    assert len({*names.values()}) == len(names)
    assert names["federate.aggregator.kind"] == "aggregator"
    assert (names["federate.client.kind"], names["federate.client.schedule.kind"]) == ("client", "schedule")
    assert (names["seed"], names["partition.seed"]) == ("seed", "partition.seed")
    assert names["federate.aggregator.weighting"] == "weighting"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("preprocess.resize=[64,64]", ["[64,64]"]),
        ("preprocess.resize=[64,64],[28,28]", ["[64,64]", "[28,28]"]),
        ("federate.local_work.by_client={00: 3, 01: 2}", ["{00: 3, 01: 2}"]),
        ("track.register_as='a,b'", ["'a,b'"]),
        ("seed=0, 1", ["0", "1"]),
        ("seed=range(0,3)", ["0", "1", "2"]),
        ("federate.client.learning_rate=0.1,0.2", ["0.1", "0.2"]),
    ],
)
def test_commas_divide_values_but_not_lists(text: str, values: list[str]) -> None:
    (found,) = grid.axes([text]).values()
    assert found == values


def test_values_are_typed_and_all_others_keep_their_types() -> None:
    first, second = grid.cells(BASE, ["preprocess.resize=[64,64],[28,28]"], same_clients=False)
    assert (first.settings.preprocess.resize, second.settings.preprocess.resize) == ((64, 64), (28, 28))
    (unchanged,) = grid.cells(BASE, ["seed=0"], same_clients=False)
    assert repr(yaml.safe_load(unchanged.params)) == repr(yaml.safe_load(BASE))


@pytest.mark.parametrize(
    ("base", "axes", "same_clients", "seeds"),
    [
        ({"seed: 0": "seed: 5"}, [SEEDS], True, {5}),
        ({}, [SEEDS], False, {-1}),
        ({}, [SEEDS, "partition.seed=3,4"], True, {3, 4}),
        ({}, [SEEDS, "partition.alpha=0.1,1.0"], True, {-1}),
        ({}, [SEEDS, "data.test_fraction=0.1,0.2"], True, {-1}),
        ({"  seed: -1": "  seed: 9"}, [SEEDS], True, {9}),
        ({"seed: 0": "seed: 5", "  seed: -1": "  seed: 0"}, [SEEDS], True, {0}),
    ],
    ids=[
        "pinned to the base",
        "not wanted",
        "in the grid",
        "about partition",
        "about data",
        "set in the base",
        "set to 0",
    ],
)
def test_cells_share_their_clients_unless_the_grid_is_about_them(
    base: dict[str, str], axes: list[str], same_clients: bool, seeds: set[int]
) -> None:
    text = BASE
    for old, new in base.items():
        assert old in text
        text = text.replace(old, new, 1)
    assert {cell.settings.partition.seed for cell in grid.cells(text, axes, same_clients)} == seeds


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ([], "a comparison needs a grid"),
        (["seed"], "--grid takes name=value,value, got 'seed'"),
        (["+seed=1"], "--grid takes name=value,value, got '+seed=1'"),
        (["seed=interval(0,1)"], "name every value"),
        (["seed=glob(*)"], "name every value"),
        (["seed=[1"], "--grid takes name=value,value, got 'seed=[1'"),
        (["seed=0", "seed=1"], "--grid seed is given twice"),
        (["federate.aggregatr.kind=mean"], "did you mean federate.aggregator.kind?"),
        (["federate.client=sgd"], "federate.client is a section: name one of its settings, as federate.client.kind"),
        (["seed=0,0"], "cells seed=0 and seed=0 have the same settings"),
        (["federate.client.learning_rate=0.05,0.050"], "have the same settings"),
        (["seed=0,many"], "cell seed=many: seed must be a number, got 'many'"),
        ([OPTIMIZERS, "federate.server_optimizer.beta_1=0.8,0.9"], "cell server_optimizer=sgd, beta_1=0.8: "),
        (["seed=range(0,1001)"], "at most 1000 cells, got 1001"),
    ],
)
def test_a_wrong_grid_is_one_line_that_names_it(axes: list[str], says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        grid.cells(BASE, axes, same_clients=True)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_value_without_effect_says_with_what_it_would_have_one() -> None:
    with pytest.raises(SettingsError, match=r"beta_1 has no effect with kind sgd \(only with adam, yogi\)"):
        grid.cells(BASE, [OPTIMIZERS, "federate.server_optimizer.beta_1=0.8"], same_clients=True)
