"""From a recipe to everything that can be drawn: scan, filter, count, hold out. Each partition is cached."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data import fingerprints, ledger, plugins
from mindvl_data.build.run import BuildError, Run
from mindvl_data.build.summary import FunnelLine, funnel_lines
from mindvl_data.corpus import Corpus, from_stores
from mindvl_data.count import CountTask, count
from mindvl_data.estimate import Estimate, estimate
from mindvl_data.filters import NO_FILTER, FilterTask, check_columns, data_columns, dropped_by
from mindvl_data.holdout import held_out
from mindvl_data.recipe import Recipe, Source
from mindvl_data.scan import Rules, ScanTask, image_files_changed, scan
from mindvl_data.schema import SAMPLES_INDEX, Drop
from mindvl_data.sources import DEFAULT_RENDER, GROUP, Asked, SourceError
from mindvl_data.sources.files import FingerprintCache, SourceFile, source_files
from mindvl_data.store import Store, open_store

SCAN_CODE = (
    "mindvl_data.scan",
    "mindvl_data.samples",
    "mindvl_data.schema",
    "mindvl_data.vision",
    "mindvl_data.sources",
)
COUNT_CODE = ("mindvl_data.count", "mindvl_data.store", "mindvl_data.tokenise")
WORST_SHOWN = 5
LEAST_SAMPLED = 32


@dataclass(frozen=True)
class Partition:
    """One file of one source, as it goes through the steps.

    columns: the data's own columns that filters name. version: what the samples table depends on beside its
    name: the image files that the records name by path.
    """

    source: str
    file: SourceFile
    samples: Path
    scan_drops: Path
    columns: Path | None
    version: str


@dataclass(frozen=True)
class Prepared:
    """What the stages draw from. `held`: bool over the corpus. `stores`: one a partition, the corpus' order.

    `estimates`: per source, when text tokens were estimated from a sample instead of counted.
    """

    corpus: Corpus
    held: NDArray[np.bool_]
    partitions: Sequence[Partition]
    stores: Sequence[Path]
    funnel: Sequence[FunnelLine]
    estimates: Mapping[str, Estimate]


def prepare(run: Run) -> Prepared:
    """Scan, filter, count and hold out, with the ledger of each step."""
    partitions = scan_sources(run)
    funnel = scan_funnel(run, partitions)
    first = filter_partitions(run, partitions)
    funnel += filter_funnel(run, partitions, first)
    stores: list[Path] = []
    estimates: dict[str, Estimate] = {}
    if run.sample is None:
        stores, count_drops = count_partitions(run, partitions, first)
        funnel += count_funnel(run, partitions, first, count_drops)
        if not run.dry_run:
            write_index(run, partitions)
            write_ledger(run, partitions, first, count_drops)
        opened = [open_store(path) for path in stores]
    else:
        opened, estimates = estimate_sources(run, partitions, first, run.sample)
    names = [partition.source for partition in partitions]
    corpus = from_stores(tuple(run.recipe.sources), list(zip(names, opened, strict=True)))
    held = hold_out(run, corpus)
    if run.recipe.holdout:
        funnel += funnel_lines("holdout", corpus.sources, corpus.source, np.ones(len(corpus), bool), ~held)
    return Prepared(corpus, held, partitions, stores, funnel, estimates)


# ------------------------------------------------------------------------------------------------- scan


def scan_sources(run: Run) -> list[Partition]:
    """Every file of every source as a partition, scanned now or before."""
    cache = FingerprintCache(run.folder("samples") / "fingerprints.json")
    tasks = [task for name in run.recipe.sources for task in _scan_tasks(run, name, cache)]
    cache.save()
    due = [task for task in tasks if not task.samples.exists() or image_files_changed(task)]
    # The largest first, so that no process is left alone with one at the end.
    due.sort(key=lambda task: -task.file.size)
    run.step("scan", scan, due, [task.file.size for task in due])
    partitions = [_partition(task) for task in tasks]
    _check_columns(run, partitions)
    return partitions


def _partition(task: ScanTask) -> Partition:
    version = fingerprints.of_file(task.image_files) if task.image_files.exists() else ""
    columns = task.columns if task.asked.keep else None
    return Partition(task.source, task.file, task.samples, task.drops, columns, version)


def _check_columns(run: Run, partitions: Sequence[Partition]) -> None:
    """Raises RecipeError for a column that a filter names and no file has a single value in."""
    schemas = [pq.read_schema(partition.columns) for partition in partitions if partition.columns]
    found = {field.name for schema in schemas for field in schema if not pa.types.is_null(field.type)}
    check_columns(run.recipe.filters, found)


def _files(run: Run, name: str, cache: FingerprintCache) -> list[SourceFile]:
    source = run.recipe.sources[name]
    raw = run.loaded.raw["sources"][name]["path"]
    shown = (raw,) if isinstance(raw, str) else tuple(raw)
    try:
        return source_files(source.path, shown, source.images, run.loaded.folder, cache)
    except SourceError as error:
        raise SourceError(f"sources.{name}.path: {error}") from error


def _scan_tasks(run: Run, name: str, cache: FingerprintCache) -> list[ScanTask]:
    source = run.recipe.sources[name]
    try:
        reader = plugins.load(GROUP, source.format)
    except plugins.UnknownPlugin as error:
        raise SourceError(f"sources.{name}.format: {error}") from error
    files = _files(run, name, cache)
    asked = Asked(source.columns, data_columns(run.recipe.filters, name))
    rules = _rules(run.recipe, source)
    subset = None if source.uids is None else run.loaded.folder / source.uids
    if subset and not subset.is_file():
        raise SourceError(f"sources.{name}.uids: {source.uids}: no such file (relative to the recipe's folder)")
    digest = run.recipe.holdout is not None
    code = fingerprints.code(*SCAN_CODE, reader.__module__)
    how = (source.format, source.images, asdict(asked), asdict(rules), digest, code)
    wanted = subset and fingerprints.of_file(subset)
    return [_scan_task(run, name, file, asked, rules, digest, subset, (how, wanted)) for file in files]


def _rules(recipe: Recipe, source: Source) -> Rules:
    return Rules(
        max_image_pixels=recipe.limits.image_pixels,
        max_images=recipe.limits.images,
        max_text_chars=recipe.limits.text_chars,
        replace_invalid_utf8=source.invalid_utf8 == "replace",
        decode=source.check == "decode",
    )


def _scan_task(
    run: Run, name: str, file: SourceFile, asked: Asked, rules: Rules, digest: bool, subset: Path | None, how: object
) -> ScanTask:
    stem = f"{name}-{fingerprints.key(name, file.uri, file.fingerprint, file.size, how)}"
    return ScanTask(
        source=name,
        format=run.recipe.sources[name].format,
        file=file,
        asked=asked,
        rules=rules,
        digest=digest,
        subset=subset,
        samples=run.folder("samples") / f"{stem}.parquet",
        media=run.folder("media") / f"{stem}.bin",
    )


def scan_funnel(run: Run, partitions: Sequence[Partition]) -> list[FunnelLine]:
    """Found and kept per source. Raises BuildError when a source, or all together, is worse than `max_bad`."""
    lines = []
    for name in run.recipe.sources:
        mine = [partition for partition in partitions if partition.source == name]
        kept = sum(pq.read_metadata(partition.samples).num_rows for partition in mine)
        reasons = Counter(ledger.read(partition.scan_drops for partition in mine)["reason"].to_list())
        lines.append(FunnelLine("scan", name, kept + reasons.total(), kept, reasons))
        check_bad(f"sources.{name}", kept, _bad(reasons), run.recipe.sources[name].max_bad, mine)
    total = sum((_bad(line.reasons) for line in lines), Counter[str]())
    check_bad("all sources", sum(line.left for line in lines), total, run.recipe.max_bad, partitions)
    return lines


def _bad(reasons: Mapping[str, int]) -> Counter[str]:
    """The reasons for which a sample is bad, and not merely unwanted."""
    return Counter({reason: times for reason, times in reasons.items() if reason != "not_in_subset"})


def check_bad(where: str, kept: int, reasons: Counter[str], max_bad: float, partitions: Sequence[Partition]) -> None:
    """Raises BuildError with the worst reasons first and an example of each."""
    found = kept + reasons.total()
    if not reasons or reasons.total() <= max_bad * found:
        return
    drops = ledger.read(partition.scan_drops for partition in partitions)
    lines = []
    for reason, times in reasons.most_common(WORST_SHOWN):
        example = drops.filter(drops["reason"] == reason).row(0, named=True)
        lines.append(f"  {times} × {reason}, for example {example['locator']}: {example['detail']}")
    raise BuildError(
        f"{where}: {reasons.total()} of {found} samples are unusable, max_bad allows {max_bad:.2%}:\n"
        + "\n".join(lines)
        + "\nMend the data, or raise max_bad to go on without them"
    )


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


def write_index(run: Run, partitions: Sequence[Partition]) -> None:
    """Which samples tables this build used, for `explain`: the folder may hold those of earlier ones too."""
    lines = [{"samples": p.samples.name, "source": p.source, "file": p.file.uri} for p in partitions]
    path = run.folder("samples") / SAMPLES_INDEX
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(lines))
    partial.rename(path)


def write_ledger(
    run: Run, partitions: Sequence[Partition], first: Sequence[NDArray[np.int16]], count_drops: Sequence[Path]
) -> None:
    folder = run.folder("ledger")
    ledger.write(folder, "scan", [ledger.read(partition.scan_drops for partition in partitions)])
    ledger.write(folder, "filter", [_filter_lines(run, p, f) for p, f in zip(partitions, first, strict=True)])
    ledger.write(folder, "count", [ledger.read(count_drops)])


def _filter_lines(run: Run, partition: Partition, first: NDArray[np.int16]) -> pl.DataFrame:
    rows = np.flatnonzero(first != NO_FILTER)
    ids = pq.read_table(partition.samples, columns=["sample_id"]).column("sample_id").take(rows).to_pylist()
    rules = run.recipe.filters
    drops = [Drop("filtered", f"{rules[i].name}: {rules[i].where}") for i in first[rows]]
    return ledger.of_samples(
        ledger.Dropped(
            partition.source,
            partition.file.uri,
            partition.samples,
            "filter",
            list(zip(ids, drops, strict=True)),
        )
    )
