"""Estimating: text tokens of every kept sample from a tokenised few, so that a plan need not read all texts.

Vision tokens are exact (they come from headers). Text tokens are a least-squares fit of characters and turns
over the tokenised samples; the error is that fit's own, at 95 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.recipe import Boxes
from mindvl_data.tables.schema import BOXES, Part
from mindvl_data.tables.store import Store, from_samples, starts_of
from mindvl_data.tables.videos import VideoTable
from mindvl_data.tokenise import ChatTemplate, JinjaTemplate, Tokeniser, counts, encode
from mindvl_data.tokenise.clips import Entry, medium_entries
from mindvl_data.tokenise.grounding import Grounded, grounded_lines
from mindvl_data.vision import BadImage, Resolution

# Of a pair of frames that is an image of its own: its time as text, vision-start and vision-end.
SPAN_TOKENS = 9
COLUMNS = ["sample_id", "text_hash", "images", "text_chars", "num_turns", "num_images"]


@dataclass(frozen=True)
class Estimate:
    """How one source's tokens were estimated: samples tokenised, of how many, and the error of its text tokens."""

    tokenised: int
    samples: int
    error: float


@dataclass(frozen=True)
class Partition:
    """One partition of a source: its samples table, the table beside it if any, and which lines are kept.

    videos: the samples table beside which that of its clips lies; None without clips.
    """

    samples: Path
    columns: Path | None
    kept: NDArray[np.bool_]
    videos: Path | None = None


@dataclass(frozen=True)
class Rendering:
    """How a source's samples become tokens; boxes are written as at `bounds`, which stand for those of all stages."""

    render: str
    loss: str
    template: ChatTemplate | JinjaTemplate
    tokeniser: Tokeniser
    boxes: Boxes | None
    bounds: Resolution


def estimate(partitions: Sequence[Partition], most: int, rendering: Rendering) -> tuple[list[Store], Estimate]:
    """Stores of one source's partitions with lengths but no ids.

    Args:
        most: How many samples are tokenised; all of them when there are no more, and then nothing is estimated.
    """
    tables = [_kept(pq.read_table(partition.samples, columns=COLUMNS), partition.kept) for partition in partitions]
    features = np.concatenate([_features(table) for table in tables])
    chosen = _chosen(tables, most)
    text, learnt = _tokenised(partitions, chosen, rendering)
    flat = np.concatenate(chosen)
    lengths, error = _fitted(features, flat, text)
    loss_tokens, _ = _fitted(features, flat, learnt)
    stores, start = [], 0
    for partition, table in zip(partitions, tables, strict=True):
        span = slice(start, start + len(table))
        start += len(table)
        media = _clips(partition, table, rendering.bounds) if partition.videos else None
        ids = lengths[span] + (table.column("num_images").to_numpy() if media is None else _media_tokens(media))
        batch = table.combine_chunks().to_batches()[0] if len(table) else pa.RecordBatch.from_pylist([], table.schema)
        none = np.zeros(0, np.int32)
        learnt_here = loss_tokens[span].astype(np.int32)
        stores.append(from_samples(batch, none, none.astype(bool), starts_of(ids), learnt_here, media))
    return stores, Estimate(int(flat.sum()), len(features), error)


def _clips(partition: Partition, table: pa.Table, bounds: Resolution) -> list[list[Entry]]:
    """What each placeholder of each line stands for; of a clip that the count will drop, one picture."""
    clips, found = VideoTable(partition.samples), []
    lines = zip(np.flatnonzero(partition.kept).tolist(), table.column("images").to_pylist(), strict=True)
    for number, images in lines:
        found.append([entry for i, image in enumerate(images) for entry in _entries(clips, number, i, image, bounds)])
    return found


def _entries(clips: VideoTable, sample: int, number: int, image: dict[str, Any], bounds: Resolution) -> list[Entry]:
    try:
        return medium_entries(number, clips.get(sample, number), (image["width"], image["height"]), bounds)
    except BadImage:
        return [Entry(number)]


def _media_tokens(media: Sequence[Sequence[Entry]]) -> NDArray[np.int64]:
    """Of each line the placeholders before they are expanded, and what stands around those beyond one a medium."""
    placeholders = np.array([len(line) for line in media], np.int64)
    images = np.array([len({entry.image for entry in line}) for line in media], np.int64)
    return placeholders + SPAN_TOKENS * (placeholders - images)


def _kept(table: pa.Table, kept: NDArray[np.bool_]) -> pa.Table:
    return table.filter(pa.array(kept))


def _features(table: pa.Table) -> NDArray[np.float64]:
    columns = [table.column(name).to_numpy().astype(np.float64) for name in ("text_chars", "num_turns", "num_images")]
    return np.stack([np.ones(len(table)), *columns], axis=1)


def _chosen(tables: Sequence[pa.Table], most: int) -> list[NDArray[np.bool_]]:
    """Which lines are tokenised: those with the smallest sample ids, which are hashes, over all tables."""
    words = [
        np.array([int.from_bytes(i[:8], "big") for i in t.column("sample_id").to_pylist()], np.uint64) for t in tables
    ]
    every = np.sort(np.concatenate(words))
    limit = every[min(most, len(every)) - 1] if len(every) else np.uint64(0)
    return [word <= limit for word in words]


def _tokenised(
    partitions: Sequence[Partition], chosen: Sequence[NDArray[np.bool_]], how: Rendering
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Text and loss tokens of the chosen samples, in the order of the tables."""
    samples = []
    for partition, rows in zip(partitions, chosen, strict=True):
        table = pq.read_table(partition.samples, columns=["parts", *(["images"] if how.boxes else [])])
        if how.boxes and partition.columns:
            table = table.append_column(BOXES, pq.read_table(partition.columns, columns=[BOXES]).column(BOXES))
        table = _kept(_kept(table, partition.kept), rows)
        texts = [[Part(**part) for part in parts] for parts in table.column("parts").to_pylist()]
        # What a bad box makes of its sample is the count's to say.
        samples += [
            found.at(how.bounds) if isinstance(found, Grounded) else parts
            for parts, found in zip(texts, grounded_lines(table, texts, how.boxes), strict=True)
        ]
    found = counts(encode(samples, how.render, how.template, how.tokeniser, how.loss), how.tokeniser)
    return found.text_tokens.astype(np.float64), found.loss_tokens.astype(np.float64)


def _fitted(
    features: NDArray[np.float64], chosen: NDArray[np.bool_], values: NDArray[np.float64]
) -> tuple[NDArray[np.int64], float]:
    """Every sample's value, known or fitted, int64 [n]; and the 95 % error of their sum, relative to it."""
    found = np.zeros(len(features))
    found[chosen] = values
    if chosen.all():
        return found.astype(np.int64), 0.0
    weights, *_ = np.linalg.lstsq(features[chosen], values, rcond=None)
    found[~chosen] = np.maximum(1, features[~chosen] @ weights)
    residual = values - features[chosen] @ weights
    spread = float(np.sqrt((residual**2).sum() / max(1, len(values) - features.shape[1])))
    unknown = int((~chosen).sum())
    error = 1.96 * spread * unknown * np.sqrt(1 / len(values) + 1 / unknown) / found.sum()
    return np.round(found).astype(np.int64), float(error)
