"""Verifying a packed set: every file re-hashed, every pack re-checked, every number counted again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.manifest import Manifest, ManifestError, beside, check_shard, unknown_sources
from mindvl_data.manifest.draws import are_listed, draws_of
from mindvl_data.manifest.referenced import Referenced, Runner
from mindvl_data.media import BUILD_SCHEME, Access, access_to, fixed_folder, source_roots
from mindvl_data.shards import (
    Pack,
    ShardError,
    ShardInfo,
    ShardReader,
    StoreError,
    content_id,
    file_sha256,
    pack_digest,
    pack_problems,
)


@dataclass
class _Seen:
    """What the packs themselves say, gathered while they are checked."""

    digests: list[bytes] = field(default_factory=list)
    draws: list[NDArray[np.void]] = field(default_factory=list)
    samples: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    vision_tokens: int = 0
    referenced: Referenced = field(default_factory=Referenced)

    def add(self, pack: Pack, shard: int, merge: int) -> None:
        self.digests.append(pack_digest(pack))
        self.referenced.add(pack)
        self.samples += len(pack.sample_ids)
        self.tokens += pack.num_tokens
        self.loss_tokens += int(pack.loss_mask.sum())
        self.vision_tokens += pack.num_patches // merge**2
        self.draws.append(draws_of(pack, shard))

    def join(self, other: _Seen) -> None:
        """What the packs after these say."""
        self.digests += other.digests
        self.draws += other.draws
        self.samples += other.samples
        self.tokens += other.tokens
        self.loss_tokens += other.loss_tokens
        self.vision_tokens += other.vision_tokens
        self.referenced.join(other.referenced)


@dataclass(frozen=True)
class _ShardTask:
    """One shard of a set, and how many packs are before it."""

    manifest: Manifest
    number: int
    first: int


def verify(
    manifest: Manifest, access: Access | None = None, media: bool = False, run: Runner = map
) -> Iterator[tuple[str, list[str]]]:
    """Yields (file name, problems) as it goes: the shards, the files beside them, the manifest, referenced media last.

    Args:
        manifest: Of the set.
        access: What may be opened for referenced media; by default what this user's own build has noted.
        media: Read and hash every referenced image, whose files are otherwise only looked at: there, and long enough.
        run: Gives the results of a function over tasks in their order, as an engine does.
    """
    seen = _Seen()
    ends = accumulate(shard.packs for shard in manifest.shards)
    firsts = (end - shard.packs for end, shard in zip(ends, manifest.shards, strict=True))
    tasks = [_ShardTask(manifest, number, first) for number, first in enumerate(firsts)]
    for shard, (problems, found) in zip(manifest.shards, run(_verified, tasks), strict=True):
        seen.join(found)
        yield shard.path, problems
    for name, expected in _listed(manifest):
        yield name, _file_problems(manifest, name, expected, seen)
    yield manifest.path.name, _number_problems(manifest, sum(shard.packs for shard in manifest.shards), seen)
    yield from seen.referenced.problems(manifest, access or access_to(manifest.build_folder), media, run)


def files(manifest: Manifest) -> int:
    """How many files of its own a set has, which `verify` goes through; those that it references are not counted."""
    return len(manifest.shards) + len(_listed(manifest)) + 1


def _listed(manifest: Manifest) -> list[tuple[str, str]]:
    """The files beside the shards with their hashes: the draws, and the list of sources where it has its own."""
    lists = [source["files"] for source in manifest.data["sources"].values() if isinstance(source["files"], dict)]
    return sorted({(item["path"], item["sha256"]) for item in [manifest.data["draws"], *lists]})


def _verified(task: _ShardTask) -> tuple[list[str], _Seen]:
    """The problems of one shard, and what its packs say, as far as they can be read."""
    seen, shard = _Seen(), task.manifest.shards[task.number]
    try:
        with ShardReader(check_shard(task.manifest, shard), task.first) as reader:
            return list(_pack_problems(task.manifest, task.number, shard, reader, seen)), seen
    except (ManifestError, ShardError, StoreError) as error:
        return [str(error)], seen


def _pack_problems(
    manifest: Manifest, number: int, shard: ShardInfo, reader: ShardReader, seen: _Seen
) -> Iterator[str]:
    if len(reader) != shard.packs:
        yield f"holds {len(reader)} packs, the manifest says {shard.packs}"
    tokenizer, merge = manifest.tokenizer, manifest.resolution.merge
    for pack in reader:
        seen.add(pack, number, merge)
        if pack.seq_len != manifest.seq_len:
            yield f"pack {pack.index}: {pack.seq_len} tokens, the manifest says {manifest.seq_len}"
        yield from (f"pack {pack.index}: {problem}" for problem in _strange(manifest, pack))
        for problem in pack_problems(pack, tokenizer["special_ids"], tokenizer["vocab_size"], merge):
            yield f"pack {pack.index}: {problem}"


def _strange(manifest: Manifest, pack: Pack) -> Iterator[str]:
    """What a pack names or refers to that the manifest does not know."""
    for name in unknown_sources(manifest, pack):
        yield f"names the source {name!r}, which the manifest has not"
    roots = [fixed_folder(root) for root in source_roots(manifest.data["recipe"].get("sources", {}))]
    for number, image in enumerate(pack.images):
        if image.data is None and image.uri and not image.uri.startswith((BUILD_SCHEME, *roots)):
            yield f"image {number} lies at {image.uri!r}, where no source of the manifest is"
        if image.data is None and ((image.offset or 0) < 0 or (image.size or 0) <= 0):
            yield f"image {number} is no range of a file"


def _file_problems(manifest: Manifest, name: str, expected: str, seen: _Seen) -> list[str]:
    try:
        path = beside(manifest, name, expected)
    except StoreError as error:
        return [str(error)]
    if not path.is_file():
        return ["missing"]
    if file_sha256(path) != expected:
        return ["altered: its sha256 differs"]
    if name != manifest.data["draws"]["path"]:
        return []
    try:
        return [] if are_listed(path, seen.draws) else ["its draws are not the packs'"]
    except Exception as error:  # noqa: BLE001, whatever a library raises on it is this file's fault
        return [f"not readable ({error})"]


def _number_problems(manifest: Manifest, packs: int, seen: _Seen) -> list[str]:
    packing = manifest.data["packing"]
    found: dict[str, Any] = {
        "packing.packs": packs,
        "packing.tokens": seen.tokens,
        "packing.padding": packs * manifest.seq_len - seen.tokens,
        "packing.fill": round(seen.tokens / max(1, packs * manifest.seq_len), 6),
    }
    found |= {f"mixture.total.{name}": getattr(seen, name) for name in manifest.data["mixture"]["total"]}
    said = {name: _at(manifest.data, name) for name in found}
    problems = [f"{name} is {said[name]}, its packs say {found[name]}" for name in found if said[name] != found[name]]
    if packing["minimum_packs"] > packs:
        problems.append(f"packing.minimum_packs {packing['minimum_packs']} is above its {packs} packs")
    if content_id(seen.digests) != manifest.id:
        problems.append("its id is not the hash of the packs in its shards")
    return problems


def _at(data: Any, path: str) -> Any:
    for name in path.split("."):
        data = data[name]
    return data
