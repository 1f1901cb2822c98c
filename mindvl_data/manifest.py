"""The manifest: what a packed data set is, where it came from and how to check it.

`manifest.json` is written last and lies beside its shards, with `manifest.json.sha256` beside it: without a
manifest there is no data set. manifests/README.md lists every key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindvl_data.errors import UserError
from mindvl_data.shards import Pack, ShardInfo, ShardReader, file_sha256

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"
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
    "funnel",
    "mixture",
    "packing",
    "order",
    "draws",
    "shards",
)


class ManifestError(UserError):
    """A manifest that cannot be trusted; the message says what, where and what to do."""


@dataclass(frozen=True)
class Manifest:
    """A verified manifest: `data` is the whole of it, the properties are what a loader needs."""

    path: Path
    data: Mapping[str, Any]

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
    missing = [key for key in KEYS if key not in data]
    if missing:
        raise ManifestError(f"a manifest needs the keys {', '.join(missing)}")
    text = json.dumps({key: data[key] for key in KEYS}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path = folder / FILE_NAME
    path.write_text(text, encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    path.with_name(path.name + ".sha256").write_text(f"{digest}  {FILE_NAME}\n")
    return path


def read_manifest(path: str | Path) -> Manifest:
    """Read and check a manifest (its hash, version and keys; not its shards: see `verify`).

    path: the file, or the folder that holds it. Raises ManifestError.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
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
    missing = [key for key in KEYS if key not in data]
    if missing:
        raise ManifestError(f"{path}: the keys {', '.join(missing)} are missing; build the data set again")
    manifest = Manifest(path, data)
    try:
        _check_form(manifest)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ManifestError(f"{path}: not of the form of a manifest ({error}); build the data set again") from error
    return manifest


def packs_of(manifest: Manifest) -> Iterator[Pack]:
    """The packs in order as far as their shards are there; each shard is checked before it is read."""
    first = 0
    for shard in manifest.shards:
        if not manifest.shard_path(shard).is_file():
            return
        with ShardReader(check_shard(manifest, shard), first) as reader:
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
        expected = seal.read_text().split()[0]
    except FileNotFoundError as error:
        raise ManifestError(
            f"{error.filename}: no such file; a finished build has manifest.json and manifest.json.sha256 together"
        ) from error
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise ManifestError(f"{path}: cannot be read ({error}); build the data set again") from error
    if hashlib.sha256(raw).hexdigest() != expected:
        raise ManifestError(f"{path}: altered since it was written (its sha256 differs); build the data set again")
    return raw.decode()


def check_shard(manifest: Manifest, shard: ShardInfo) -> Path:
    """The shard's path once its size and hash are those of the manifest. Raises ManifestError."""
    path = manifest.shard_path(shard)
    advice = "copy it again or rebuild; `python -m mindvl_data verify` lists every damaged file"
    if not path.is_file():
        raise ManifestError(f"{path}: the shard is missing; {advice}")
    size = path.stat().st_size
    if size != shard.bytes:
        raise ManifestError(f"{path}: {size} bytes, the manifest says {shard.bytes}; {advice}")
    if file_sha256(path) != shard.sha256:
        raise ManifestError(f"{path}: altered since it was written (its sha256 differs); {advice}")
    return path


def pack_at(manifest: Manifest, number: int) -> Pack:
    """One pack by its place, its shard checked first. Raises ManifestError when there is none."""
    first = 0
    for shard in manifest.shards:
        if 0 <= number - first < shard.packs:
            with ShardReader(check_shard(manifest, shard), first) as reader:
                return reader[number - first]
        first += shard.packs
    raise ManifestError(f"{manifest.path}: there is no pack {number}; its packs are 0 to {manifest.num_packs - 1}")
