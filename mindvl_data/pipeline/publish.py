"""Publishing: the manifest is put together and the folder of a packed set appears whole, or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import mindvl_data
from mindvl_data.atomic import sync
from mindvl_data.errors import BuildError
from mindvl_data.inspect.card import card
from mindvl_data.manifest import FILE_NAME as MANIFEST
from mindvl_data.manifest import (
    FORMAT_VERSION,
    Manifest,
    ManifestError,
    check_shard,
    read_manifest,
    write_manifest,
)
from mindvl_data.manifest.reading import SEAL_NAME
from mindvl_data.pipeline.folder import WORK
from mindvl_data.runtime import mirror as mirrors
from mindvl_data.runtime.mirror import Mirror
from mindvl_data.shards import ShardInfo, file_sha256
from mindvl_data.tables.schema import SAMPLE_ID
from mindvl_data.tokenise.tokeniser import VIDEO_PAD

if TYPE_CHECKING:
    from mindvl_data.pipeline.prepare import Prepared
    from mindvl_data.pipeline.run import Run
    from mindvl_data.vision import Resolution

NOTE = "build.json"
CARD = "CARD.md"
DRAWS = "draws.parquet"
FILES = "sources.parquet"
LISTED_FILES = 1000


def check_size(embedded: int, limit: int) -> None:
    """Raises BuildError above the recipe's `embed_limit`: so much is not copied without being asked for."""
    if embedded > limit:
        raise BuildError(
            f"this build would embed {embedded / 1e9:.1f} GB of images, embed_limit is {limit / 1e9:.1f} GB; "
            "set `media: reference` to leave them where they are, or raise embed_limit (bytes)"
        )


def recover(folder: Path) -> None:
    """Undo a publication that was killed half-way: the older set is moved back, or removed when it was replaced."""
    aside = _aside(folder)
    if aside.exists():
        if folder.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(folder)


def clear(out: Path) -> None:
    """Once every set is published: what builds of other recipes, or killed ones, left of sets is removed."""
    for aside in sorted((out / WORK).glob(f"*/{_aside(out).name}")):
        recover(out / aside.parent.name)
    give_up(out / WORK)


def _aside(folder: Path) -> Path:
    return folder.parent / WORK / folder.name / "old"


def published(folder: Path, name: str, key: str) -> Manifest | None:
    """The published set when it has this key: `manifest` for all of it, `content` for its shards alone."""
    mirror = mirrors.of(folder)
    if mirror is not None:
        return _published_there(mirror, folder, name, key)
    try:
        if json.loads((folder / NOTE).read_text())[name] != key:
            return None
        manifest = read_manifest(folder)
    except (OSError, ValueError, KeyError):
        return None
    whole = all(
        manifest.shard_path(s).is_file() and manifest.shard_path(s).stat().st_size == s.bytes for s in manifest.shards
    )
    return manifest if whole and (folder / DRAWS).is_file() else None


def _published_there(mirror: Mirror, folder: Path, name: str, key: str) -> Manifest | None:
    """The same for a set in a store, as that was last looked at."""
    sizes = [mirror.size(f"{folder.name}/{file}") for file in (MANIFEST, SEAL_NAME, DRAWS)]
    note = None if None in sizes else mirror.read(f"{folder.name}/{NOTE}")
    try:
        if note is None or json.loads(note)[name] != key:
            return None
        manifest = read_manifest(mirror.address(folder))
    except (ManifestError, KeyError):
        return None
    return manifest if all(mirror.size(f"{folder.name}/{s.path}") == s.bytes for s in manifest.shards) else None


def place_of(manifest: Manifest) -> Path | str:
    """Where a published set's manifest lies: here, or in a store."""
    return manifest.path if manifest.store is None else manifest.where


def header(run: Run, stage: str, seq_len: int, resolution: Resolution, video: bool) -> dict[str, Any]:
    """The manifest's keys that name the recipe, the tokenizer and the rules; `video`: of a set with clips."""
    tokeniser = run.tokeniser
    special = tokeniser.special_ids | ({"video_pad": tokeniser.token_id(VIDEO_PAD)} if video else {})
    clips = {"video": resolution.video.described()} if video and resolution.video else {}
    return {
        "format_version": FORMAT_VERSION,
        "recipe_hash": run.loaded.hash,
        "recipe": run.loaded.raw,
        "engine_version": mindvl_data.__version__,
        "stage": stage,
        "seq_len": seq_len,
        "tokenizer": {
            "name": run.loaded.raw["tokenizer"],
            "sha256": tokeniser.hash,
            "vocab_size": tokeniser.vocab_size,
            # Under the name of Qwen's the token that ends an answer, whatever the template calls it.
            "special_ids": special
            | ({"im_end": tokeniser.added[run.template.end]} if run.template.end in tokeniser.added else {}),
            "pad_id": tokeniser.pad_id,
            **({"other_ids": run.other_ids} if run.other_ids else {}),
        },
        "chat_template": run.template.describe(run.recipe.chat_template),
        "resolution": resolution.described() | clips,
    }


def sources(run: Run, prepared: Prepared, names: Sequence[str]) -> dict[str, Any]:
    """Every source with its files, each with size and fingerprint; `${VAR}` as written."""
    described = {}
    for name in names:
        source = run.recipe.sources[name]
        files = [
            {"path": p.file.uri, "bytes": p.file.size, "fingerprint": p.file.fingerprint}
            for p in prepared.partitions
            # Of a file in pieces the first stands for all.
            if p.source == name and (p.file.piece is None or p.file.piece.start == 0)
        ]
        described[name] = {
            "format": source.format,
            "kind": source.kind,
            "licence": source.licence,
            **({"weight": source.weight} if source.weight != 1 else {}),
            "files": files,
        }
    return described


def work_folder(out: Path, name: str, content_key: str) -> Path:
    """Where shards are written before they are published; what another key left there is removed."""
    work = out / WORK / name / content_key
    for other in (out / WORK / name).glob("*"):
        if other.name.split(".")[0] != content_key:
            shutil.rmtree(other)
    work.mkdir(parents=True, exist_ok=True)
    notes_folder(work).mkdir(exist_ok=True)
    return work


def notes_folder(work: Path) -> Path:
    """What is known of each finished shard: kept until the set is published, so that no shard is written twice."""
    return work.with_name(f"{work.name}.notes")


def deal_folder(work: Path) -> Path:
    """Where images lie dealt to the shards that want them, until those are written."""
    return work.with_name(f"{work.name}.dealt")


def link_shards(there: Manifest, work: Path) -> list[ShardInfo]:
    """The shards of a published set under another manifest: linked, not written again; in a store they stay."""
    for shard in there.shards if there.store is None else ():
        check_shard(there, shard)
        (work / shard.path).unlink(missing_ok=True)
        os.link(there.shard_path(shard), work / shard.path)
    return list(there.shards)


def publish(
    folder: Path,
    work: Path,
    data: Mapping[str, Any],
    shards: Sequence[ShardInfo],
    draws: Iterable[Mapping[str, NDArray[Any]]],
    content: str,
    keys: Mapping[str, str],
) -> Path | str:
    """Write draws and manifest beside the finished shards, then rename the whole folder into place."""
    drawn = write_draws(work / DRAWS, draws)
    draw_info = {"path": DRAWS, "draws": drawn, "sha256": file_sha256(work / DRAWS)}
    listed = [{"path": s.path, "packs": s.packs, "bytes": s.bytes, "sha256": s.sha256} for s in shards]
    path = write_manifest(
        work,
        {
            **data,
            "sources": _listed(work, data["sources"]),
            "id": content,
            "draws": draw_info,
            "shards": listed,
        },
    )
    (work / CARD).write_text(card(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    (work / NOTE).write_text(json.dumps(dict(keys)) + "\n")
    for written in (*work.iterdir(), work):
        sync(written)
    mirror = mirrors.of(folder)
    if mirror is not None:
        return _publish_there(mirror, folder, work, shards)
    _replace(folder, work)
    shutil.rmtree(work.parent)
    return folder / path.name


def _publish_there(mirror: Mirror, folder: Path, work: Path, shards: Sequence[ShardInfo]) -> str:
    """The older set is withdrawn, its manifest first; shards are copied within the store; the new manifest is last."""
    if mirror.lost:
        raise BuildError(f"{mirror.url}: another build has taken over there, for this one was not heard of for long")
    name, last = folder.name, (SEAL_NAME, MANIFEST)
    mirror.remove(f"{name}/{file}" for file in (MANIFEST, SEAL_NAME, NOTE) if mirror.size(f"{name}/{file}") is not None)
    fresh = [shard.path for shard in shards if mirror.has(work / shard.path)]
    mirror.together(lambda path: mirror.copy(mirror.name(work / path), f"{name}/{path}"), fresh)
    rest = [path.name for path in work.iterdir() if path.name not in last]
    mirror.together(lambda file: mirror.send(work / file, f"{name}/{file}"), rest)
    here = {f"{name}/{file}" for file in (*rest, *(shard.path for shard in shards))}
    mirror.remove(set(mirror.below(name)) - here)
    for file in last:
        mirror.send(work / file, f"{name}/{file}")
    give_up(work.parent)
    return f"{mirror.address(folder)}/{MANIFEST}"


def give_up(work: Path) -> None:
    """Remove what was written of a set, here and in the store."""
    shutil.rmtree(work, ignore_errors=True)
    mirror = mirrors.of(work)
    if mirror is not None:
        mirror.remove(mirror.below(mirror.name(work)))


def _listed(work: Path, described: Mapping[str, Any]) -> dict[str, Any]:
    """The sources; past a thousand files their lists go to a Parquet file beside the manifest, hashed in it."""
    if sum(len(source["files"]) for source in described.values()) <= LISTED_FILES:
        return dict(described)
    lines = [{"source": name, **file} for name, source in described.items() for file in source["files"]]
    pq.write_table(pa.Table.from_pylist(lines), work / FILES, compression="zstd")
    place = {"path": FILES, "sha256": file_sha256(work / FILES)}
    return {name: {**source, "files": {**place, "count": len(source["files"])}} for name, source in described.items()}


def write_draws(path: Path, draws: Iterable[Mapping[str, NDArray[Any]]]) -> int:
    """One row group a part; how many draws there are."""
    with contextlib.ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        drawn = 0
        for part in draws:
            ids = pa.py_buffer(part["sample_id"].tobytes())
            columns = {"sample_id": pa.FixedSizeBinaryArray.from_buffers(SAMPLE_ID, len(part["repeat"]), [None, ids])}
            columns |= {name: pa.array(values) for name, values in part.items() if name != "sample_id"}
            table = pa.table(columns)
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd"))
            writer.write_table(table)
            drawn += len(table)
    return drawn


def _replace(folder: Path, work: Path) -> None:
    """An older set under the name is moved aside first; `recover` mends what a kill in between leaves."""
    if folder.exists():
        folder.rename(_aside(folder))
    work.rename(folder)
    sync(folder.parent)
    recover(folder)
