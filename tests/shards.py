"""Writes, reads and damages the shards of a workspace in tests, by zipfile and NumPy alone."""

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.clients import TEST, Form, Stored, find, writing


def write_sites(root: Path, sites: Mapping[str, tuple[Any, Any]]) -> None:
    """Writes the shards of `sites`, {client or `test`: (x, y)}, into data/partition or data/clients."""
    with writing(root, [site for site in sites if site != TEST]) as write:
        for site in sorted(sites, key=lambda site: (site == TEST, site)):
            write(site, *map(np.asarray, sites[site]))


def shard_of(root: Path, client: str) -> Path:
    """Returns the shard of `root` that holds a client."""
    whole = [path for path in root.glob("*.npz") if zipfile.is_zipfile(path)]
    (shard,) = (path for path in whole if any(name.startswith(f"{client}/") for name in members_of(path)))
    return shard


def members_of(shard: Path) -> dict[str, bytes]:
    """Returns the members of a shard."""
    with zipfile.ZipFile(shard) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(shard: Path, members: Mapping[str, bytes]) -> None:
    """Replaces the members of a shard."""
    shard.unlink(missing_ok=True)  # it can be a link into a cache
    with zipfile.ZipFile(shard, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def npy(array: Any, allow_pickle: bool = False) -> bytes:
    """Returns the .npy of an array."""
    opened = io.BytesIO()
    np.save(opened, array, allow_pickle=allow_pickle)
    return opened.getvalue()


def write_client(root: Path, client: str, x: Any, y: Any) -> None:
    """Replaces the examples of one client in its shard: x as float32 or uint8, y as int32."""
    x = np.asarray(x)
    x = x if x.dtype == np.uint8 else x.astype(np.float32)
    put(root, client, x=npy(np.ascontiguousarray(x)), y=npy(np.asarray(y, np.int32)))


def put(root: Path, client: str, **arrays: bytes | None) -> None:
    """Replaces x or y of a client by other bytes; None removes it."""
    shard = shard_of(root, client)
    changed = members_of(shard) | {f"{client}/{name}.npy": content for name, content in arrays.items()}
    write_members(shard, {name: content for name, content in changed.items() if content is not None})


def damage(root: Path, client: str, name: str, change: Callable[[bytes], bytes]) -> None:
    """Puts `change` of the bytes of x or y in their place."""
    put(root, client, **{name: change(members_of(shard_of(root, client))[f"{client}/{name}.npy"])})


def read_client(root: Path, client: str) -> tuple[Any, Any]:
    """Returns the stored x and y of a client, as NumPy reads them."""
    with np.load(shard_of(root, client)) as arrays:
        return arrays[f"{client}/x"], arrays[f"{client}/y"]


def stored(root: Path, client: str, form: Form, num_examples: int | None = None, statistics: Any = None) -> Stored:
    """Returns the place of the one client in `root`."""
    return find(root, {client: num_examples}, form, lambda _: statistics, "preprocess")[client]


def alone(root: Path, client: str, x: Any, y: Any, num_classes: int = 3) -> Stored:
    """Writes the shards of one client and returns its place."""
    x = np.asarray(x)
    write_sites(root, {client: (x, y)})
    return stored(root, client, Form(x.shape[1:], num_classes), len(y))


def write_folders(root: Path, clients: Mapping[str, tuple[Any, Any]]) -> None:
    """Writes the layout of earlier versions: a folder for each client."""
    for path in root.glob("*.npz"):
        path.unlink()
    for client, (x, y) in clients.items():
        (root / client).mkdir(parents=True)
        np.save(root / client / "x.npy", np.asarray(x, np.float32))
        np.save(root / client / "y.npy", np.asarray(y, np.int32))


def sites_of(root: Path) -> dict[str, tuple[Any, Any]]:
    """Returns the stored examples of all clients in `root`, sorted by id, and of `test`."""
    sites = {name.split("/")[0] for path in root.glob("*.npz") for name in members_of(path)}
    return {site: read_client(root, site) for site in sorted(sites)}


def rewrite(root: Path, sites: Mapping[str, tuple[Any, Any]]) -> None:
    """Replaces all shards of `root` by those of `sites`."""
    for path in root.glob("*.npz"):
        path.unlink()
    write_sites(root, sites)
