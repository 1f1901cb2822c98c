"""The manifest: what a packed data set is, where it came from and how to check it.

`manifest.json` is written last and lies beside its shards, with `manifest.json.sha256` beside it: without a
manifest there is no data set. manifests/README.md lists every key.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fsspec

from mindvl_data.errors import UserError
from mindvl_data.shards import Pack, ShardCache, ShardError, ShardInfo, ShardReader, file_sha256, patiently, sha256_once

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"
SEAL = re.compile(rb"([0-9a-f]{64})(  manifest\.json)?\n?")
ADVICE = "copy it again or rebuild; `python -m mindvl_data verify` lists every damaged file"
KEYS = (
    "format_version",
    "id",
    "recipe_hash",
    "recipe",
    "engine_version",
    "stage",
    "seq_len",
    "tokenizer",
    "chat_template",
    "resolution",
    "sources",
    "scores",
    "evaluations",
    "funnel",
    "mixture",
    "packing",
    "order",
    "draws",
    "shards",
)
# What only some recipes have.
OPTIONAL = frozenset({"scores", "evaluations"})


class ManifestError(UserError):
    """A manifest that cannot be trusted; the message says what, where and what to do."""


@dataclass(frozen=True)
class Manifest:
    """A verified manifest: `data` is the whole of it, the properties are what a loader needs.

    path: where it lies; of one in a store, its copy here. store: the URL of its folder there. cache: where files
    of the store are kept here.
    """

    path: Path
    data: Mapping[str, Any]
    store: str | None = None
    cache: ShardCache | None = None

    @property
    def where(self) -> str:
        """Its place, for messages."""
        return str(self.path) if self.store is None else f"{self.store}/{FILE_NAME}"

    @property
    def build_folder(self) -> str:
        """The folder or URL that the build wrote: the manifest's own lies below it."""
        return str(self.path.parent.parent) if self.store is None else self.store.rpartition("/")[0]

    @property
    def id(self) -> str:
        return str(self.data["id"])

    @property
    def stage(self) -> str:
        return str(self.data["stage"])

    @property
    def seq_len(self) -> int:
        return int(self.data["seq_len"])

    @property
    def num_packs(self) -> int:
        return int(self.data["packing"]["packs"])

    @property
    def tokenizer(self) -> Mapping[str, Any]:
        """`name`, `sha256`, `vocab_size`, `special_ids`, `pad_id`."""
        return dict(self.data["tokenizer"])

    @property
    def resolution(self) -> Mapping[str, int]:
        return dict(self.data["resolution"])

    @property
    def order(self) -> Mapping[str, Any]:
        return dict(self.data["order"])

    @property
    def shards(self) -> tuple[ShardInfo, ...]:
        return tuple(ShardInfo(**shard) for shard in self.data["shards"])

    def shard_path(self, shard: ShardInfo) -> Path:
        return self.path.parent / shard.path


def write_manifest(folder: Path, data: Mapping[str, Any]) -> Path:
    """Write `manifest.json` and its hash into `folder` (not yet published: the caller renames the folder)."""
    missing = [key for key in KEYS if key not in data and key not in OPTIONAL]
    if missing:
        raise ManifestError(f"a manifest needs the keys {', '.join(missing)}")
    text = (
        json.dumps({key: data[key] for key in KEYS if key in data}, indent=2, ensure_ascii=False, allow_nan=False)
        + "\n"
    )
    path = folder / FILE_NAME
    path.write_text(text, encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.with_name(path.name + ".sha256").write_text(f"{digest}  {FILE_NAME}\n")
    return path


def read_manifest(path: str | Path, cache: ShardCache | None = None) -> Manifest:
    """Read and check a manifest (its hash, version and keys; not its shards: see `verify`).

    path: the file, or the folder that holds it, here or as a URL of any store that fsspec knows. cache: of a
    store's shards (default: the one that the environment names). Raises ManifestError, and StoreError.
    """
    if "://" in str(path):
        return _read_from_store(str(path).removesuffix(f"/{FILE_NAME}").rstrip("/"), cache or ShardCache())
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    return Manifest(path, _checked_data(path))


def _read_from_store(url: str, cache: ShardCache) -> Manifest:
    """A manifest as it stands in the store now, kept here for messages and tools."""
    store, place = fsspec.core.url_to_fs(url)
    folder = cache.folder / "manifests" / hashlib.sha256(url.encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    copied = folder / str(os.getpid())
    copied.mkdir(exist_ok=True)
    for name in (FILE_NAME, f"{FILE_NAME}.sha256"):
        read = partial(store.cat_file, f"{place}/{name}")
        (copied / name).write_bytes(patiently(read, f"{url}/{name}", cache.patience))
    data = _checked_data(copied / FILE_NAME)
    for name in (f"{FILE_NAME}.sha256", FILE_NAME):
        (copied / name).rename(folder / name)
    copied.rmdir()
    return Manifest(folder / FILE_NAME, data, url, cache)


def _checked_data(path: Path) -> dict[str, Any]:
    text = _checked_text(path)
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ManifestError(f"{path}: not JSON ({error}); build the data set again") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise ManifestError(
            f"{path}: format_version is {version}, this version reads {FORMAT_VERSION}; "
            "build the data set again, or use the version that wrote it"
        )
    missing = [key for key in KEYS if key not in data and key not in OPTIONAL]
    if missing:
        raise ManifestError(f"{path}: the keys {', '.join(missing)} are missing; build the data set again")
    try:
        _check_form(Manifest(path, data))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ManifestError(f"{path}: not of the form of a manifest ({error}); build the data set again") from error
    return dict(data)


def packs_of(manifest: Manifest) -> Iterator[Pack]:
    """The packs in order as far as their shards are there; each shard is checked before it is read."""
    first = 0
    for shard in manifest.shards:
        if manifest.store is None and not manifest.shard_path(shard).is_file():
            return
        with open_shard(manifest, shard, first) as reader:
            yield from reader
        first += shard.packs


def _check_form(manifest: Manifest) -> None:
    """Raises the error that using the manifest would raise; files it names lie beside it and nowhere else."""
    for name in [shard.path for shard in manifest.shards] + [manifest.data["draws"]["path"]]:
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{name!r} is no file beside it")
    numbers = [manifest.seq_len, manifest.num_packs, int(manifest.order["step"]), manifest.resolution["merge"]]
    numbers += [n for shard in manifest.shards for n in (shard.packs, shard.bytes)]
    numbers += [manifest.tokenizer["vocab_size"], *manifest.tokenizer["special_ids"].values()]
    if not all(isinstance(number, int) and number >= 0 for number in numbers) or not manifest.seq_len:
        raise ValueError("a count is not a whole number")


def _checked_text(path: Path) -> str:
    seal = path.with_name(path.name + ".sha256")
    try:
        raw = path.read_bytes()
        sealed = SEAL.fullmatch(seal.read_bytes())
    except FileNotFoundError as error:
        raise ManifestError(
            f"{error.filename}: no such file; a finished build has manifest.json and manifest.json.sha256 together"
        ) from error
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error}); build the data set again") from error
    if sealed is None:
        raise ManifestError(f"{seal}: altered since it was written (holds no sha256); build the data set again")
    if hashlib.sha256(raw).hexdigest() != sealed[1].decode():
        raise ManifestError(f"{path}: altered since it was written (its sha256 differs); build the data set again")
    return raw.decode()


def check_shard(manifest: Manifest, shard: ShardInfo, once: bool = False) -> Path:
    """The shard's path here once its size and hash are those of the manifest; fetched if it lies in a store.

    once: trust this host's note of a file that has not changed since it was hashed (see `sha256_once`).
    Raises ManifestError, and StoreError.
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
    store, place = fsspec.core.url_to_fs(url)
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
