"""How fast shards are written beside a plain copy of the same bytes, on files that this script writes.

    python -m tests.benchmarks.write [--mb 2000] [--image-kb 60] [--workers N] [--rounds 3] [--folder DIR]

Every way ends with fsync and starts with its sources in the page cache. The ways take turns, a first round is not
counted, and figures are medians of the others. `copy` is `cp` and fsync of the finished shards, one after another; with
one and two SHA-256 of each byte it says what hashing alone leaves of that, in as many processes as we have (we hash
every image, and every shard, so each byte twice). `embedded` reads images where they lie, `dealt` sorts them by shard
first, as is done where reading would take a request an image. `naive` opens the file, seeks and reads for each image,
and writes the same shards. `referenced` and `tokens alone` write the same packs without bytes. The last two columns
compare: a copy's seconds over those of the way, and those of `referenced` over those of `tokens alone`, by the clock
and in CPU time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mindvl_data.engines.local import LocalEngine
from mindvl_data.runtime import seals
from mindvl_data.shards.sink import SYNCED_BYTES
from mindvl_data.steps.write import Segments, WriteTask, deal, plan_deals, shard_borders, write
from mindvl_data.tables.store import IMAGE, Store, starts_of
from mindvl_data.tables.store_writer import StoreWriter
from mindvl_data.vision import Resolution

FILES = 8
SEQ_LEN = 4096
TEXT = 60
SIDE = 448
PLACEHOLDERS = (SIDE // 28) ** 2
PER_PACK = SEQ_LEN // (TEXT + PLACEHOLDERS - 1)
IMAGE_PAD = 5


def source(folder: Path, number: int, image_bytes: int, count: int) -> Store:
    """A file of `count` images of about so many bytes, each the one image of a sample of TEXT tokens."""
    rng = np.random.default_rng(number)
    sizes = rng.integers(image_bytes // 2, image_bytes * 3 // 2, count)
    offsets = starts_of(sizes)
    block = rng.bytes(1 << 20)
    with (folder / f"source-{number}.bin").open("wb") as file:
        for start in range(0, int(offsets[-1]), len(block)):
            file.write(block[: int(offsets[-1]) - start])
    images = np.zeros(count, IMAGE)
    images["offset"], images["size"], images["width"], images["height"] = offsets[:-1], sizes, SIDE, SIDE
    ids = np.full((count, TEXT), 9, np.int32)
    ids[:, 1] = IMAGE_PAD
    return Store(
        sample_ids=rng.integers(0, 256, (count, 16), np.uint8),
        ids=ids.ravel(),
        loss=np.ones(count * TEXT, bool),
        starts=starts_of(np.full(count, TEXT)),
        loss_tokens=np.full(count, TEXT, np.int32),
        images=images,
        image_starts=np.arange(count + 1),
        text_hash=np.zeros((count, 32), np.uint8),
        uris=[f"source-{number}.bin"],
    )


def tasks(folder: Path, out: Path, stores: list[Store], media: str, images: bool) -> tuple[list[WriteTask], Segments]:
    """The shards of all samples in a random order, each once."""
    count = sum(len(store) for store in stores) // PER_PACK * PER_PACK
    order = np.random.default_rng(0).permutation(sum(len(store) for store in stores))[:count]
    partition = np.repeat(np.arange(FILES), [len(store) for store in stores])[order].astype(np.int32)
    row = np.concatenate([np.arange(len(store)) for store in stores])[order].astype(np.int32)
    sizes = np.concatenate([store.images["size"] for store in stores])[order]
    segments = Segments(
        partition,
        row,
        np.zeros(count, np.int16),
        np.zeros(count, np.int16),
        np.full(count, TEXT),
        np.full(count, int(images)),
    )
    of_pack = sizes.reshape(-1, PER_PACK).sum(axis=1) * (media == "embed")
    out.mkdir()
    made = [
        WriteTask(
            path=out / f"shard-{number:05d}.arrow",
            note=out / f"{number:05d}.json",
            seq_len=SEQ_LEN,
            first_pack=first,
            segments=segments[first * PER_PACK : end * PER_PACK],
            offsets=np.arange(0, (end - first + 1) * PER_PACK, PER_PACK),
            stores={i: folder / f"store-{i}" for i in range(FILES)},
            sources=["a"],
            resolution=Resolution(),
            media=media,
            pads=(IMAGE_PAD,) if images else (),
            pad=0,
            build_folder=out,
            recipe_folder=folder,
            roots=["source-"],
        )
        for number, (first, end) in enumerate(shard_borders(of_pack, SEQ_LEN, 256 << 20))
    ]
    return made, segments


def naive(task: WriteTask) -> None:
    """The image bytes of a shard with an open, a seek and a read for each, hashed like ours, written with fsync."""
    digest = hashlib.sha256()
    tables = {i: np.load(path / "images.npy") for i, path in task.stores.items()}
    with task.path.open("wb") as out:
        for partition, row in task.segments.places():
            image = tables[partition][row]
            with (task.recipe_folder / f"source-{partition}.bin").open("rb") as file:
                file.seek(int(image["offset"]))
                data = file.read(int(image["size"]))
            hashlib.sha256(data).digest()
            digest.update(data)
            out.write(data)
        out.flush()
        os.fsync(out.fileno())


def copied(path: Path) -> None:
    with path.open("rb") as file, path.with_suffix(".copy").open("wb") as out:
        shutil.copyfileobj(file, out, 1 << 20)
        out.flush()
        os.fsync(out.fileno())


def copied_and_hashed(path: Path, times: int) -> None:
    """The same with so many SHA-256 of every byte, fsync on its way as ours: what no hashed copy can be faster than."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file, path.with_suffix(".copy").open("wb", buffering=0) as out:
        with ThreadPoolExecutor(1) as syncing:
            buffer, since = memoryview(bytearray(1 << 20)), 0
            while size := file.readinto(buffer):
                for _ in range(times):
                    digest.update(buffer[:size])
                out.write(buffer[:size])
                since += size
                if since >= SYNCED_BYTES:
                    since = 0
                    syncing.submit(os.fsync, out.fileno())
        os.fsync(out.fileno())


def measured(work: tuple[Callable[[Any], object], Any]) -> float:
    """CPU seconds."""
    function, task = work
    start = time.process_time()
    function(task)
    return time.process_time() - start


Steps = Sequence[tuple[Callable[[Any], object], Sequence[Any]]]
# Wall and CPU seconds.
Row = tuple[float, float]
COPY, EMBEDDED, REFERENCED, ALONE = "copy", "embedded", "referenced", "tokens alone"


def report(rows: dict[str, list[Row]], total: int, packed: int) -> None:
    """The medians of the rounds; `packed`: bytes of tokens of the sets without embedded images."""
    middle = {name: np.median(found, axis=0) for name, found in rows.items()}
    print(f"{'':<30}{'wall s':>8}{'CPU s':>8}{'MB/s':>8}{'beside':>9}{'in CPU':>8}")
    for name, (wall, cpu) in middle.items():
        embeds = name not in (REFERENCED, ALONE)
        size, other = (total, middle[COPY]) if embeds else (packed, middle[ALONE])
        # Speed of a copy, and how many times the same tokens without images.
        shares = (other[0] / wall, other[1] / cpu) if embeds else (wall / other[0], cpu / other[1])
        print(f"{name:<30}{wall:>8.2f}{cpu:>8.2f}{size / wall / 1e6:>8,.0f}", end="")
        print(f"{shares[0]:>9.0%}{shares[1]:>8.0%}" if embeds else f"{shares[0]:>8.2f}x{shares[1]:>7.2f}x", flush=True)


def run(engine: LocalEngine, steps: Steps) -> Row:
    """Run the steps one after the other, each over its tasks."""
    os.sync()
    start, cpu = time.perf_counter(), 0.0
    for function, work in steps:
        cpu += sum(engine.run(measured, [(function, task) for task in work]))
    return time.perf_counter() - start, cpu


def clean(made: Sequence[WriteTask]) -> None:
    for task in made:
        for path in (task.path, task.note, task.path.with_suffix(".copy")):
            path.unlink(missing_ok=True)


def ways(folder: Path, stores: list[Store], engine: LocalEngine, alone: LocalEngine) -> Iterator[tuple[str, Row]]:
    """One round: every way once."""
    made, segments = tasks(folder, folder / "embedded", stores, "embed", True)
    yield EMBEDDED, run(engine, [(write, made)])
    paths = [task.path for task in made]
    yield COPY, run(alone, [(copied, paths)])
    for times in (1, 2):
        limit = partial(copied_and_hashed, times=times)
        yield f"copy, {times} SHA-256 of each byte", run(engine, [(limit, paths)])
    clean(made)
    deals, moved = plan_deals(made, segments, folder / "dealt", scattered=True)
    yield "embedded, dealt before", run(engine, [(deal, deals), (write, moved)])
    clean(made)
    yield "naive, a seek an image", run(engine, [(naive, made)])
    shutil.rmtree(folder / "embedded")
    shutil.rmtree(folder / "dealt")
    for name, images in ((REFERENCED, True), (ALONE, False)):
        made, _ = tasks(folder, folder / "without", stores, "reference", images)
        yield name, run(engine, [(write, made)])
        shutil.rmtree(folder / "without")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mb", type=int, default=2000)
    parser.add_argument("--image-kb", type=int, default=60)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as temporary,
        LocalEngine(options.workers) as engine,
        LocalEngine(1) as alone,
    ):
        folder = Path(temporary)
        each = options.mb * 1000 // options.image_kb // FILES
        stores = [source(folder, number, options.image_kb * 1000, each) for number in range(FILES)]
        for number, store in enumerate(stores):
            with seals.sealed(folder / f"store-{number}") as unsealed, StoreWriter(unsealed) as writer:
                writer.add(store)
        made, segments = tasks(folder, folder / "embedded", stores, "embed", True)
        # Starts the processes and reads the sources.
        engine.run(write, made)
        total = sum(task.path.stat().st_size for task in made)
        shutil.rmtree(folder / "embedded")
        print(f"{options.workers} processes, {len(segments):,} images in {len(made)} shards", flush=True)
        rows: dict[str, list[Row]] = {}
        # The first round is slower whatever comes first in it: the file system finds its room.
        for number in range(options.rounds + 1):
            for name, row in ways(folder, stores, engine, alone):
                if number:
                    rows.setdefault(name, []).append(row)
    report(rows, total, len(segments) // PER_PACK * SEQ_LEN * 4)


if __name__ == "__main__":
    main()
