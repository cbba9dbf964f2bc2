"""Mutated files of every kind: each is accepted, or refused in one line that names it, without files left behind."""

import copy
import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from tasks.clients import TEST
from tasks.datasets import load_raw
from tasks.errors import UndriftError
from tasks.federate.cohort import cohort_of
from tasks.files import write_json
from tasks.preprocess import preprocess
from tasks.runtime.check_in import check_in
from tasks.settings import DataKind, DataSettings, parse
from tasks.settings import load as load_settings
from tests.mutations import mutated
from tests.shards import write_sites

ROOT = Path(__file__).parents[1]
MANY, FEW = 2000, 50

VALUES = [None, True, -1, 0, 1, 3, 2**31, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x", "1", "00", "test"]
VALUES += [".git", "../a", "a\0b", "\ud800", "é", "x" * 1000, [], [[]], [1], ["a", "b", "c"], {}, {"a": 1}, {"00": 12}]


def _mutated_in_zip(content: bytes, rng: np.random.Generator) -> bytes:
    """Mutates the whole archive, or in half of the cases one member, so that its checksum is right."""
    if rng.random() < 0.5:
        return mutated(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as held:
        members = {name: held.read(name) for name in held.namelist()}
    name = str(rng.choice(list(members)))
    members[name] = mutated(members[name], rng)
    return zipped(members, zipfile.ZIP_DEFLATED if rng.random() < 0.3 else zipfile.ZIP_STORED)


def _mutated_png(content: bytes, rng: np.random.Generator) -> bytes:
    """Mutates a PNG, and in most cases corrects the checksums of its first chunks."""
    result = bytearray(mutated(content, rng))
    place = 8
    while rng.random() < 0.9 and place + 12 <= len(result):
        end = place + 8 + int.from_bytes(result[place : place + 4], "big")
        result[end : end + 4] = zlib.crc32(result[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(result)


def _mutated_tree(content: bytes, rng: np.random.Generator) -> bytes:
    """Changes in half of the cases one to three values or keys of JSON or YAML; else the bytes."""
    if rng.random() < 0.5:
        return mutated(content, rng)
    root: dict[str, object] = {"": yaml.safe_load(content)}
    for _ in range(rng.integers(1, 4)):
        held: object = root
        while True:
            places = list(held if isinstance(held, dict) else range(len(held)))  # type: ignore[arg-type]
            place = places[rng.integers(0, len(places))]
            inner = held[place]  # type: ignore[index]
            if not isinstance(inner, dict | list) or not inner or rng.random() < 0.2:
                break
            held = inner
        value = copy.deepcopy(VALUES[rng.integers(0, len(VALUES))])
        if isinstance(held, dict) and isinstance(value, str) and held is not root and rng.random() < 0.3:
            held[value] = held.pop(place)
        else:
            held[place] = value  # type: ignore[index]
    return json.dumps(root[""]).encode()


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    opened = io.BytesIO()
    with zipfile.ZipFile(opened, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return opened.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    opened = io.BytesIO()
    np.savez(opened, **arrays)
    return opened.getvalue()


X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
Y = np.arange(12) % 3


@dataclass
class Kind:
    """A kind of input: `make` writes `files` into a workspace, one is mutated, and `read` reads them."""

    make: Callable[[Path], None]
    files: tuple[str, ...]
    read: Callable[[Path], object]
    mutate: Callable[[bytes, np.random.Generator], bytes] = mutated


def _load(kind: DataKind, path: str, **chosen: str) -> Callable[[Path], object]:
    return lambda folder: load_raw(DataSettings(kind=kind, path=path, **chosen), 0, folder)  # type: ignore[arg-type]


def _npz(folder: Path) -> None:
    (folder / "data.npz").write_bytes(npz(x_train=X, y_train=Y, x_test=X[:4], y_test=Y[:4]))


def _clients(folder: Path) -> None:
    (folder / "raw").mkdir()
    for name in ("a", "b", TEST):
        (folder / "raw" / f"{name}.npz").write_bytes(npz(x=X, y=Y))


def _images(suffix: str, **options: object) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        rng = np.random.default_rng(1)
        for label in "ab":
            (folder / "raw" / label).mkdir(parents=True)
            for number in range(2):
                pixels = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "raw" / label / f"{number}.{suffix}", **options)

    return make


def _labels(folder: Path) -> None:
    _images("png")(folder)
    rows = [f"raw/{label}/{number}.png,{label},site-{number}\n" for label in "ab" for number in range(2)]
    (folder / "labels.csv").write_text("path,label,client\n" + "".join(rows))


def _frame() -> pd.DataFrame:
    return pd.DataFrame({"a": X[:, 0], "b": np.arange(12), "label": list("xyz") * 4, "site": list("pq") * 6})


def _csv(folder: Path) -> None:
    _frame().to_csv(folder / "table.csv", index=False)


def _parquet(folder: Path) -> None:
    _frame().to_parquet(folder / "table.parquet", index=False)


def _partition(folder: Path) -> None:
    write_sites(folder / "data/partition", dict.fromkeys(("00", "01", TEST), (X, Y)))
    sizes = {site: {"num_examples": 12, "counts": [4, 4, 4]} for site in ("00", "01")}
    described = {"classes": ["a", "b", "c"], "images": False, "input_shape": [3], "clients": sizes}
    write_json(folder / "data/partition/partition.json", described)


def _preprocessed(folder: Path) -> None:
    _partition(folder)
    preprocess(parse({}), folder)


def _settings(folder: Path) -> None:
    shutil.copy(ROOT / "params.yaml", folder)


def _read_cohort(folder: Path) -> None:
    cohort_of(parse({"preprocess": {"augment": {"brightness": 0.1}}}), folder)


def _read_clients(folder: Path) -> None:
    checked_in = check_in(folder / "data/clients")
    assert {*checked_in.clients, *checked_in.broken} == {"00", "01"}
    for reason in checked_in.broken.values():
        assert reason.isprintable()
        assert str(folder) not in reason


PARTITION, CLIENTS = "data/partition", "data/clients"
SHARDS = ("clients_001.npz", "test.npz")
KINDS = {
    "params.yaml": Kind(
        _settings, ("params.yaml",), lambda folder: load_settings(folder / "params.yaml"), _mutated_tree
    ),
    "npz": Kind(_npz, ("data.npz",), _load("npz", "data.npz"), _mutated_in_zip),
    "clients' npz": Kind(_clients, ("raw/a.npz", "raw/test.npz"), _load("clients", "raw"), _mutated_in_zip),
    "labels.csv": Kind(_labels, ("labels.csv",), _load("images", "labels.csv")),
    "png": Kind(_images("png"), ("raw/a/0.png", "raw/b/1.png"), _load("images", "raw"), _mutated_png),
    "jpeg": Kind(_images("jpg"), ("raw/a/0.jpg", "raw/b/1.jpg"), _load("images", "raw")),
    "tiff": Kind(_images("tif"), ("raw/a/0.tif", "raw/b/1.tif"), _load("images", "raw")),
    "packed tiff": Kind(_images("tif", compression="tiff_lzw"), ("raw/a/0.tif",), _load("images", "raw")),
    "gif": Kind(_images("gif"), ("raw/a/0.gif", "raw/b/1.gif"), _load("images", "raw")),
    "bmp": Kind(_images("bmp"), ("raw/a/0.bmp", "raw/b/1.bmp"), _load("images", "raw")),
    "csv": Kind(_csv, ("table.csv",), _load("table", "table.csv", client_column="site")),
    "parquet": Kind(_parquet, ("table.parquet",), _load("table", "table.parquet", client_column="site")),
    "partition's shards": Kind(
        _partition,
        tuple(f"{PARTITION}/{name}" for name in SHARDS),
        lambda folder: preprocess(parse({}), folder),
        _mutated_in_zip,
    ),
    "partition.json": Kind(
        _partition, (f"{PARTITION}/partition.json",), lambda folder: preprocess(parse({}), folder), _mutated_tree
    ),
    "clients' shards": Kind(
        _preprocessed, tuple(f"{CLIENTS}/{name}" for name in SHARDS), _read_clients, _mutated_in_zip
    ),
    "preprocess.json": Kind(
        _preprocessed,
        (f"{CLIENTS}/preprocess.json",),
        _read_cohort,
        _mutated_tree,
    ),
    "descriptions.json": Kind(
        _preprocessed,
        (f"{CLIENTS}/descriptions.json",),
        _read_cohort,
        _mutated_tree,
    ),
}


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def faults(kind: Kind, folder: Path, cases: range) -> Iterator[str]:
    """Yields a line for each fault: another exception, more than one line, no name of the file, files left behind."""
    kind.make(folder)
    whole = {name: (folder / name).read_bytes() for name in kind.files}
    for case in cases:
        rng = np.random.default_rng([78, case])
        name = str(rng.choice(kind.files))
        content = kind.mutate(whole[name], rng)
        (folder / name).write_bytes(content)
        before = _tree(folder)
        try:
            kind.read(folder)
        except UndriftError as exc:
            text = str(exc)
            if not text.isprintable() or len(text) > 600 or not _names(text, name):
                yield f"case {case}: {text!r}"
            if _tree(folder) != before:
                yield f"case {case}: something was left behind"
        except Exception as exc:
            yield f"case {case}: {type(exc).__name__}: {exc} at {_place(exc)}; {content[:300]!r}"
        shutil.rmtree(folder / "data/clients", ignore_errors=True) if name.startswith(PARTITION) else None
        (folder / name).write_bytes(whole[name])


def _names(text: str, name: str) -> bool:
    """Whether an error names the file, its client or its setting. For params.yaml, the wrong setting is enough."""
    file = Path(name)
    held = {"clients_001.npz": "client 01", "test.npz": "client test"}.get(file.name)
    words = [name, "data.path", *([file.name] if file.suffix == ".json" else []), *([held] if held else [])]
    return name == "params.yaml" or any(word in text for word in words)


def _place(exc: BaseException) -> str:
    places, trace = [], exc.__traceback__
    while trace is not None:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " ".join(places[-6:])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cases", [range(FEW), pytest.param(range(MANY), marks=pytest.mark.slow)], ids=["few", "many"])
def test_a_mutated_file_is_taken_or_refused_in_one_line(kind: str, cases: range, tmp_path: Path) -> None:
    assert list(faults(KINDS[kind], tmp_path, cases)) == []
