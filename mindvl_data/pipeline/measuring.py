"""A look at the first samples of every source: what becomes of one, and from that what a build would take.

Sizes are estimates: the first records of the first file stand for all. They go where declared sizes go, into the
forecast.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from mindvl_data.errors import UserError
from mindvl_data.inspect.peek import LOOKED_AT, described, first_records
from mindvl_data.pipeline.first_media import Media, has_clips, media_of
from mindvl_data.pipeline.forecasting import forecast
from mindvl_data.pipeline.prepare import render_of
from mindvl_data.pipeline.scanning import asked_of, files_of, reader_of
from mindvl_data.recipe.forecast import Size
from mindvl_data.runtime.memory import available
from mindvl_data.sources import Failed, ImageBytes, Record, Sample, SourceError
from mindvl_data.sources.rounds import shaped
from mindvl_data.steps.filters import KNOWN, named_by
from mindvl_data.tables.schema import BOXES, Drop, Part
from mindvl_data.tokenise import Refused, counts, encode, stretches
from mindvl_data.tokenise.clips import with_clips
from mindvl_data.tokenise.grounding import BadBox, grounded
from mindvl_data.vision import BadImage, read_header

if TYPE_CHECKING:
    from mindvl_data.pipeline.run import Run
    from mindvl_data.recipe import Source
    from mindvl_data.sources.files import SourceFile

# Of a record beside its texts and images: fields and quotes of JSON, or the headers and padding of a tar's members.
RECORD_BYTES = 200
# A line of the samples table and what indexes it; a token in the store, its id and whether it is learnt.
LINE_BYTES, STORED_TOKEN_BYTES = 300, 5
# As docs and README measure: a process with its libraries, and what each sample takes in the first process.
PROCESS_BYTES, SAMPLE_BYTES = 600_000_000, 100
WORKER_BYTES = 350_000_000


@dataclass(frozen=True)
class Looked:
    """The first records of a source.

    unknown: columns that filters name and no record has. rendered: the text of the first sample as it is tokenised,
    in stretches of (text, whether it is learnt). tokens: those of that sample, image placeholders too. copied: bytes
    a sample of images that the build must keep a copy of.
    """

    samples: int
    records: int
    problems: Mapping[str, str]
    unknown: tuple[str, ...]
    described: Mapping[str, Any] | None
    rendered: Sequence[tuple[str, bool]]
    tokens: int
    size: Size | None
    copied: float


class Needs(NamedTuple):
    """Bytes that a build would take, about; free: what there is, None where that is not known. sets: its forecast."""

    disk: int
    free_disk: int
    memory: int
    free_memory: int | None
    sets: Sequence[Mapping[str, Any]]
    impossible: str


class _Weight(NamedTuple):
    """One sample: tokens without placeholders, those learnt, placeholders, images, their bytes, those copied, text."""

    text_tokens: int
    loss_tokens: int
    vision_tokens: int
    images: int
    image_bytes: int
    copied: int
    text_bytes: int


def look(run: Run, name: str) -> Looked:
    """The first records of the first file of a source. Raises SourceError where its reader cannot read it."""
    source, (file, *_) = run.recipe.sources[name], files_of(run, "sources", name)
    reader, asked = reader_of(run, "sources", name), asked_of(run, name)
    try:
        records = first_records(file, reader, asked)
    except UserError as error:
        raise SourceError(f"sources.{name}: {error}") from error
    found = [record for record in records if isinstance(record, Sample)]
    shown = [one for record in found for one in shaped(record, source.thinking, source.split == "turns")]
    rule, limits = run.recipe.image_rule(), run.recipe.limits
    media = [media_of(sample, rule, limits) for sample in shown]
    lost = [Failed(sample.key, drop) for sample, drop in zip(shown, media, strict=True) if isinstance(drop, Drop)]
    kept = [(sample, one) for sample, one in zip(shown, media, strict=True) if isinstance(one, Media)]
    samples = [sample for sample, _ in kept]
    parts = [_as_trained(run, source, sample, one) for sample, one in kept]
    weights = _weights(run, source, kept, parts)
    return Looked(
        samples=len(samples),
        records=len(records),
        problems=_problems([*records, *lost]),
        unknown=tuple(_unknown(run, name, samples)),
        described=described(samples[0], rule) if samples else None,
        rendered=_rendered(run, source, parts[0]) if parts else [],
        tokens=weights[0].text_tokens + weights[0].vision_tokens if weights else 0,
        size=_size(files_of(run, "sources", name), len(records), weights) if weights else None,
        copied=sum(weight.copied for weight in weights) / max(1, len(weights)),
    )


def needs(run: Run, looked: Mapping[str, Looked]) -> Needs:
    """What a build of sources like these would take on the disk of its folder and in memory."""
    recipe = run.recipe
    sizes = {name: one.size for name, one in looked.items() if one.size}
    sources = {name: source.model_copy(update={"size": sizes.get(name)}) for name, source in recipe.sources.items()}
    impossible, sets = "", list[Mapping[str, Any]]()
    try:
        sets = list(forecast(recipe.model_copy(update={"sources": sources, "forecast": None})))
    except UserError as error:
        impossible = str(error)
    samples = sum(size.samples for size in sizes.values())
    kept = sum(
        size.samples * (LINE_BYTES + STORED_TOKEN_BYTES * size.tokens_per_sample + looked[name].copied)
        for name, size in sizes.items()
    )
    disk = round(kept) + sum(made["disk"] for made in sets)
    workers_here = 0 if run.engine.elsewhere else run.engine.workers - 1
    memory = PROCESS_BYTES + SAMPLE_BYTES * samples + WORKER_BYTES * workers_here
    return Needs(disk, shutil.disk_usage(_there(run.out)).free, memory, available(), sets, impossible)


def _there(path: Path) -> Path:
    """The nearest folder of a path that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _problems(records: Sequence[Record]) -> dict[str, str]:
    """Why records are no samples: reason → how many, and an example."""
    failed = [record for record in records if isinstance(record, Failed)]
    reasons: dict[str, list[Failed]] = {}
    for record in failed:
        reasons.setdefault(record.drop.reason, []).append(record)
    return {
        reason: f"{len(them)}, for example {them[0].key}: {them[0].drop.detail}" for reason, them in reasons.items()
    }


def _unknown(run: Run, name: str, samples: Sequence[Sample]) -> list[str]:
    named = named_by(run.naming, name) - KNOWN - run.score_columns
    return sorted(column for column in named if not any(column in sample.data for sample in samples))


def _as_trained(run: Run, source: Source, sample: Sample, media: Media) -> Sequence[Part]:
    """The parts with their boxes rewritten and their clips' tokens; bad boxes are shown as they are."""
    parts = _boxes_rewritten(run, source, sample)
    return with_clips(parts, media.entries, render_of(source)) if has_clips(sample) else parts


def _boxes_rewritten(run: Run, source: Source, sample: Sample) -> Sequence[Part]:
    if source.boxes is None:
        return sample.parts
    try:
        headers = [read_header(image.data) for image in sample.images if isinstance(image, ImageBytes)]
        sizes = [(header.width, header.height) for header in headers]
        boxes = grounded(sample.parts, sizes, source.boxes, sample.data.get(BOXES))
    except (BadImage, BadBox):
        return sample.parts
    return boxes.at(run.recipe.image_rule()) if boxes else sample.parts


def _rendered(run: Run, source: Source, parts: Sequence[Part]) -> list[tuple[str, bool]]:
    try:
        return stretches(parts, render_of(source), run.template, source.loss)
    except Refused as error:
        return [(f"({error})", False)]


def _weights(
    run: Run, source: Source, samples: Sequence[tuple[Sample, Media]], parts: Sequence[Sequence[Part]]
) -> list[_Weight]:
    encoded = encode(parts, render_of(source), run.template, run.tokeniser, source.loss)
    lengths, learnt = np.diff(encoded.offsets), counts(encoded, run.tokeniser).loss_tokens
    return [
        _Weight(
            text_tokens=int(length) - sum(len(entries) for entries in media.entries),
            loss_tokens=int(loss),
            vision_tokens=media.vision_tokens,
            images=len(media.entries),
            image_bytes=media.size,
            copied=media.copied,
            text_bytes=_text_bytes(sample),
        )
        for (sample, media), length, loss in zip(samples, lengths, learnt, strict=True)
    ]


def _text_bytes(sample: Sample) -> int:
    return sum(len((part.text or "").encode("utf-8", "surrogatepass")) for part in sample.parts)


def _size(files: Sequence[SourceFile], records: int, weights: Sequence[_Weight]) -> Size:
    """The size of a source from its first samples."""
    total, n = sum(file.size for file in files), len(weights)
    every = [sum(column) / n for column in zip(*weights, strict=True)]
    text, learnt, vision, images, image_bytes, _, _ = every
    rows = _rows(files[0], records)
    each = files[0].size / rows if rows else _record_bytes(files[0], weights)
    return Size(
        samples=max(1, round(total / max(1.0, each) * n / records)),
        tokens_per_sample=max(1.0, text + vision),
        loss_tokens_per_sample=learnt,
        vision_tokens_per_sample=vision,
        images_per_sample=images,
        image_bytes_per_sample=image_bytes,
    )


def _rows(file: SourceFile, records: int) -> int | None:
    """How many records a file has, where that is known without reading it through."""
    if records < LOOKED_AT:
        return records
    if not file.path.endswith(".parquet"):
        return None
    with file.open() as opened:
        return int(pq.ParquetFile(opened).metadata.num_rows)


def _record_bytes(file: SourceFile, weights: Sequence[_Weight]) -> float:
    """About the bytes of a record in its file: images that it names by path lie beside it."""
    inside = file.path.endswith((".tar", ".tar.gz", ".tgz", ".mds", ".arrow", ".zst"))
    each = [weight.text_bytes + (weight.image_bytes if inside else weight.copied) for weight in weights]
    return sum(each) / len(each) + RECORD_BYTES * (1 + inside * 10)
