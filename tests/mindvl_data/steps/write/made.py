"""A small set of several shards, from two files of image bytes, as tasks."""

from pathlib import Path

import numpy as np

from mindvl_data.runtime import seals
from mindvl_data.steps.write import Segments, WriteTask, shard_borders
from mindvl_data.tables.store import IMAGE, Store, open_store, starts_of
from mindvl_data.tables.store_writer import StoreWriter
from mindvl_data.vision import Resolution

SEQ_LEN = 64
IMAGE_PAD = 5
SAMPLES = 60


def _store(folder: Path, number: int) -> Path:
    rng = np.random.default_rng(number)
    counts = rng.integers(0, 3, SAMPLES)
    sizes = rng.integers(1, 4000, counts.sum())
    starts = starts_of(sizes + 7)
    (folder / f"source-{number}.bin").write_bytes(rng.bytes(int(starts[-1])))
    images = np.zeros(len(sizes), IMAGE)
    images["offset"], images["size"], images["width"], images["height"] = starts[:-1], sizes, 56, 56
    ids = [[9] * 4 + [IMAGE_PAD] * count + [9] for count in counts]
    lengths = np.array([len(row) for row in ids])
    store = Store(
        sample_ids=rng.integers(0, 256, (SAMPLES, 16), np.uint8),
        ids=np.concatenate(ids).astype(np.int32),
        loss=np.concatenate(ids) != IMAGE_PAD,
        starts=starts_of(lengths),
        loss_tokens=np.full(SAMPLES, 5, np.int32),
        images=images,
        image_starts=starts_of(counts),
        text_hash=np.zeros((SAMPLES, 32), np.uint8),
        uris=[f"source-{number}.bin"],
    )
    path = folder / f"store-{number}"
    if not path.exists():
        with seals.sealed(path) as partial, StoreWriter(partial) as writer:
            writer.add(store)
    return path


def ways_of_one_set(folder: Path, name: str, media: str = "embed") -> tuple[list[WriteTask], Segments]:
    """Three samples a pack, some of them twice, drawn from both files in a random order; written to `folder/name`."""
    paths = {number: _store(folder, number) for number in (0, 1)}
    stores = {number: open_store(path) for number, path in paths.items()}
    rng = np.random.default_rng(5)
    partition = rng.integers(0, 2, 150).astype(np.int32)
    row = rng.integers(0, SAMPLES, 150).astype(np.int32)
    num_ids = np.array([np.diff(stores[p].starts)[r] for p, r in zip(partition, row, strict=True)])
    num_images = np.array([np.diff(stores[p].image_starts)[r] for p, r in zip(partition, row, strict=True)])
    segments = Segments(partition, row, np.zeros(150, np.int16), np.zeros(150, np.int16), num_ids, num_images)
    image_bytes = [
        sum(int(stores[p].images["size"][i]) for i in range(*stores[p].image_starts[r : r + 2]))
        for p, r in zip(partition, row, strict=True)
    ]
    of_pack = np.array(image_bytes).reshape(-1, 3).sum(axis=1) * (media == "embed")
    (folder / name).mkdir()
    tasks = [
        WriteTask(
            path=folder / name / f"shard-{number:05d}.arrow",
            note=folder / name / f"{number:05d}.json",
            seq_len=SEQ_LEN,
            first_pack=first,
            segments=segments[3 * first : 3 * end],
            offsets=np.arange(0, 3 * (end - first) + 1, 3),
            stores=paths,
            sources=["a"],
            resolution=Resolution(),
            media=media,
            pads=[IMAGE_PAD],
            pad=0,
            build_folder=folder,
            recipe_folder=folder,
            roots=["source-"],
        )
        for number, (first, end) in enumerate(shard_borders(of_pack, SEQ_LEN, 40_000))
    ]
    return tasks, segments
