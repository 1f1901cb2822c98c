"""Counting: the kept samples of one partition become exact tokens, once, for every stage and length.

Only texts with boxes that are written in pixels of the resized picture, and samples with clips, of which a stage's rule
chooses the frames, depend on the stage: their partition has a store for each, and what is equal is tokenised once.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.media import BUILD_SCHEME, Access, MediaReader
from mindvl_data.runtime import seals
from mindvl_data.steps.count.clips import ROW, Entries, Most, clip_entries, encode_frames, fewer_frames
from mindvl_data.tables.schema import BOXES, LEDGER, Drop, is_blank
from mindvl_data.tables.store import Store, from_samples, starts_of
from mindvl_data.tables.store_writer import StoreWriter
from mindvl_data.tables.videos import VideoTable
from mindvl_data.tokenise import (
    ChatTemplate,
    Encoded,
    JinjaTemplate,
    OtherIdsError,
    PartColumns,
    encode,
    load_tokeniser,
    of_column,
    of_samples,
)
from mindvl_data.tokenise.frames import FrameEncoder
from mindvl_data.tokenise.grounding import grounded_lines
from mindvl_data.vision import Resolution

if TYPE_CHECKING:  # a process that counts has no use for the recipe's models, which take a third of a second to make
    from mindvl_data.recipe import Boxes

BATCH_SAMPLES = 4096
# Characters of a text that is shown to a person.
MOST_SHOWN = 200
# Where the texts are among the columns of a samples table's Parquet file.
TEXTS = "parts.list.element.text"
COLUMNS = ["sample_id", "key", "text_hash", "images", "parts"]


@dataclass(frozen=True)
class FramesTask:
    """Where clips are read, and the file that their frames go to, encoded anew. roots: see Access."""

    path: Path
    build_folder: Path
    roots: tuple[str, ...]
    max_pixels: int

    @property
    def uri(self) -> str:
        return f"{BUILD_SCHEME}media/{self.path.name}"


@dataclass(frozen=True)
class CountTask:
    """The partition's samples table, which of its lines are kept (packed bits), and how to render them.

    boxes, columns: what the source's boxes are, and the table beside that tells of `objects`; None for most
    sources. videos: the samples table beside which that of its clips lies; None without clips. stores: where the
    tokens go, one for each of `bounds`, which boxes and clips alone look at. fast: whether to
    encode with `fastokens`; where that gives other ids than `tokenizers`, `other_ids` alone is written.
    """

    source: str
    uri: str
    samples: Path
    kept: bytes
    render: str
    loss: str
    chat_template: ChatTemplate | JinjaTemplate
    tokenizer: str
    recipe_folder: Path
    boxes: Boxes | None
    columns: Path | None
    videos: Path | None
    bounds: tuple[Resolution, ...]
    stores: tuple[Path, ...]
    drops: Path
    frames: FramesTask | None = None
    fast: bool = False

    @property
    def other_ids(self) -> Path:
        return self.drops.with_name(self.drops.name.replace(".drops.parquet", ".other_ids.json"))

    @property
    def done(self) -> bool:
        frames = [self.frames.path] if self.frames else []
        return seals.is_whole(self.other_ids) or all(map(seals.is_whole, (self.drops, *frames, *self.stores)))


def count(task: CountTask) -> None:
    """Write `task.stores` and `task.drops`: the samples with a token to learn from, and those without."""
    try:
        _count(task)
    except OtherIdsError as error:
        with seals.sealed(task.other_ids) as partial:
            partial.write_text(json.dumps({"uri": task.uri, "text": str(error)[:MOST_SHOWN]}))


def _count(task: CountTask) -> None:
    clips = VideoTable(task.videos) if task.videos else None
    drops: list[dict[str, Any]] = []
    with ExitStack() as written:
        writers = {
            number: written.enter_context(StoreWriter(written.enter_context(seals.sealed(path))))
            for number, path in enumerate(task.stores)
            if not seals.is_whole(path)
        }
        encoder = written.enter_context(_encoder(task))
        for batch in _kept_batches(task):
            stores, lost = _count_batch(batch, task, clips, encoder)
            drops += lost
            for number, writer in writers.items():
                writer.add(stores[number])
    with seals.sealed(task.drops) as partial:
        pq.write_table(pa.Table.from_pylist(drops, LEDGER), partial)


def text_bytes(task: CountTask) -> int:
    """About how many bytes of text the task has to encode: what its texts, each once, take in the samples table."""
    metadata = pq.ParquetFile(task.samples).metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(place) for group in groups for place in range(group.num_columns)]
    texts = sum(column.total_uncompressed_size for column in columns if column.path_in_schema == TEXTS)
    kept = np.bitwise_count(np.frombuffer(task.kept, np.uint8)).sum()
    return int(texts * kept / max(1, metadata.num_rows))


def _kept_batches(task: CountTask) -> Iterator[pa.RecordBatch]:
    file = pq.ParquetFile(task.samples)
    kept = np.unpackbits(np.frombuffer(task.kept, np.uint8), count=file.metadata.num_rows).astype(bool)
    objects = pq.read_table(task.columns, columns=[BOXES]).column(BOXES) if task.boxes and task.columns else None
    start = 0
    numbers = np.arange(file.metadata.num_rows)
    # A row group at a time: the scan ends one where its texts are long.
    groups = range(file.metadata.num_row_groups)
    batches = (file.iter_batches(BATCH_SAMPLES, row_groups=[group], columns=COLUMNS) for group in groups)
    for batch in itertools.chain.from_iterable(batches):
        rows = kept[start : start + batch.num_rows]
        if objects is not None:
            beside = objects.slice(start, batch.num_rows).combine_chunks()
            batch = batch.append_column(BOXES, beside)
        if task.videos:
            batch = batch.append_column(ROW, pa.array(numbers[start : start + batch.num_rows]))
        start += batch.num_rows
        if rows.any():
            yield batch.filter(pa.array(rows))


@contextmanager
def _encoder(task: CountTask) -> Iterator[FrameEncoder | None]:
    """What encodes frames anew, where the recipe embeds them; its file appears whole."""
    if task.frames is None:
        yield None
        return
    access = Access(task.recipe_folder, task.frames.roots)
    with (
        seals.sealed(task.frames.path) as partial,
        partial.open("wb") as file,
        MediaReader(task.frames.build_folder, access) as reader,
    ):
        yield FrameEncoder(reader, file, task.frames.max_pixels)


def _count_batch(
    batch: pa.RecordBatch, task: CountTask, table: VideoTable | None, encoder: FrameEncoder | None
) -> tuple[list[Store], list[dict[str, Any]]]:
    """The batch's stores, one for each of the task's bounds, and its ledger lines."""
    tokeniser = load_tokeniser(task.tokenizer, task.recipe_folder)
    most: Most = {}
    while True:
        texts, rows, entries, lost = _texts(batch, task, table, most)
        encoded = encode(texts, task.render, task.chat_template, tokeniser, task.loss, task.fast)
        fewer = fewer_frames(batch, task.bounds, encoded, rows, entries) if entries else {}
        if not fewer:
            break
        most |= fewer
    if encoder and entries:
        encode_frames(batch, task.bounds, encoder, entries, lost)
    loss_tokens = _sums(encoded.loss, encoded.offsets)
    # An end of text (or of a turn) alone teaches to say nothing.
    ends = [tokeniser.pad_id, tokeniser.added.get(task.chat_template.end, -1)]
    learnt = _sums(encoded.loss & ~np.isin(encoded.ids, ends), encoded.offsets)
    worded = np.fromiter((text is not None and not is_blank(text) for text in texts.texts), bool, len(texts.texts))
    sound: NDArray[np.bool_] = np.all(((learnt > 0) & (_sums(worded, texts.starts) > 0))[rows], axis=0)
    lost = {int(row): Drop("empty", "no text of it is trained on") for row in np.flatnonzero(~sound)} | lost
    lost |= {int(line): drop for row, drop in encoded.refused.items() for line in np.flatnonzero((rows == row).any(0))}
    sound[list(lost)] = False
    stores, good = [], batch.filter(pa.array(sound))
    for number, of in enumerate(rows[:, sound]):
        kept = encoded if len(of) == len(encoded.offsets) - 1 else _selected(encoded, of)
        media = [*itertools.compress(entries[number], sound)] if entries else None
        uri = task.frames.uri if task.frames else ""
        store = from_samples(good, kept.ids, kept.loss, kept.offsets, loss_tokens[of], media, uri)
        stores.append(store if kept.weights is None else replace(store, weights=kept.weights))
    lines = batch.select(["sample_id", "key"]).filter(pa.array(~sound)).to_pylist()
    return stores, [_drop(line, lost[row], task) for line, row in zip(lines, sorted(lost), strict=True)]


def _texts(
    batch: pa.RecordBatch, task: CountTask, table: VideoTable | None, most: Most
) -> tuple[PartColumns, NDArray[np.int64], Entries | None, dict[int, Drop]]:
    """Distinct samples to tokenise, which of them each line is at each of the bounds [bounds, lines], what their
    placeholders stand for, and bad ones."""
    columns = of_column(batch.column("parts"))
    rows = np.tile(np.arange(len(columns)), (len(task.stores), 1))
    if task.boxes is None and task.videos is None:
        return columns, rows, None, {}
    texts = [columns.sample(number) for number in range(len(columns))]
    lost: dict[int, Drop] = {}
    for line, found in enumerate(grounded_lines(batch, tuple(texts), task.boxes) if task.boxes else ()):
        if isinstance(found, Drop):
            lost[line] = found
        elif found:
            texts[line] = found.at(task.bounds[0])
            for number, bounds in enumerate(task.bounds[1:], 1):
                rows[number, line] = len(texts)
                texts.append(found.at(bounds))
    entries = clip_entries(batch, table, task.bounds, task.render, texts, rows, lost, most) if table else None
    return of_samples(texts), rows, entries, lost


def _drop(line: dict[str, Any], drop: Drop, task: CountTask) -> dict[str, Any]:
    locator = f"{task.uri}#{line['key']}"
    return {
        "sample_id": line["sample_id"],
        "source": task.source,
        "locator": locator,
        "step": "count",
        "reason": drop.reason,
        "detail": drop.detail,
    }


def _sums(values: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.int32]:
    total = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return np.diff(total[offsets]).astype(np.int32)


def _selected(encoded: Encoded, rows: NDArray[np.int64]) -> Encoded:
    """These samples, in this order."""
    lengths = np.diff(encoded.offsets)[rows]
    offsets = starts_of(lengths)
    tokens = np.repeat(encoded.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
    weights = None if encoded.weights is None else encoded.weights[tokens]
    return Encoded(encoded.ids[tokens], encoded.loss[tokens], offsets, weights=weights)
