"""One reader of tests/benchmarks/stream.py, run in the folder of packages that it needs: NAME FOLDER SECONDS.

Prints one line of JSON: images and tokens a second, and a second of CPU of all its processes.
"""

import json
import multiprocessing
import os
import sys
import time
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SEQ_LEN = 4096
BUFFER = 500
WORKERS = 2
WARM = 6
# Sequence, images in it, tokens that are not padding.
Item = tuple[Any, int, int]


def picture(data: bytes) -> np.ndarray:
    """Decoded and resized, uint8 [height, width, 3]."""
    from mindvl_data.vision import Resolution, smart_resize

    image = Image.open(BytesIO(data)).convert("RGB")
    return np.asarray(image.resize(smart_resize(*image.size, Resolution()), Image.Resampling.BICUBIC))


def length(data: bytes, ids: str) -> int:
    """Tokens of a sample, its picture by the size in the header: with vision-start, vision-end and end-of-text."""
    from mindvl_data.vision import Resolution, smart_resize

    width, height = smart_resize(*Image.open(BytesIO(data)).size, Resolution())
    return width * height // 28**2 + len(ids.split()) + 3


def knapsack(samples: list[Any], lengths: list[int]) -> list[list[Any]]:
    """Greedy: the largest that is left, then the largest that still fits, until none does."""
    left = sorted(range(len(samples)), key=lambda i: -lengths[i])
    bins = []
    while left:
        room, chosen = SEQ_LEN, []
        for i in left:
            if lengths[i] <= room:
                chosen.append(i)
                room -= lengths[i]
        left = [i for i in left if i not in set(chosen)]
        bins.append([samples[i] for i in chosen])
    return bins


def sequence(samples: list[tuple[bytes, str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """(ids [seq_len], all levels in a row, sizes [images, 2], tokens)."""
    pictures = [picture(data) for data, _ in samples]
    ids = [np.array(text.split(), np.int32) for _, text in samples]
    tokens = sum(len(text) + 3 + p.shape[0] * p.shape[1] // 28**2 for text, p in zip(ids, pictures, strict=True))
    row = np.zeros(SEQ_LEN, np.int32)
    joined = np.concatenate(ids)[:SEQ_LEN]
    row[: len(joined)] = joined
    sizes = np.array([p.shape[:2] for p in pictures])
    return row, np.concatenate([p.reshape(-1) for p in pictures]), sizes, tokens


def packed(samples: Iterator[tuple[bytes, str]]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
    buffer: list[tuple[bytes, str]] = []
    for sample in samples:
        buffer.append(sample)
        if len(buffer) == BUFFER:
            for chosen in knapsack(buffer, [length(*one) for one in buffer]):
                yield sequence(chosen)
            buffer = []


def first(items: list[Any]) -> Any:
    return items[0]


def counted(loader: Any) -> Iterator[Item]:
    for item in loader:
        yield item, len(item[2]), int(item[3])


def read_webdataset(folder: Path) -> Iterator[Item]:
    import webdataset
    from torch.utils.data import DataLoader

    shards = [str(path) for path in sorted((folder / "tars").glob("*.tar"))]
    data = webdataset.WebDataset(shards, shardshuffle=False, workersplitter=webdataset.split_by_worker).repeat()
    data = data.to_tuple("jpg", "ids").map(decoded).compose(packed)
    yield from counted(DataLoader(data, batch_size=None, num_workers=WORKERS))


def decoded(sample: tuple[bytes, bytes]) -> tuple[bytes, str]:
    return sample[0], sample[1].decode()


def without_torchvision() -> None:
    names = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional")
    for name in names:
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        sys.modules[name] = module
    sys.modules["torchvision.datasets"].VisionDataset = object  # type: ignore[attr-defined]
    sys.modules["torchvision.transforms.functional"].to_tensor = None  # type: ignore[attr-defined]


def write_mds(folder: Path) -> None:
    without_torchvision()
    import webdataset
    from streaming import MDSWriter

    shards = [str(path) for path in sorted((folder / "tars").glob("*.tar"))]
    with MDSWriter(out=str(folder / "mds"), columns={"jpg": "bytes", "ids": "str"}) as writer:
        for jpg, ids in webdataset.WebDataset(shards, shardshuffle=False).to_tuple("jpg", "ids"):
            writer.write({"jpg": jpg, "ids": ids.decode()})


def read_mds(folder: Path) -> Iterator[Item]:
    without_torchvision()
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader, IterableDataset

    class Packed(IterableDataset):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self.samples = StreamingDataset(local=str(folder / "mds"), shuffle=False, batch_size=1)

        def __iter__(self) -> Iterator[Any]:
            def endless() -> Iterator[tuple[bytes, str]]:
                while True:
                    yield from ((sample["jpg"], sample["ids"]) for sample in self.samples)

            yield from packed(endless())

    yield from counted(DataLoader(Packed(), batch_size=None, num_workers=WORKERS))


def read_energon(folder: Path) -> Iterator[Item]:
    import torch
    from megatron.energon import DefaultTaskEncoder, WorkerConfig, get_loader, get_train_dataset, stateless

    class Encoder(DefaultTaskEncoder):  # type: ignore[misc,type-arg]
        decoder = None

        @stateless
        def preencode_sample(self, sample: Any) -> Any:
            return sample

        def select_samples_to_pack(self, samples: list[Any]) -> list[list[Any]]:
            return knapsack(samples, [length(one.image, text_of(one)) for one in samples])

        @stateless
        def postencode_sample(self, sample: Any) -> Any:
            return sample

        @stateless
        def pack_selected_samples(self, samples: list[Any]) -> Any:
            made = sequence([(one.image, text_of(one)) for one in samples])
            return [*(torch.from_numpy(array) for array in made[:3]), made[3]]

        def batch(self, samples: list[Any]) -> Any:
            return samples[0]

    data = get_train_dataset(
        folder / "tars",
        batch_size=1,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        packing_buffer_size=BUFFER,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=WORKERS),
        task_encoder=Encoder(),
    )
    yield from counted(get_loader(data))


def text_of(sample: Any) -> str:
    return sample.caption if isinstance(sample.caption, str) else sample.caption.decode()


def read_ours(folder: Path, kind: str) -> Iterator[Item]:
    from mindvl_data.stream import PackStream
    from mindvl_train.data.batch import BatchLayout
    from mindvl_train.data.loader import Loader

    stream = PackStream(folder / "built" / "one-4096", epochs=None)
    layout = BatchLayout(14, 2, stream.manifest.tokenizer["special_ids"]["image_pad"])
    for step in Loader(stream, 1, 1, layout, WORKERS, 4, kind).steps(10**9):  # type: ignore[arg-type]
        (batch,) = step.batches
        yield batch, batch.num_images, batch.num_tokens


def decode_for(folder: Path, seconds: float, answer: Any) -> None:
    from mindvl_data.manifest import packs_of, read_manifest

    packs = packs_of(read_manifest(folder / "built" / "one-4096"))
    images = [bytes(image.data or b"") for _, pack in zip(range(30), packs, strict=False) for image in pack.images]
    begun, cpu, number = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begun < seconds:
        picture(images[number % len(images)])
        number += 1
    answer.put((number / (time.perf_counter() - begun), number / (time.process_time() - cpu)))


def limit(folder: Path, seconds: float) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    processes = [context.Process(target=decode_for, args=(folder, seconds, answer)) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    rates = [answer.get() for _ in processes]
    core = sum(rate for _, rate in rates) / len(rates)
    return {"images": sum(rate for rate, _ in rates), "images_core": core, "tokens_core": 0, "padding": 0}


def cpu_seconds() -> float:
    """Of this process and all below it, in user and system."""
    return sum(_cpu(pid) for pid in _tree(os.getpid())) / os.sysconf("SC_CLK_TCK")


def _tree(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(below for task in tasks for child in task.read_text().split() for below in _tree(int(child)))]


def _cpu(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def measured(items: Iterator[Item], seconds: float) -> dict[str, float]:
    """Once the pipeline is warm, for so many seconds."""
    for _ in range(WARM):
        next(items)
    images = tokens = sequences = 0
    begun, cpu = time.perf_counter(), cpu_seconds()
    while time.perf_counter() - begun < seconds:
        _, some, many = next(items)
        images, tokens, sequences = images + some, tokens + many, sequences + 1
    wall, cpu = time.perf_counter() - begun, cpu_seconds() - cpu
    return {
        "images": images / wall,
        "images_core": images / cpu,
        "tokens_core": tokens / cpu,
        "padding": 1 - tokens / (sequences * SEQ_LEN),
    }


READ = {
    "webdataset": read_webdataset,
    "mds": read_mds,
    "energon": read_energon,
    "ours-threads": lambda folder: read_ours(folder, "threads"),
    "ours-processes": lambda folder: read_ours(folder, "processes"),
}


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    if name == "write-mds":
        return write_mds(folder)
    seconds = float(sys.argv[3])
    print(json.dumps(limit(folder, seconds) if name == "limit" else measured(READ[name](folder), seconds)), flush=True)
    # Loaders that run for ever are not waited for.
    for pid in _tree(os.getpid())[1:]:
        os.kill(pid, 9)
    os._exit(0)


if __name__ == "__main__":
    main()
