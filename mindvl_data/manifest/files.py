"""What lies beside a manifest: shards and packs, each file checked before it is read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mindvl_data.manifest.document import Manifest, ManifestError
from mindvl_data.manifest.form import PLAIN
from mindvl_data.shards import (
    Pack,
    ShardCache,
    ShardError,
    ShardInfo,
    ShardReader,
    file_sha256,
    patiently,
    read_costs,
    sha256_once,
    store_of,
)

ADVICE = "copy it again or rebuild; `python -m mindvl_data verify` lists every damaged file"


def packs_of(manifest: Manifest) -> Iterator[Pack]:
    """The packs in order as far as their shards are there; each shard is checked before it is read."""
    first = 0
    for shard in manifest.shards:
        if manifest.store is None and not manifest.shard_path(shard).is_file():
            return
        with open_shard(manifest, shard, first) as reader:
            yield from reader
        first += shard.packs


def pack_costs(manifest: Manifest) -> NDArray[np.int64]:
    """What every pack costs; a few bytes a pack are read, tokens and images not.

    For estimates: the shards' hashes are not checked, and nothing is fetched from a store but those bytes.

    Returns:
        int64 [packs, 2]: Σ l² and patches.

    Raises:
        ManifestError: A shard is missing, or is none.
        StoreError: The store does not answer.
    """
    return np.concatenate([np.empty((0, 2), np.int64), *(_shard_costs(manifest, shard) for shard in manifest.shards)])


def _shard_costs(manifest: Manifest, shard: ShardInfo) -> NDArray[np.int64]:
    place = str(manifest.shard_path(shard)) if manifest.store is None else f"{manifest.store}/{shard.path}"
    try:
        if manifest.store is None:
            costs = _costs_at(place)
        else:
            costs = patiently(partial(_costs_at, place), place, (manifest.cache or ShardCache()).patience)
    except (FileNotFoundError, ShardError) as error:
        raise ManifestError(f"{place}: {error}; {ADVICE}") from error
    if len(costs) != shard.packs:
        raise ManifestError(f"{place}: holds {len(costs)} packs, the manifest says {shard.packs}; {ADVICE}")
    return costs


def _costs_at(place: str) -> NDArray[np.int64]:
    store, path = store_of(place)
    with store.open(path, "rb") as file:
        return read_costs(file)


def check_shard(manifest: Manifest, shard: ShardInfo, once: bool = False) -> Path:
    """The shard's path here once its size and hash are those of the manifest; fetched if it lies in a store.

    Args:
        manifest: Of the set.
        shard: One of its shards.
        once: Trust this host's note of a file that has not changed since it was hashed (see `sha256_once`).

    Raises:
        ManifestError: It is missing or altered.
        StoreError: The store does not answer.
    """
    if manifest.store is not None:
        return (manifest.cache or ShardCache()).fetch(f"{manifest.store}/{shard.path}", shard.bytes, shard.sha256)
    path = manifest.shard_path(shard)
    if not path.is_file():
        raise ManifestError(f"{path}: the shard is missing; {ADVICE}")
    size = path.stat().st_size
    if size != shard.bytes:
        raise ManifestError(f"{path}: {size} bytes, the manifest says {shard.bytes}; {ADVICE}")
    if (sha256_once(path) if once else file_sha256(path)) != shard.sha256:
        raise ManifestError(f"{path}: altered since it was written (its sha256 differs); {ADVICE}")
    return path


def beside(manifest: Manifest, name: str, sha256: str) -> Path:
    """Where a file that lies beside the manifest can be read here; fetched, and checked, if it is in a store."""
    if manifest.store is None:
        return manifest.path.parent / name
    url = f"{manifest.store}/{name}"
    cache = manifest.cache or ShardCache()
    store, place = store_of(url)
    return cache.fetch(url, int(patiently(partial(store.size, place), url, cache.patience)), sha256)


def open_shard(manifest: Manifest, shard: ShardInfo, first_pack: int) -> ShardReader:
    """A reader of a shard that was checked once on this host. Raises ManifestError, ShardError, StoreError."""
    path = check_shard(manifest, shard, once=True)
    try:
        reader = ShardReader(path, first_pack)
    except ShardError:
        if manifest.store is None or path.exists():
            raise
        # Another process made room in the cache before this one had the file open.
        reader = ShardReader(check_shard(manifest, shard, once=True), first_pack)
    if len(reader) != shard.packs:
        raise ManifestError(f"{path}: holds {len(reader)} packs, the manifest says {shard.packs}; {ADVICE}")
    return reader


def pack_at(manifest: Manifest, number: int) -> Pack:
    """One pack by its place, its shard checked first. Raises ManifestError when there is none."""
    first = 0
    for shard in manifest.shards:
        if 0 <= number - first < shard.packs:
            with open_shard(manifest, shard, first) as reader:
                return reader[number - first]
        first += shard.packs
    raise ManifestError(f"{manifest.where}: there is no pack {number}; its packs are 0 to {manifest.num_packs - 1}")


def unknown_sources(manifest: Manifest, pack: Pack) -> list[str]:
    """Names of sources in a pack that its manifest has not, or that no recipe can give: files are called after them.

    A manifest without any (sets made by hand) knows every plain name.
    """
    known = manifest.data["sources"]
    return sorted({name for name in pack.sources if not PLAIN.fullmatch(name) or (known and name not in known)})
