"""A planned set becomes files: its shards in parallel, its draws, its manifest, published as one folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mindvl_data.media import source_roots
from mindvl_data.pipeline import publish
from mindvl_data.pipeline.scanning import check_unchanged
from mindvl_data.runtime import mirror as mirrors
from mindvl_data.runtime import seals
from mindvl_data.shards import content_id, shard_name
from mindvl_data.sources import SourceError
from mindvl_data.steps.fit import image_bytes
from mindvl_data.steps.write import Segments, WriteTask, deal, plan_deals, shard_borders, write, written
from mindvl_data.tables import ledger
from mindvl_data.tables.columns import chunks, let_go, taken, taken_in_order
from mindvl_data.tables.schema import Drop

if TYPE_CHECKING:
    from mindvl_data.packing import Packs
    from mindvl_data.pipeline.prepare import Prepared
    from mindvl_data.pipeline.run import Run
    from mindvl_data.pipeline.spec import Spec
    from mindvl_data.pipeline.stage import Planned
    from mindvl_data.shards import ShardInfo
    from mindvl_data.steps.fit import Fitted, Weights
    from mindvl_data.steps.mix import Draw
    from mindvl_data.tables.corpus import Corpus

# About so many draws are sorted and written at a time: a row group of the draws' file.
CHUNK = 1 << 20
# Packs whose draws' ends are summed at a time: wide sums of all of them are never there at once.
BLOCK = 1 << 16


@dataclass(frozen=True)
class StageResult:
    """A packed set that was built, was there already, or would be built: `data` is its manifest."""

    name: str
    state: str
    data: Mapping[str, Any]
    manifest: Path | str | None


def embedded_bytes(prepared: Prepared, planned: Planned) -> NDArray[np.int64]:
    """Bytes of images in each pack, int64 [packs]."""
    sizes = image_bytes(prepared.at(planned.spec.resolution).corpus, planned.fitted.weights)
    return planned.packs.sums(taken(sizes, planned.drawn.samples))


def write_stage(run: Run, prepared: Prepared, planned: Planned) -> StageResult:
    """Write and publish one set. Raises MediaError when a source changed since its scan."""
    name, prepared = planned.spec.name, prepared.at(planned.spec.resolution)
    ledger.write(run.folder("ledger"), f"fit-{name}", _fit_ledger(prepared, planned.spec, planned.fitted))
    folder, work = run.out / name, publish.work_folder(run.out, name, planned.keys["content"])
    weights, drawn, packs = planned.fitted.weights, planned.drawn, planned.packs
    segments = _segments(prepared.corpus, planned.names, weights, drawn, packs)
    tasks = _write_tasks(run, prepared, planned, segments, packs, work)
    draws = draws_of(prepared.corpus, weights, drawn, packs, [task.first_pack for task in tasks])
    if (there := publish.published(folder, "content", planned.keys["content"])) is not None:
        linked = publish.link_shards(there, work)
        path = publish.publish(folder, work, planned.data, linked, draws, there.id, planned.keys)
        return StageResult(name, "relabelled", planned.data, path)
    done = _done(run, tasks)
    if not all(done.values()):
        deals, tasks = plan_deals(tasks, segments, publish.deal_folder(work))
        run.step(f"deal {name}", deal, [task for task in deals if not mirrors.is_there(task.folder)])
    fresh = run.step(f"write {name}", write, [task for task in tasks if done[task.path] is None])
    infos = sorted([*(info for info in done.values() if info), *fresh], key=lambda info: info.path)
    _check_sources(prepared, planned, work)
    content = content_id(digest for info in infos for digest in info.pack_digests)
    path = publish.publish(folder, work, planned.data, infos, draws, content, planned.keys)
    return StageResult(name, "built", planned.data, path)


def _done(run: Run, tasks: Sequence[WriteTask]) -> dict[Path, ShardInfo | None]:
    """What an interrupted build finished of each shard: it is hashed to be sure, which a store has done itself."""
    there = [task for task in tasks if seals.is_whole(task.note)]
    found = run.engine.run(written, there) if mirrors.of(run.out) is None else [written(task) for task in there]
    return dict.fromkeys((task.path for task in tasks), None) | {
        task.path: info for task, info in zip(there, found, strict=True)
    }


def _check_sources(prepared: Prepared, planned: Planned, work: Path) -> None:
    """Before a set is published. What was written of a source that changed meanwhile is of no use to the next build."""
    try:
        check_unchanged(p for p in prepared.partitions if p.source in planned.names)
    except SourceError:
        publish.give_up(work.parent)
        raise


def _segments(corpus: Corpus, names: Sequence[str], weights: Weights, drawn: Draw, packs: Packs) -> Segments:
    """Every draw of the set in pack order; their sources as places in `names`."""
    samples = taken(drawn.samples, packs.index)
    places = np.searchsorted([corpus.sources.index(name) for name in names], np.arange(len(corpus.sources)))
    partition, row = corpus.places(samples)
    return Segments(
        partition=partition,
        row=row,
        source=taken(places.astype(np.int16), taken(corpus.source, samples)),
        repeat=taken(drawn.repeats, packs.index),
        num_ids=taken(weights.num_ids, samples),
        num_images=taken(weights.num_images, samples),
    )


def _write_tasks(
    run: Run, prepared: Prepared, planned: Planned, segments: Segments, packs: Packs, work: Path
) -> list[WriteTask]:
    tokeniser = run.tokeniser
    embedded = embedded_bytes(prepared, planned) * (run.recipe.media == "embed")
    tasks = []
    for number, (first, end) in enumerate(shard_borders(embedded, planned.spec.seq_len, run.recipe.shard_bytes)):
        span = slice(int(packs.offsets[first]), int(packs.offsets[end]))
        tasks.append(
            WriteTask(
                path=work / shard_name(number),
                note=publish.notes_folder(work) / f"{number:05d}.json",
                seq_len=planned.spec.seq_len,
                first_pack=first,
                segments=segments[span],
                offsets=packs.offsets[first : end + 1] - packs.offsets[first],
                stores={int(i): prepared.stores[i] for i in np.unique(segments.partition[span])},
                sources=planned.names,
                resolution=planned.spec.resolution,
                media=run.recipe.media,
                pads=tokeniser.pads,
                video="video" in planned.data["resolution"],
                weighted=planned.data.get("loss_weights", False),
                pad=tokeniser.pad_id,
                build_folder=run.media_from,
                recipe_folder=run.loaded.folder,
                roots=source_roots(run.loaded.raw["sources"]),
            )
        )
    return tasks


def draws_of(
    corpus: Corpus, weights: Weights, drawn: Draw, packs: Packs, first_packs: Sequence[int]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Where each draw went, by sample id: shard, pack (in the manifest's order) and token range in it.

    A part of the ids after another, by the highest bits of their first byte, of about CHUNK draws each: the whole is
    never there at once.
    """
    samples = taken(drawn.samples, packs.index)
    stop = _stops(taken(weights.tokens, samples), packs)
    bits = min(8, ((len(samples) - 1) // CHUNK).bit_length())
    part = taken(_first_bytes(corpus), samples) >> (8 - bits)
    for number in range(1 << bits):
        places = np.flatnonzero(part == number)
        ids, repeats = taken_in_order(corpus.sample_ids, samples[places]), drawn.repeats[packs.index[places]]
        order = _by_id(ids, repeats)
        places = places[order]
        pack = np.searchsorted(packs.offsets, places, side="right") - 1
        yield {
            "sample_id": ids[order],
            "repeat": repeats[order],
            "shard": (np.searchsorted(first_packs, pack, side="right") - 1).astype(np.int32),
            "pack": pack.astype(np.int64),
            "start": stop[places] - weights.tokens[samples[places]],
            "stop": stop[places],
        }


def _first_bytes(corpus: Corpus) -> NDArray[np.uint8]:
    """Of every sample's id, uint8 [n]."""
    found = np.empty(len(corpus.sample_ids), np.uint8)
    for start, end in chunks(len(found)):
        found[start:end] = corpus.sample_ids[start:end, 0]
        let_go(corpus.sample_ids)
    return found


def _by_id(ids: NDArray[np.uint8], repeats: NDArray[np.int16]) -> NDArray[np.int64]:
    words = np.ascontiguousarray(ids).view(">u8")
    return np.lexsort((repeats, words[:, 1], words[:, 0]))


def _stops(tokens: NDArray[np.int32], packs: Packs) -> NDArray[np.int32]:
    """Where each draw ends in its pack, int32 [draws], in the order of the packs' index."""
    stops = np.empty(len(tokens), np.int32)
    for first in range(0, len(packs), BLOCK):
        offsets = packs.offsets[first : first + BLOCK + 1]
        ends = np.cumsum(tokens[offsets[0] : offsets[-1]], dtype=np.int64)
        starts = np.append(0, ends)[offsets[:-1] - offsets[0]]
        stops[offsets[0] : offsets[-1]] = ends - np.repeat(starts, np.diff(offsets))
    return stops


def _fit_ledger(prepared: Prepared, spec: Spec, fitted: Fitted) -> list[pl.DataFrame]:
    told = (
        ("overlong", fitted.overlong, pl.format("{} tokens, the pack holds {}", "tokens", pl.lit(spec.fit_len))),
        ("no_loss_token", fitted.emptied, pl.lit(f"nothing to learn from in its first {spec.fit_len} tokens")),
        ("truncated", fitted.cut, pl.format("its first {} tokens are kept", "tokens")),
    )
    frames = []
    for reason, samples, detail in told:
        Drop(reason)
        of, _ = prepared.corpus.places(samples)
        for number in np.unique(of).tolist():
            mine, partition = samples[of == number], prepared.partitions[number]
            ids = pl.Series("sample_id", list(map(bytes, prepared.corpus.sample_ids[mine])), pl.Binary)
            lines = pl.DataFrame([ids, pl.Series("tokens", fitted.weights.tokens[mine])])
            lines = lines.select("sample_id", reason=pl.lit(reason), detail=detail)
            named = (partition.source, partition.file.uri)
            frames.append(ledger.of_samples(named, partition.samples, f"fit: {spec.name}", lines))
    return frames
