"""The settings: models, params.yaml, the registries of the kinds, and error messages."""

import ast
import itertools
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from tasks.errors import DataError, RunError, SettingsError
from tasks.settings import (
    Section,
    Settings,
    fields,
    load,
    naming,
    parse,
    sections,
    switch_kind,
    value_at,
    with_settings,
)

ROOT = Path(__file__).parents[1]
PARAMS = ROOT / "params.yaml"


def raw() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(PARAMS.read_text())
    return read


def look_up(mapping: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        mapping = mapping[part] if isinstance(mapping, dict) else getattr(mapping, part)
    return mapping


def changed(dotted: str, value: Any) -> dict[str, Any]:
    settings = raw()
    *outer, name = dotted.split(".")
    section = settings
    for part in outer:
        section = section[part]
    section[name] = value
    return settings


def refusal(settings: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        parse(settings)
    text = str(caught.value)
    assert "\n" not in text
    return text


def names_below(mapping: dict[str, Any], prefix: str = "") -> set[str]:
    """The dotted names in a raw mapping. A setting whose value is a mapping (by_client) is one name."""
    known, found = fields(), set()
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        found |= names_below(value, f"{name}.") if isinstance(value, dict) and name not in known else {name}
    return found


def test_params_yaml_holds_every_setting_and_no_other() -> None:
    assert names_below(raw()) == set(fields())


def test_params_yaml_and_the_models_have_the_same_defaults() -> None:
    assert load(PARAMS) == Settings()
    # 1 == 1.0, but in DVC's run-cache they are two settings.
    for name in fields():
        in_file, in_model = look_up(raw(), name), look_up(Settings(), name)
        assert isinstance(in_model, tuple) or type(in_file) is type(in_model), name


@pytest.mark.parametrize("section", [section for _, section in sections()], ids=lambda section: section.__name__)
def test_every_setting_has_a_title_and_a_description(section: type[Section]) -> None:
    for name, field in section.model_fields.items():
        assert field.title, name
        assert field.title[0].isupper(), name
        assert field.description, name
        assert not field.description.endswith("."), name
        assert not re.search(r"[`*<\[|]", field.description), f"{name}: the form in Prefect shows help as Markdown"


@pytest.mark.parametrize("section", [section for _, section in sections()], ids=lambda section: section.__name__)
def test_what_only_some_kinds_use_names_kinds_that_exist(section: type[Section]) -> None:
    for name, field in section.model_fields.items():
        if field.json_schema_extra:
            kinds = get_args(section.model_fields[section.chooser].annotation)
            assert set(field.json_schema_extra["used_by"]) <= set(kinds), name  # type: ignore[call-overload, arg-type, index]


def keys(path: str, name: str) -> list[str]:
    """The keys of the registry `name`, read from the source text: importing some registries imports TensorFlow."""
    for node in ast.parse((ROOT / path).read_text()).body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if isinstance(target, ast.Name) and target.id == name and isinstance(node.value, ast.Dict):
            return [ast.literal_eval(key) for key in node.value.keys if key is not None]
    raise AssertionError(f"{path} has no literal dict {name}")


@pytest.mark.parametrize(
    ("setting", "path", "name"),
    [
        ("data.kind", "tasks/datasets/__init__.py", "KINDS"),
        ("partition.kind", "tasks/partition/division.py", "PARTITIONERS"),
        ("federate.client.kind", "tasks/federate/client_updates/__init__.py", "CLIENT_UPDATES"),
        ("federate.server_optimizer.kind", "tasks/federate/server_optimizers.py", "SERVER_OPTIMIZERS"),
    ],
)
def test_a_registry_holds_exactly_the_kinds_of_its_setting(setting: str, path: str, name: str) -> None:
    assert keys(path, name) == list(get_args(fields()[setting].annotation))


def test_the_registries_of_aggregators_hold_exactly_their_kinds() -> None:
    held = [kind for name in ("FACTORIES", "RULES") for kind in keys("tasks/federate/aggregators.py", name)]
    assert sorted(held) == sorted(get_args(fields()["federate.aggregator.kind"].annotation))


def test_every_model_by_name_is_allowed() -> None:
    for name in keys("tasks/models/builders.py", "BUILDERS"):
        assert parse(changed("federate.model", name)).federate.model == name


def test_a_user_s_model_is_named_by_module_and_function() -> None:
    assert parse(changed("federate.model", "my.models:build_net")).federate.model == "my.models:build_net"


NEEDED = {"dask": {"address": "tls://10.0.0.1:8786"}}
"""Settings that a kind cannot do without."""


@pytest.mark.parametrize("name", [name for name, field in fields().items() if field.json_schema_extra])
def test_a_setting_without_effect_is_refused_by_name(name: str) -> None:
    section, _, own = name.rpartition(".")
    field, settings = fields()[name], raw()
    model = type(look_up(Settings(), section))
    unused = [
        kind
        for kind in get_args(model.model_fields[model.chooser].annotation)
        if kind not in field.json_schema_extra["used_by"]
    ]
    default = look_up(settings, name)
    if not unused:
        return  # every kind uses it
    settings = changed(f"{section}.{model.chooser}", unused[0])
    look_up(settings, section).update(NEEDED.get(unused[0], {}))
    parse(settings)  # no error, because the setting has its default
    look_up(settings, section)[own] = other(default, field)
    text = refusal(settings)
    assert text.startswith(f"{name} has no effect with {model.chooser} {unused[0]} (only with ")
    assert "leave it at" in text


def other(default: Any, field: Any) -> Any:
    """Another value of the same type."""
    match default:
        case bool():
            return not default
        case str():
            return next((kind for kind in get_args(field.annotation) if kind != default), default + "x")
        case int():
            return default + 1
        case float():
            return default / 2 if default else 0.5
        case list():
            return ["00"]
        case _:
            return {"00": 1}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("seed", -1, "seed must be >= 0, got -1"),
        ("seed", "x", "seed must be a number, got 'x'"),
        ("seed", True, "seed: input should be a valid integer, got True"),
        ("federate.rounds", 10.5, "federate.rounds: input should be a valid integer, got 10.5"),
        ("data.test_fraction", 1.0, "data.test_fraction must be < 1.0, got 1.0"),
        ("data.test_fraction", "1e-3x", "data.test_fraction must be a number, got '1e-3x'"),
        ("federate.rounds", "1e3", "federate.rounds must be a number, got '1e3'"),
        ("data.test_fraction", math.nan, "data.test_fraction: input should be a finite number, got nan"),
        ("federate.guard", "go", "federate.guard must be one of 'stop', 'rollback' or 'continue', got 'go'"),
        ("partition.alpa", 1.0, "partition.alpa is not a setting: did you mean partition.alpha?"),
        ("federate", 3, "federate must be a section of settings, got 3"),
        ("federate.model", "vgg", "federate.model: string should match pattern"),
        ("preprocess.resize", [8], "preprocess.resize must be empty, one number or [height, width], got [8]"),
        ("preprocess.resize", [0, 4], "preprocess.resize.0 must be >= 1, got 0"),
        ("prune.initial_sparsity", 0.9, "prune.initial_sparsity must be <= "),
        ("prune.begin_round", 9, "prune.begin_round"),
        (
            "federate.faults.kind",
            "not_finite",
            "federate.faults.clients must name at least one client with kind not_finite, got []",
        ),
        (
            "federate.faults",
            {"kind": "flipped_labels", "clients": ["a", "a"]},
            "federate.faults.clients must name each client once, got ['a', 'a']",
        ),
        (
            "federate.faults",
            {"kind": "flipped_labels", "clients": [3]},
            "federate.faults.clients.0: input should be a valid string, got 3: put it in quotes",
        ),
        ("data.hold_out_clients", "h3", "data.hold_out_clients must be a list, such as ['h3'], got 'h3'"),
        (
            "data.drop_columns",
            ["id"],
            "data.drop_columns has no effect with kind digits (only with table): leave it at []",
        ),
        (
            "federate.faults",
            {"kind": "flipped_labels", "clients": ["a"], "from_round": 31},
            "federate.faults.from_round must be <= federate.rounds (30), got 31",
        ),
        (
            "federate.faults",
            {"kind": "absent", "clients": ["a"], "from_round": 5, "until_round": 4},
            "federate.faults.until_round must be 0 or >= from_round (5), got 4",
        ),
        (
            "federate.faults",
            {"until_round": 4},
            "federate.faults.until_round has no effect with kind none (only with flipped_labels, ",
        ),
        (
            "federate.faults",
            {"kind": "scaled_update", "clients": ["a"], "factor": 0.0},
            "federate.faults.factor must be > 0.0, got 0.0",
        ),
        (
            "federate.faults",
            {"kind": "flipped_labels", "clients": ["a"], "factor": 2.0},
            "federate.faults.factor has no effect with kind flipped_labels (only with scaled_update, reversed_update)",
        ),
    ],
)
def test_an_error_names_setting_value_and_what_is_allowed(name: str, value: Any, says: str) -> None:
    assert says in refusal(changed(name, value))


def test_all_errors_are_said_at_once() -> None:
    settings = changed("seed", -1)
    settings["federate"]["rounds"] = 0
    assert refusal(settings) == "seed must be >= 0, got -1; federate.rounds must be >= 1, got 0"


@pytest.mark.parametrize(("value", "size"), [(None, ()), (0, ()), (28, (28, 28)), ([64, 48], (64, 48))])
def test_resize_takes_nothing_one_number_or_two(value: Any, size: tuple[int, ...]) -> None:
    assert parse(changed("preprocess.resize", value)).preprocess.resize == size


@pytest.mark.parametrize("text", ["", "- 1\n", "seed: [1\n", "\x00"])
def test_a_file_that_is_no_mapping_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(tmp_path / "params.yaml")
    assert "\n" not in str(caught.value)


BOMB = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGES = "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 2026-99-99\n", "month must be in 1..12"),
        ("seed: 2026-01-01\n", "seed: input should be a valid integer, got datetime.date(2026, 1, 1)"),
        ("data:\n  num_clients: !!int abc\n", "line 2, column 16"),
        ("seed: !!float abc\n", "could not convert string to float"),
        ("seed: !!bool abc\n", "line 1, column 7"),
        ("seed: !!timestamp abc\n", "line 1, column 7"),
        ("seed: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
        ("seed: 0x_\n", "invalid literal for int()"),
        (f"seed: {'9' * 5000}\n", "a number must have at most 100 digits, got 5000"),
        (f"seed: 0x{'f' * 5000}\n", "a number must have at most 100 digits, got 5002"),
        (f"seed: 1{':1' * 5000}\n", "a number must have at most 100 digits, got 10001"),
        (f"seed: {'9' * 90}\n", f"seed must be < 2147483648, got an integer of {(10**90 - 1).bit_length()} bits"),
        (f"seed: {'[' * 3000}{']' * 3000}\n", "nested a few levels deep, got RecursionError"),
        (f"seed: {'[' * 100}{']' * 100}\n", "seed: input should be a valid integer, got [[[...]]]"),
        ("".join(f"{' ' * n}a:\n" for n in range(3000)), "nested a few levels deep, got RecursionError"),
        (f"a0: &a0 [x]\n{BOMB}seed: *a11\n", "seed: input should be a valid integer, got [[[...], [...], [...], "),
        (re.sub(r"^a\d+:", "-", f"a0: &a0 [x]\n{BOMB}", flags=re.M), "must hold a mapping of settings, got [['x'], [["),
        (f"a0: &a0 {{x: 1}}\n{MERGES}", "a mapping must have at most 10000 keys"),
        ("seed: &a [*a]\n", "seed: input should be a valid integer, got [[[...]]]"),
        ("&a {federate: {client: *a}}\n", "federate.client.federate is not a setting"),
        (".nan: 1\n", "a key must be text (in quotes if it looks like a number), got '.nan'"),
        ("federate: {width: {00: 0.5}}\n", "a key must be text (in quotes if it looks like a number), got '00'"),
        ("? [seed]\n: 1\n", "a key must be text (in quotes if it looks like a number), got a list or mapping"),
        (f"a0: &a0 [x]\n{BOMB}? *a11\n: 1\n", "got a list or mapping"),
        ("null: 1\n", "a key must be text"),
        ('data: {path: "\\ud800"}\n', "data.path: input should be a valid string"),
        ('seed: "\\e[31m\\n\\0"\n', r"seed must be a number, got '\x1b[31m\n\x00'"),
        ("data: {num_clients: 1000000000}\n", "data.num_clients must be <= 100000, got 1000000000"),
        ("partition: {num_clients: 100001}\n", "partition.num_clients must be <= 100000, got 100001"),
        ("federate: {rounds: 2147483648}\n", "federate.rounds must be < 2147483648, got 2147483648"),
        ("preprocess: {resize: 2147483648}\n", "preprocess.resize.0 must be < 2147483648, got 2147483648"),
        (
            "federate: {local_work: {kind: per_client, by_client: {a: 9999999999}}}\n",
            "federate.local_work.by_client.a must be < 2147483648, got 9999999999",
        ),
        ("".join(f"k{n}: 1\n" for n in range(5000)), "k9 is not a setting; and 4990 more"),
        (f"? {'k' * 5000}\n: 1\n", "kkk is not a setting"),
        (f"data: {{path: {'x' * 5000}, kind: digits}}\n", "data.path has no effect with kind digits"),
    ],
    ids=range(35),
)
def test_what_yaml_can_hold_and_no_setting_can_is_one_short_line(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    begun = time.monotonic()
    with pytest.raises(SettingsError) as caught:
        load(tmp_path / "params.yaml")
    # Each takes milliseconds. An alias bomb, or a comparison of all keys with all settings, would take minutes.
    assert time.monotonic() - begun < 10
    assert says in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 600


def test_a_path_that_no_system_knows_is_one_line() -> None:
    for path in (Path("a\0b"), Path("x" * 5000), Path("/dev/null/params.yaml")):
        with pytest.raises(SettingsError, match=r"^cannot read "):
            load(path)


def bounds(schema: Any) -> Iterator[bool]:
    """Yields for every integer in a JSON schema whether its upper bound fits into int32."""
    if isinstance(schema, dict):
        if schema.get("type") == "integer":
            yield schema.get("exclusiveMaximum", schema.get("maximum", 2**31) + 1) <= 2**31
        schema = list(schema.values())
    for part in schema if isinstance(schema, list) else []:
        yield from bounds(part)


def test_every_integer_has_a_bound_that_int32_bears() -> None:
    found = list(bounds(Settings.model_json_schema()))
    assert len(found) > 20
    assert all(found)


def test_an_error_of_the_block_names_the_setting_to_change() -> None:
    for raised, says in (
        (DataError("x.npz must hold x"), r"^x.npz must hold x \(data.kind, data.path\)$"),
        (DataError("data.npz must hold x"), r"\(data.kind, data.path\)$"),
        (DataError("no data.label_column 'y'"), "^no data.label_column 'y'$"),
        (OSError(36, "File name too long", "xx"), r"^cannot read xx: File name too long \(data.kind, data.path\)$"),
    ):
        with pytest.raises(DataError, match=says), naming("data.kind", "data.path"):
            raise raised
    with pytest.raises(RunError, match=r"^not enough memory: MemoryError \(data.path\)$"), naming("data.path"):
        raise MemoryError
    with (
        pytest.raises(DataError, match=r"^empty \(data.label_column\)$"),
        naming("data.path"),
        naming("data.label_column"),
    ):
        raise DataError("empty")


WENT = "belonged to kind worker, which was removed: delete"
NO_WORKER = "kind must be in_process or dask, got 'worker': TFF's worker process let the whole network run code"


@pytest.mark.parametrize(
    ("old", "says"),
    [
        ({"kind": "worker"}, NO_WORKER),
        ({"kind": "in_process", "threads": 2, "deadline": 600.0, "restarts": 3}, f"restarts {WENT} it"),
        ({"restarts": None}, f"restarts {WENT} it"),
        ({"kind": "worker", "restarts": 5}, f"{NO_WORKER}; restarts {WENT} it"),
    ],
)
def test_settings_of_the_worker_process_are_told_what_to_do(old: dict[str, Any], says: str) -> None:
    assert refusal(changed("federate.runtime", old)) == f"federate.runtime.{says}"


@pytest.mark.parametrize("address", ["", "10.0.0.1:8786", "tls://10.0.0.1", "ucx://10.0.0.1:8786", "tls://a:b@c:8786"])
def test_dask_needs_the_address_of_a_scheduler(address: str) -> None:
    said = refusal(changed("federate.runtime", {"kind": "dask", "address": address}))
    assert said.startswith(
        "federate.runtime.address must be the address of a Dask scheduler with kind dask, like tls://"
    )
    assert said.endswith(f"got {address!r}")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().seed = 1  # type: ignore[misc]


def test_an_exponent_is_a_number_as_dvc_writes_it() -> None:
    """`dvc exp run -S` writes 0.00001 as 1e-05, which PyYAML reads as text."""
    raw = yaml.safe_load("federate: {client: {learning_rate: 1e-05}}")
    assert parse(raw).federate.client.learning_rate == 0.00001


def kinds(section: str) -> tuple[str, ...]:
    return get_args(fields()[f"{section}.kind"].annotation)


# Values that differ from the defaults and that the settings' other rules allow.
USED = {
    "federate.aggregator": {
        "weighting": "uniform", "trim": 0.1, "num_faulty": 2, "num_selected": 3, "clipping": "adaptive",
        "clip_norm": 2.0, "clip_quantile": 0.4, "zeroing": True, "noise_multiplier": 2.0, "delta": 0.001,
        "target_epsilon": 3.0, "quantization_bits": 4,
    },
    "federate.client": {"mu": 0.2, "option": "I", "fednova_mu": 0.3, "alpha": 0.4, "momentum": 0.5},
    "federate.server_optimizer": {"momentum": 0.5, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 0.1},
}  # fmt: skip


def is_used(name: str, kind: str) -> bool:
    extra = fields()[name].json_schema_extra
    return kind in extra.get("used_by", [kind]) if extra else True


@pytest.mark.parametrize("section", USED)
def test_switching_a_kind_leaves_nothing_behind_that_the_new_kind_refuses(section: str) -> None:
    for before, after in itertools.permutations(kinds(section), 2):
        used = {name: value for name, value in USED[section].items() if is_used(f"{section}.{name}", before)}
        filled = {f"{section}.{name}": value for name, value in {"kind": before, **used}.items()}
        changed = with_settings(with_settings(Settings(), filled), switch_kind(section, after))
        values = value_at(changed.model_dump(), section)
        assert values["kind"] == after
        kept = [name for name in used if is_used(f"{section}.{name}", after)]
        assert [values[name] for name in kept] == [used[name] for name in kept]


def test_switching_a_kind_sets_the_values_that_are_given() -> None:
    changes = switch_kind("federate.client", "fedprox", mu=0.1)
    assert with_settings(Settings(), changes).federate.client.mu == 0.1
