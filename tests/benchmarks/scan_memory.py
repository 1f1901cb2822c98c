"""The memory of a scan: how far its process grows above what it is before, on files that this script writes.

    python -m tests.benchmarks.scan_memory [--folder DIR] [--only NAME]

Each file is scanned in a process of its own, whose peak resident size counts, mapped pages of files included. The
files are large and cheap to write: 10 GB of large pictures as holes with a header, three million small members, a
JSON array of 1 GB, a million rows of pictures and captions in one row group.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.scan import pictures

MEASURED = """
import re, sys
from pathlib import Path
from mindvl_data.runtime import plugins
from mindvl_data.steps.scan import Rules, ScanTask, scan
from mindvl_data.sources import GROUP, Asked
from mindvl_data.sources.files import FingerprintCache, source_files

def peak():  # not ru_maxrss, which begins at the peak of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

path, form = Path(sys.argv[1]), sys.argv[2]
plugins.load(GROUP, form)
before = peak()
(file,) = source_files((path.name,), (path.name,), None, path.parent, FingerprintCache())
out = path.parent / "out"
out.mkdir(exist_ok=True)
scan(ScanTask("s", form, file, Asked(), Rules(), False, None, out / "s.parquet", out / "s.bin"))
print(peak() - before, peak())
"""


def megabytes(path: Path, form: str) -> tuple[int, int]:
    """MiB by which scanning a file makes a process grow, and what the process then has in all."""
    command = [sys.executable, "-c", MEASURED, str(path), form]
    extra, whole = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(extra), int(whole)


def write_large_pictures(path: Path, count: int, size: int) -> None:
    """A tar of `count` pictures of `size` bytes with captions, of which only the first kilobytes are not holes."""
    (head,) = pictures(1)
    with path.open("wb") as file:
        for number in range(count):
            for suffix, data, length in (("jpg", head[:size], size), ("txt", b"a caption", 9)):
                info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                info.size = length
                file.write(info.tobuf(tarfile.USTAR_FORMAT) + data)
                file.seek(file.tell() + length - len(data) + -length % 512)
        file.write(bytes(1024))


def write_small_members(path: Path, count: int) -> None:
    """A tar of `count` texts of a few bytes."""
    info = tarfile.TarInfo("000000000.txt")
    info.size = 9
    blank = np.frombuffer(info.tobuf(tarfile.USTAR_FORMAT) + b"a caption".ljust(512, b"\0"), np.uint8)
    with path.open("wb") as file:
        for start in range(0, count, 10_000):
            numbers = np.arange(start, min(count, start + 10_000))
            blocks = np.tile(blank, (len(numbers), 1))
            digits = numbers[:, None] // 10 ** np.arange(8, -1, -1) % 10
            blocks[:, :9] += digits.astype(np.uint8)
            sums = int(bytes(blank[148:154]), 8) + digits.sum(1)
            blocks[:, 148:154] = sums[:, None] // 8 ** np.arange(5, -1, -1) % 8 + ord("0")
            file.write(blocks.tobytes())
        file.write(bytes(1024))


def write_array(path: Path, size: int) -> None:
    """A JSON array of conversations of about `size` bytes."""
    entry = json.dumps({"conversations": [{"from": "human", "value": "x" * 3000}, {"from": "gpt", "value": "y"}]})
    with path.open("w") as file:
        file.write("[" + entry)
        for _ in range(size // len(entry)):
            file.write(",\n" + entry)
        file.write("]")


def write_rows(path: Path, count: int, size: int) -> None:
    """A Parquet file of one row group: `count` pictures of `size` bytes with captions."""
    (picture,) = pictures(1)
    picture = picture[:size].ljust(size, b"\0")
    schema = pa.schema([("image", pa.binary()), ("caption", pa.string())])
    rows = min(count, max(1, (32 << 20) // size))
    table = pa.table([[picture] * rows, ["a caption"] * rows], schema=schema)
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False, write_batch_size=32) as writer:
        writer.write_table(pa.concat_tables([table] * -(-count // rows)).slice(0, count), row_group_size=count)


def write_one_picture(path: Path, count: int) -> None:
    """A Parquet file that holds one picture of 900 kB and names it in `count` rows: a dictionary makes it small."""
    picture = np.random.default_rng(0).bytes(900_000)
    image = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([picture], pa.binary()))
    table = pa.table({"image": image, "caption": ["a caption"] * count})
    pq.write_table(table, path, row_group_size=count, store_schema=False)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", help="the name of one file")
    arguments = parser.parse_args()
    files: list[tuple[str, str, Callable[[Path], None]]] = [
        ("large-pictures.tar", "webdataset", lambda path: write_large_pictures(path, 1000, 10_000_000)),
        ("small-pictures.tar", "webdataset", lambda path: write_large_pictures(path, 400_000, 25_000)),
        ("small-members.tar", "webdataset", lambda path: write_small_members(path, 3_000_000)),
        ("array.json", "sharegpt", lambda path: write_array(path, 1_000_000_000)),
        ("rows.parquet", "captions", lambda path: write_rows(path, 1_000_000, 1_000)),
        ("large-rows.parquet", "captions", lambda path: write_rows(path, 2_000, 1_000_000)),
        ("one-picture.parquet", "captions", lambda path: write_one_picture(path, 20_000)),
    ]
    print(f"{'file':<22}{'GB':>8}{'seconds':>10}{'MiB grown':>12}{'MiB in all':>12}", flush=True)
    for name, form, write in files:
        if arguments.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
            path = Path(temporary) / name
            write(path)
            start = time.monotonic()
            extra, whole = megabytes(path, form)
            seconds = time.monotonic() - start
            print(f"{name:<22}{path.stat().st_size / 1e9:>8.2f}{seconds:>10.0f}{extra:>12}{whole:>12}", flush=True)


if __name__ == "__main__":
    main()
