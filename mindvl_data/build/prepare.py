"""From a recipe to everything that can be drawn: scan, filter, count, hold out. Each partition is cached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mindvl_data import fingerprints, ledger, plugins
from mindvl_data.build.run import BuildError, Run
from mindvl_data.build.scanning import Partition, scan_funnel, scan_sources
from mindvl_data.build.summary import FunnelLine, funnel_lines
from mindvl_data.corpus import Corpus, from_stores
from mindvl_data.count import CountTask, count
from mindvl_data.estimate import Estimate, estimate
from mindvl_data.filters import NO_FILTER, FilterTask, dropped_by
from mindvl_data.holdout import held_out
from mindvl_data.recipe import Source
from mindvl_data.sources import DEFAULT_RENDER, GROUP
from mindvl_data.store import Store, open_store

COUNT_CODE = ("mindvl_data.count", "mindvl_data.store", "mindvl_data.tokenise")
LEAST_SAMPLED = 32


@dataclass(frozen=True)
class Prepared:
    """What the stages draw from. `held`: bool over the corpus. `stores`: one a partition, the corpus' order.

    `estimates`: per source, when text tokens were estimated from a sample instead of counted. `first`,
    `count_drops`: what the ledger is written from.
    """

    corpus: Corpus
    held: NDArray[np.bool_]
    partitions: Sequence[Partition]
    stores: Sequence[Path]
    funnel: Sequence[FunnelLine]
    estimates: Mapping[str, Estimate]
    first: Sequence[NDArray[np.int16]]
    count_drops: Sequence[Path]


def prepare(run: Run) -> Prepared:
    """Scan, filter, count and hold out."""
    partitions = scan_sources(run)
    funnel = scan_funnel(run, partitions)
    first = filter_partitions(run, partitions)
    funnel += filter_funnel(run, partitions, first)
    stores: list[Path] = []
    drops: list[Path] = []
    estimates: dict[str, Estimate] = {}
    opened: Iterable[Store]
    if run.sample is None:
        stores, drops = count_partitions(run, partitions, first)
        funnel += count_funnel(run, partitions, first, drops)
        opened = map(open_store, stores)
    else:
        opened, estimates = estimate_sources(run, partitions, first, run.sample)
    corpus = from_stores(tuple(run.recipe.sources), [partition.source for partition in partitions], opened)
    check_ids(partitions, corpus)
    held = hold_out(run, corpus)
    if run.recipe.holdout:
        funnel += funnel_lines("holdout", corpus.sources, corpus.source, np.ones(len(corpus), bool), ~held)
    return Prepared(corpus, held, partitions, stores, funnel, estimates, first, drops)


def check_ids(partitions: Sequence[Partition], corpus: Corpus) -> None:
    """Raises BuildError when two samples have one id: everything that names a sample would mean both."""
    words = np.ascontiguousarray(corpus.sample_ids).view("<u8")
    order = np.lexsort((words[:, 1], words[:, 0]))
    same = np.flatnonzero((words[order[1:]] == words[order[:-1]]).all(axis=1))
    if len(same):
        one, other = (partitions[corpus.partition[order[same[0] + i]]].file.uri for i in (0, 1))
        raise BuildError(f"{len(same)} samples have the id of another, the first in {one} and {other}")


# ----------------------------------------------------------------------------------------------- filter


def filter_partitions(run: Run, partitions: Sequence[Partition]) -> list[NDArray[np.int16]]:
    """For every partition, the number of the first filter that drops each line (NO_FILTER: kept)."""
    return [_filtered(run, partition, i, len(partitions)) for i, partition in enumerate(partitions)]


def _filtered(run: Run, partition: Partition, number: int, of: int) -> NDArray[np.int16]:
    kind = run.recipe.sources[partition.source].kind
    rules = run.recipe.filters
    code = fingerprints.code("mindvl_data.filters")
    key = fingerprints.key(kind, [rule.model_dump() for rule in rules], partition.version, code)
    path = partition.samples.with_suffix(f".filter-{key}.npy")
    if not path.exists():
        run.work["filter"] += 1
        run.progress("filter", number + 1, of)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, dropped_by(FilterTask(partition.source, kind, partition.samples, partition.columns, rules)))
        partial.rename(path)
    first: NDArray[np.int16] = np.load(path)
    return first


def filter_funnel(run: Run, partitions: Sequence[Partition], first: Sequence[NDArray[np.int16]]) -> list[FunnelLine]:
    lines = []
    order = [f"filter: {rule.name}" for rule in run.recipe.filters]
    for name in run.recipe.sources:
        mine = [
            np.zeros(0, np.int16),
            *(f for p, f in zip(partitions, first, strict=True) if p.source == name),
        ]
        dropped = np.bincount(np.concatenate(mine) + 1, minlength=len(run.recipe.filters) + 1)
        entered = int(dropped.sum())
        for number, rule in enumerate(run.recipe.filters):
            lost = int(dropped[number + 1])
            reasons = {"filtered": lost} if lost else {}
            lines.append(FunnelLine(f"filter: {rule.name}", name, entered, entered - lost, reasons))
            entered -= lost
    return sorted(lines, key=lambda line: order.index(line.step))


# ------------------------------------------------------------------------------------------------ count


def count_partitions(
    run: Run, partitions: Sequence[Partition], first: Sequence[NDArray[np.int16]]
) -> tuple[list[Path], list[Path]]:
    """The token store of every partition's kept samples, and the drops of each."""
    tasks = [_count_task(run, p, f == NO_FILTER) for p, f in zip(partitions, first, strict=True)]
    run.step("count", count, [task for task in tasks if not task.store.exists()])
    return [task.store for task in tasks], [task.drops for task in tasks]


def _render(source: Source) -> str:
    return source.render or str(getattr(plugins.load(GROUP, source.format), "render", DEFAULT_RENDER))


def _count_task(run: Run, partition: Partition, kept: NDArray[np.bool_]) -> CountTask:
    source = run.recipe.sources[partition.source]
    render = _render(source)
    mask = np.packbits(kept).tobytes()
    template, tokeniser = run.recipe.chat_template, run.tokeniser
    code = fingerprints.code(*COUNT_CODE)
    samples = f"{partition.samples.name}{partition.version}"
    key = fingerprints.key(samples, mask.hex(), render, source.loss, template, tokeniser.hash, code)
    stem = f"{partition.source}-{key}"
    return CountTask(
        source=partition.source,
        uri=partition.file.uri,
        samples=partition.samples,
        kept=mask,
        render=render,
        loss=source.loss,
        chat_template=template,
        tokenizer=run.recipe.tokenizer,
        recipe_folder=run.loaded.folder,
        store=run.folder("tokens") / stem,
        drops=run.folder("tokens") / f"{stem}.drops.parquet",
    )


def estimate_sources(
    run: Run, partitions: Sequence[Partition], first: Sequence[NDArray[np.int16]], sample: int
) -> tuple[list[Store], dict[str, Estimate]]:
    """In the place of a count: `sample` samples are tokenised over all sources, the others' lengths estimated."""
    kept = [f == NO_FILTER for f in first]
    total = sum(int(mask.sum()) for mask in kept)
    stores: list[Store] = []
    estimates = {}
    for number, (name, source) in enumerate(run.recipe.sources.items(), 1):
        mine = [(p.samples, mask) for p, mask in zip(partitions, kept, strict=True) if p.source == name]
        share = sum(int(mask.sum()) for _, mask in mine) / max(1, total)
        most = max(LEAST_SAMPLED, round(sample * share))
        run.progress("estimate", number, len(run.recipe.sources))
        found, estimates[name] = estimate(mine, most, _render(source), source.loss, run.template, run.tokeniser)
        stores += found
    return stores, estimates


def count_funnel(
    run: Run, partitions: Sequence[Partition], first: Sequence[NDArray[np.int16]], drops: Sequence[Path]
) -> list[FunnelLine]:
    lines = []
    for name in run.recipe.sources:
        mine = [i for i, partition in enumerate(partitions) if partition.source == name]
        entered = sum(int((first[i] == NO_FILTER).sum()) for i in mine)
        reasons = Counter(ledger.read(drops[i] for i in mine)["reason"].to_list())
        lines.append(FunnelLine("count", name, entered, entered - reasons.total(), reasons))
    return lines


# --------------------------------------------------------------------------------------- holdout, ledger


def hold_out(run: Run, corpus: Corpus) -> NDArray[np.bool_]:
    holdout = run.recipe.holdout
    if holdout is None:
        return np.zeros(len(corpus), bool)
    return held_out(corpus.content, corpus.content_starts, holdout.share, run.recipe.seed)
