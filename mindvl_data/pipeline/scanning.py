"""The scan of every source, file by file, with what it found and lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow.parquet as pq

from mindvl_data.errors import BuildError
from mindvl_data.pipeline.funnel import FunnelLine
from mindvl_data.pipeline.kinds import Columns, kinds_found, one_kind
from mindvl_data.runtime import fingerprints, plugins, reached, seals
from mindvl_data.sources import GROUP, Asked, SourceError, pieces
from mindvl_data.sources.files import SourceFile, source_files
from mindvl_data.steps.filters import KNOWN, check_columns, named_by
from mindvl_data.steps.scan import Rules, ScanTask, SplitTask, image_files_changed, parts, scan, split, unused_members
from mindvl_data.tables import ledger
from mindvl_data.tables.schema import BOXES

if TYPE_CHECKING:
    from mindvl_data.pipeline.run import Run
    from mindvl_data.recipe import Recipe, Source

WORST_SHOWN = 5
FINGERPRINTS = {"sources": "samples/fingerprints", "evaluations": "samples/evaluation-fingerprints"}


@dataclass(frozen=True)
class Partition:
    """One file of one source, as it goes through the steps.

    columns: the data's own columns that filters name. version: what the samples table holds, and the image files
    that the records name by path. task: the scan that it is of. videos: the scan's samples table, where it has clips.
    kinds: the types that `columns` are read as, see kinds.one_kind.
    """

    source: str
    file: SourceFile
    samples: Path
    scan_drops: Path
    columns: Path | None
    version: str
    task: ScanTask
    videos: Path | None = None
    kinds: Mapping[str, pl.DataType] = field(default_factory=dict)


def scan_sources(run: Run) -> list[Partition]:
    """Every file of every source as a partition, scanned now or before."""
    partitions = _scanned(run, "sources")
    found = kinds_found([Columns(one.source, one.file.uri, one.columns) for one in partitions if one.columns])
    named = {name for (_, name), of_kind in found.items() if of_kind.keys() - {pl.Null()}}
    check_columns(run.naming, named | run.score_columns)
    kinds = one_kind(run, found)
    return [replace(partition, kinds=kinds.get(partition.source, {})) for partition in partitions]


def scan_evaluations(run: Run) -> list[Partition]:
    """Every file of every evaluation set, likewise. Raises BuildError where one is worse than its `max_bad`."""
    partitions = _scanned(run, "evaluations") if run.recipe.evaluations else []
    for name in run.recipe.evaluations:
        mine = [partition for partition in partitions if partition.source == name]
        reasons = Counter(ledger.read(partition.scan_drops for partition in mine)["reason"].to_list())
        kept = sum(pq.read_metadata(partition.samples).num_rows for partition in mine)
        check_bad(run, f"evaluations.{name}", kept, _bad(reasons), [p.scan_drops for p in mine])
    return partitions


def _scanned(run: Run, section: str) -> list[Partition]:
    tasks = [task for name in getattr(run.recipe, section) for task in _scan_tasks(run, section, name)]
    run.folder("samples")
    run.fingerprints(FINGERPRINTS[section]).save()
    due = [task for task in tasks if run.rehash or not seals.is_whole(task.samples) or image_files_changed(task)]
    # The largest first, so that no process is left alone with one at the end.
    due.sort(key=lambda task: -_bytes(task))
    run.used.update(path for task in tasks for path in (task.samples, task.media))
    run.step("scan", scan, due, [_bytes(task) for task in due])
    return [_partition(task) for task in tasks]


def _bytes(task: ScanTask) -> int:
    return task.file.piece.size if task.file.piece else task.file.size


def _cut(run: Run, named: tuple[str, str], reader: Any, files: Sequence[SourceFile], code: str) -> list[SourceFile]:
    """The files, those that are large in pieces, which are kept as long as a file does not change."""
    (name, kind), folder = named, run.folder("samples")
    large = [file for file in files if file.size > pieces.PIECE_BYTES] if hasattr(reader, "pieces") else []
    tasks = {
        file.place: SplitTask(kind, file, folder / f"{name}-{fingerprints.key(file.uri, file.identity, code)}.json")
        for file in large
    }
    due = [task for task in tasks.values() if not seals.is_whole(task.pieces)]
    run.step("split", split, due, [task.file.size for task in due])
    return [part for file in files for part in (parts(tasks[file.place]) if file.place in tasks else [file])]


def _partition(task: ScanTask) -> Partition:
    for path in (task.samples, task.drops):
        seals.checked(path)
    images = fingerprints.of_file(seals.checked(task.image_files)) if task.image_files.exists() else ""
    videos = task.samples if _has_clips(task) else None
    clips = [seals.digest(task.videos)] if videos else []
    version = fingerprints.key(seals.digest(task.samples), images, *clips)
    columns = task.columns if task.asked.keep else None
    return Partition(task.source, task.file, task.samples, task.drops, columns, version, task, videos)


def _has_clips(task: ScanTask) -> bool:
    """Whether the file has clips; what is said of them is checked."""
    return task.videos.exists() and bool(seals.checked(task.videos))


def check_unchanged(partitions: Iterable[Partition]) -> None:
    """Raises SourceError when a file is no more what was scanned: what was made of it may be of two minds."""
    for partition in partitions:
        if partition.file.changed() or image_files_changed(partition.task):
            raise SourceError(
                f"sources.{partition.source}: {partition.file.uri} (or an image that it names) changed during the "
                "build; nothing was published of it: run the same command again"
            )


def files_of(run: Run, section: str, name: str) -> list[SourceFile]:
    """The files of a source or evaluation set, listed once a build. Raises SourceError where there are none."""
    where = f"{section}.{name}"
    if where not in run.files:
        run.files[where] = _listed(run, section, name)
    return run.files[where]


def reader_of(run: Run, section: str, name: str) -> Any:
    """The reader of its format. Raises SourceError where there is none."""
    try:
        return plugins.load(GROUP, getattr(run.recipe, section)[name].format)
    except plugins.PluginError as error:
        raise SourceError(f"{section}.{name}.format: {error}") from error


def subset_of(run: Run, section: str, name: str) -> Path | None:
    """The file of the uids that alone count, if any. Raises SourceError where it is not there."""
    listed = getattr(run.recipe, section)[name].uids
    if listed and not (run.loaded.folder / listed).is_file():
        raise SourceError(f"{section}.{name}.uids: {listed}: no such file (relative to the recipe's folder)")
    return run.loaded.folder / listed if listed else None


def _listed(run: Run, section: str, name: str) -> list[SourceFile]:
    source = getattr(run.recipe, section)[name]
    raw = run.loaded.raw[section][name]
    shown = (raw["path"],) if isinstance(raw["path"], str) else tuple(raw["path"])
    images = (source.images, raw["images"]) if source.images else None
    try:
        if source.load:
            listing = reader_of(run, section, name).files
            return list(listing(source.path, shown, source.load.model_dump(), run.loaded.folder))
        return source_files(source.path, shown, images, run.loaded.folder, run.fingerprints(FINGERPRINTS[section]))
    except (SourceError, plugins.PluginError) as error:
        raise SourceError(f"{section}.{name}.path: {error}") from error


def _scan_tasks(run: Run, section: str, name: str) -> list[ScanTask]:
    source = getattr(run.recipe, section)[name]
    reader, files = reader_of(run, section, name), files_of(run, section, name)
    asked = asked_of(run, name) if section == "sources" else Asked(source.columns)
    rules = _rules(run.recipe, source)
    subset = subset_of(run, section, name)
    code = reached.code(scan.__module__, reader.__module__)
    how = (source.format, run.loaded.raw[section][name].get("images"), asdict(asked), asdict(rules), run.digest, code)
    wanted = subset and fingerprints.of_file(subset)
    cut = _cut(run, (name, source.format), reader, files, code)
    return [_scan_task(run, (name, source.format), file, asked, rules, subset, (how, wanted)) for file in cut]


def asked_of(run: Run, name: str) -> Asked:
    """Fields of the data itself: what rules name and neither the samples table nor a score has; and its boxes."""
    source = run.recipe.sources[name]
    data = sorted(named_by(run.naming, name) - KNOWN - run.score_columns)
    beside = (BOXES,) if source.boxes else ()
    return Asked(source.columns, (*data, *beside), bool(source.boxes))


def _rules(recipe: Recipe, source: Source) -> Rules:
    return Rules(
        max_image_pixels=recipe.limits.image_pixels,
        max_images=recipe.limits.images,
        max_text_chars=recipe.limits.text_chars,
        max_video_frames=recipe.limits.video_frames,
        replace_invalid_utf8=source.invalid_utf8 == "replace",
        decode=source.check == "decode",
        thinking=source.thinking,
        split=source.split == "turns",
    )


def _scan_task(
    run: Run,
    named: tuple[str, str],
    file: SourceFile,
    asked: Asked,
    rules: Rules,
    subset: Path | None,
    how: object,
) -> ScanTask:
    """named: the source and its format."""
    name, kind = named
    part: tuple[object, ...] = () if file.piece is None else (file.piece,)
    part += (file.excluded,) if file.excluded else ()
    stem = f"{name}-{fingerprints.key(name, file.uri, file.identity, file.size, how, *part)}"
    return ScanTask(
        source=name,
        format=kind,
        file=file,
        asked=asked,
        rules=rules,
        digest=run.digest,
        subset=subset,
        samples=run.folder("samples") / f"{stem}.parquet",
        media=run.folder("media") / f"{stem}.bin",
    )


def scan_funnel(run: Run, partitions: Sequence[Partition]) -> list[FunnelLine]:
    """Found and kept per source. Raises BuildError when a source is worse than its `max_bad`."""
    lines = []
    for name in run.recipe.sources:
        mine = [partition for partition in partitions if partition.source == name]
        kept = sum(pq.read_metadata(partition.samples).num_rows for partition in mine)
        drops = [partition.scan_drops for partition in mine]
        reasons = Counter(ledger.read(drops)["reason"].to_list())
        unused = sum((unused_members(partition.samples) for partition in mine), Counter[str]())
        lines.append(FunnelLine("scan", name, kept + reasons.total(), kept, reasons, unused))
        check_bad(run, f"sources.{name}", kept, _bad(reasons), drops)
    return lines


# Reasons for which a sample is not bad, but merely unwanted.
UNWANTED = ("not_in_subset", "excluded")


def _bad(reasons: Mapping[str, int]) -> Counter[str]:
    """The reasons for which a sample is bad, and not merely unwanted."""
    return Counter({reason: times for reason, times in reasons.items() if reason not in UNWANTED})


def check_bad(run: Run, where: str, kept: int, reasons: Counter[str], drops: Iterable[Path]) -> None:
    """Raises BuildError with the worst reasons first and an example of each. where: the source, as a YAML path.

    A source's own `max_bad` holds, or where it has none the recipe's.
    """
    section, name = where.split(".", 1)
    own = getattr(run.recipe, section)[name].max_bad
    max_bad, whose = (run.recipe.max_bad, "max_bad") if own is None else (own, f"{where}.max_bad")
    found = kept + reasons.total()
    if not reasons or reasons.total() <= max_bad * found:
        return
    ledgered = ledger.read(drops)
    lines = []
    for reason, times in reasons.most_common(WORST_SHOWN):
        example = ledgered.filter(ledgered["reason"] == reason).row(0, named=True)
        lines.append(f"  {times} × {reason}, for example {example['locator']}: {example['detail']}")
    raise BuildError(
        f"{where}: {reasons.total()} of {found} samples are unusable, {whose} allows {max_bad:.2%}:\n"
        + "\n".join(lines)
        + f"\nMend the data, or raise {where}.max_bad to go on without them"
    )
