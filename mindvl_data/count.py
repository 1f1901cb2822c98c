"""Counting: the kept samples of one partition become exact tokens, once, for every stage and length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.schema import LEDGER, Drop, Part
from mindvl_data.store import IMAGE, Store, from_samples, starts_of, write_store
from mindvl_data.tokenise import TEMPLATES, Encoded, encode, load_tokeniser

BATCH_SAMPLES = 4096
COLUMNS = ["sample_id", "key", "text_hash", "images", "parts"]


@dataclass(frozen=True)
class CountTask:
    """The partition's samples table, which of its lines are kept (packed bits), and how to render them."""

    source: str
    uri: str
    samples: Path
    kept: bytes
    render: str
    loss: str
    chat_template: str
    tokenizer: str
    recipe_folder: Path
    store: Path
    drops: Path


def count(task: CountTask) -> None:
    """Write `task.store` and `task.drops`: the samples with a token to learn from, and those without."""
    batches = [_count_batch(batch, task) for batch in _kept_batches(task)]
    drops = [line for _, lost in batches for line in lost]
    pq.write_table(pa.Table.from_pylist(drops, LEDGER), task.drops)
    write_store(task.store, _joined([counted for counted, _ in batches]))


def _kept_batches(task: CountTask) -> Iterator[pa.RecordBatch]:
    file = pq.ParquetFile(task.samples)
    kept = np.unpackbits(np.frombuffer(task.kept, np.uint8), count=file.metadata.num_rows).astype(bool)
    start = 0
    for batch in file.iter_batches(BATCH_SAMPLES, columns=COLUMNS):
        rows = kept[start : start + batch.num_rows]
        start += batch.num_rows
        if rows.any():
            yield batch.filter(pa.array(rows))


def _count_batch(batch: pa.RecordBatch, task: CountTask) -> tuple[Store, list[dict[str, Any]]]:
    tokeniser = load_tokeniser(task.tokenizer, task.recipe_folder)
    samples = [[Part(**part) for part in parts] for parts in batch.column("parts").to_pylist()]
    encoded = encode(samples, task.render, TEMPLATES[task.chat_template], tokeniser, task.loss)
    loss_tokens = _sums(encoded.loss, encoded.offsets)
    sound = loss_tokens > 0
    kept = _selected(encoded, sound)
    store = from_samples(batch.filter(pa.array(sound)), kept.ids, kept.loss, kept.offsets, loss_tokens[sound])
    return store, [_drop(line, task) for line in batch.filter(pa.array(~sound)).to_pylist()]


def _drop(line: dict[str, Any], task: CountTask) -> dict[str, Any]:
    drop = Drop("empty", "no token of it is trained on")
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


def _selected(encoded: Encoded, rows: NDArray[np.bool_]) -> Encoded:
    lengths = np.diff(encoded.offsets)
    tokens = np.repeat(rows, lengths)
    return Encoded(encoded.ids[tokens], encoded.loss[tokens], starts_of(lengths[rows]))


def _joined(stores: list[Store]) -> Store:
    """The batches of a partition in one; their `uris` merged."""
    uris = sorted({uri for store in stores for uri in store.uris})
    place = {uri: number for number, uri in enumerate(uris)}
    images = []
    for store in stores:
        table = store.images.copy()
        table["uri"] = np.array([place[uri] for uri in store.uris], np.int32)[store.images["uri"]]
        images.append(table)

    def together(name: str, empty: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([empty, *(getattr(store, name) for store in stores)])

    def starts(name: str) -> NDArray[np.int64]:
        return starts_of(np.concatenate([[0], *(np.diff(getattr(store, name)) for store in stores)])[1:])

    return Store(
        sample_ids=together("sample_ids", np.zeros((0, 16), np.uint8)),
        ids=together("ids", np.zeros(0, np.int32)),
        loss=together("loss", np.zeros(0, bool)),
        starts=starts("starts"),
        loss_tokens=together("loss_tokens", np.zeros(0, np.int32)),
        images=np.concatenate([np.zeros(0, IMAGE), *images]),
        image_starts=starts("image_starts"),
        text_hash=together("text_hash", np.zeros((0, 32), np.uint8)),
        uris=uris,
    )
