"""How fast the scan is beside plain readers of the same files, in one process, on files that this script writes.

    python -m tests.benchmarks.scan [--samples 20000] [--folder DIR]

Every figure is CPU time (user and system), the best of three runs, so that a busy machine shows in none of them.
Readers and figures: `scan` writes the samples table and the ledger, `tarfile` and `webdataset` only read.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from PIL import Image

from mindvl_data.sources import Asked
from mindvl_data.sources.files import FingerprintCache, source_files
from mindvl_data.steps.scan import Rules, ScanTask, scan

RUNS = 3
SENTENCE = "a photo of the old red house by sea with two boats and dog under green tree in evening light"
WORDS = SENTENCE.split()


def pictures(count: int) -> list[bytes]:
    """JPEGs as web crawls hold them: smooth content, 200 to 500 pixels a side, 8 to 30 kB."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        small = rng.integers(0, 256, (12, 16, 3), np.uint8)
        size = tuple(int(side) for side in rng.integers(200, 500, 2))
        file = io.BytesIO()
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def metadata(number: int) -> dict[str, object]:
    """The fields of img2dataset and DataComp."""
    rng = np.random.default_rng(number)
    return {
        "uid": rng.bytes(16).hex(),
        "url": f"https://example.org/pictures/{number:08d}.jpg",
        "text": " ".join(rng.choice(WORDS, 12)),
        "key": f"{number:09d}",
        "status": "success",
        "width": 512,
        "height": 384,
        "original_width": 1024,
        "original_height": 768,
        "clip_b32_similarity_score": float(rng.random()),
        "clip_l14_similarity_score": float(rng.random()),
        "sha256": rng.bytes(32).hex(),
    }


def write_tar(path: Path, count: int) -> None:
    images = pictures(64)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(count):
            meta = metadata(number)
            members = {"jpg": images[number % 64], "txt": str(meta["text"]).encode(), "json": json.dumps(meta).encode()}
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def write_tables(folder: Path, count: int) -> None:
    rows = [metadata(number) for number in range(count)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "metadata.parquet")
    chats = [
        {
            "id": row["uid"],
            "conversations": [{"from": "human", "value": row["text"]}, {"from": "gpt", "value": row["url"]}],
        }
        for row in rows
    ]
    (folder / "chats.json").write_text(json.dumps(chats))
    (folder / "chats.jsonl").write_text("\n".join(json.dumps(chat) for chat in chats))


def by_scan(path: Path, format_name: str, out: Path, asked: Asked | None = None) -> int:
    (file,) = source_files((path.name,), (path.name,), None, path.parent, FingerprintCache(out / "none.json"))
    task = ScanTask("s", format_name, file, asked or Asked(), Rules(), False, None, out / "s.parquet", out / "s.bin")
    scan(task)
    return int(pq.read_metadata(task.samples).num_rows)


def by_tarfile(path: Path) -> int:
    keys = set()
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            file.read()
            keys.add(member.name.partition(".")[0])
    return len(keys)


def by_tarfile_and_pillow(path: Path) -> int:
    count = 0
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            if member.name.endswith(".jpg"):
                count += Image.open(io.BytesIO(file.read())).width > 0
            elif member.name.endswith(".json"):
                json.loads(file.read())
    return count


def by_webdataset(path: Path) -> int:
    return sum(1 for _ in webdataset.WebDataset(str(path), shardshuffle=False))


def by_pyarrow(path: Path) -> int:
    return sum(len(batch.to_pylist()) for batch in pq.ParquetFile(path).iter_batches(columns=["uid", "text"]))


def by_json(path: Path) -> int:
    with path.open() as file:
        return len(json.load(file)) if path.suffix == ".json" else sum(1 for line in file if json.loads(line))


def cpu_seconds(function: Callable[[], int]) -> tuple[float, int]:
    best, count = float("inf"), 0
    for _ in range(RUNS):
        start = time.process_time()
        count = function()
        best = min(best, time.process_time() - start)
    return best, count


def readers(folder: Path, out: Path) -> Iterator[tuple[str, str, Path, Callable[[], int]]]:
    tar, table = folder / "shard.tar", folder / "metadata.parquet"
    kept = Asked(keep=("clip_b32_similarity_score", "original_width"))
    yield "tar", "scan", tar, lambda: by_scan(tar, "webdataset", out)
    yield "tar", "scan, two fields kept", tar, lambda: by_scan(tar, "webdataset", out, kept)
    yield "tar", "tarfile, every member read", tar, lambda: by_tarfile(tar)
    yield "tar", "tarfile + json + Pillow's size", tar, lambda: by_tarfile_and_pillow(tar)
    yield "tar", "webdataset, not decoded", tar, lambda: by_webdataset(tar)
    yield "parquet", "scan", table, lambda: by_scan(table, "text", out)
    yield "parquet", "scan, two fields kept", table, lambda: by_scan(table, "text", out, kept)
    yield "parquet", "pyarrow, uid and text to Python", table, lambda: by_pyarrow(table)
    for name in ("chats.json", "chats.jsonl"):
        path = folder / name
        yield name, "scan", path, lambda path=path: by_scan(path, "sharegpt", out)  # type: ignore[misc]
        yield name, "json", path, lambda path=path: by_json(path)  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        (folder / "out").mkdir()
        write_tar(folder / "shard.tar", arguments.samples)
        write_tables(folder, arguments.samples)
        print(f"{'file':<12}{'reader':<34}{'samples/s':>12}{'MB/s':>10}")
        for kind, name, path, function in readers(folder, folder / "out"):
            seconds, count = cpu_seconds(function)
            rate = path.stat().st_size / seconds / 1e6
            print(f"{kind:<12}{name:<34}{count / seconds:>12,.0f}{rate:>10,.0f}")


if __name__ == "__main__":
    main()
