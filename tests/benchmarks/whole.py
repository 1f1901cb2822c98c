"""A whole build beside what it cannot avoid, and beside what peers were measured at.

    python -m tests.benchmarks.whole [--gb 2] [--images DIR] [--tokenizer FILE] [--workers N] [--folder DIR]

The corpus: the images of DIR (any JPEG and PNG files below it; 2,000 made with Pillow by default) with captions,
written into WebDataset tars under new keys until so many GB are there. Then `build` with `media: embed`, from nothing
to published, start-up included, and, on the same texts and bytes: tokenising each text once with the library that the
build uses, in one batch on all cores; `cp` and fsync of the shards. `ratio` is the build over their sum, in wall time
and in CPU time (user and system, of all processes), which other work on the machine disturbs less.
Peers' samples a second are those of a published comparison on 5,000 small real samples and two cores, filters or
packing alone: read them as a scale, not as a race.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from tests.conftest import QUICKSTART

IMAGES = 2_000
PER_TAR = 10_000
PEERS = {"Open-Qwen2VL, packing": 160, "LLaVA-OneVision-1.5, packing": 37, "data-juicer, six filters": 193}
WORDS = ("photo", "of", "a", "red", "house", "by", "the", "sea", "two", "boats", "and", "dog", "under", "green", "tree")


def pictures(folder: Path | None) -> list[tuple[str, bytes]]:
    """Suffix and bytes of every image."""
    if folder is not None:
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        return [(path.suffix.lower().removeprefix("."), path.read_bytes()) for path in found]
    return [("jpg", _made(number)) for number in range(IMAGES)]


def _made(number: int) -> bytes:
    """A smooth JPEG of 200 to 500 pixels a side, 0.12 megapixels on average: small, as web crawls hold them."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (18, 24, 3), np.uint8))
    file = io.BytesIO()
    width, height = (int(side) for side in rng.integers(200, 500, 2))
    small.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
    return file.getvalue()


def write_corpus(folder: Path, images: Sequence[tuple[str, bytes]], size: int) -> list[str]:
    """Tars of at least `size` bytes of images, every sample under a key of its own; their texts."""
    rng = np.random.default_rng(1)
    texts: list[str] = []
    written = 0
    while written < size:
        with tarfile.open(folder / f"{len(texts) // PER_TAR:05d}.tar", "w") as archive:
            for _ in range(PER_TAR):
                suffix, data = images[len(texts) % len(images)]
                text = " ".join(rng.choice(WORDS, int(rng.integers(8, 60))))
                for name, body in ((suffix, data), ("txt", text.encode())):
                    member = tarfile.TarInfo(f"{len(texts):09d}.{name}")
                    member.size = len(body)
                    archive.addfile(member, io.BytesIO(body))
                texts.append(text)
                written += len(data)
                if written >= size:
                    break
    return texts


def recipe(folder: Path, tokenizer: Path) -> Path:
    raw = {
        "name": "whole",
        "tokenizer": str(tokenizer.resolve()),
        "sources": {"images": {"format": "webdataset", "path": "*.tar", "kind": "caption"}},
        "filters": [{"name": "sound", "where": "least(width, height) >= 8 and text_chars >= 3"}],
        "stages": {"pretrain": {"seq_len": 4096, "mixture": {"images": {"epochs": 1}}}},
    }
    (folder / "recipe.yaml").write_text(json.dumps(raw))
    return folder / "recipe.yaml"


def seconds(work: Callable[[], object]) -> NDArray[np.float64]:
    """Wall and CPU seconds, those of processes that ended within included."""
    before = np.array([time.perf_counter(), _cpu()])
    work()
    return np.array([time.perf_counter(), _cpu()]) - before


def _cpu() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _said(taken: NDArray[np.float64]) -> list[str]:
    return [f"{second:.2f} s" for second in taken]


def copied(shards: Sequence[Path], to: Path) -> None:
    for shard in shards:
        with (to / shard.name).open("wb") as file, shard.open("rb") as source:
            shutil.copyfileobj(source, file, 1 << 24)
            file.flush()
            os.fsync(file.fileno())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=QUICKSTART / "tokenizer.json")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        texts = write_corpus(folder, pictures(arguments.images), int(arguments.gb * 1e9))
        command = [sys.executable, "-m", "mindvl_data", "build", str(recipe(folder, arguments.tokenizer))]
        command += ["--out", str(folder / "out"), "--workers", str(arguments.workers), "--json"]
        built = seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
        shards = sorted((folder / "out" / "pretrain-4096").glob("*.arrow"))
        size = sum(shard.stat().st_size for shard in shards)
        (folder / "copy").mkdir()
        tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
        tokenised = seconds(lambda: tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        copying = seconds(lambda: copied(shards, folder / "copy"))
    table = Table("", "wall", "CPU")
    table.add_row(
        f"build, {len(texts):,} samples, {size / 1e9:.2f} GB of shards, {arguments.workers} workers", *_said(built)
    )
    table.add_row("tokenising each text once", *_said(tokenised))
    table.add_row("cp and fsync of the shards", *_said(copying))
    table.add_row("ratio of the build to their sum", *(f"{ratio:.2f}" for ratio in built / (tokenised + copying)))
    rate = len(texts) / built[0]
    table.add_row("samples a second", f"{rate:,.0f}", "")
    for peer, theirs in PEERS.items():
        table.add_row(f"… over {peer} ({theirs} samples/s)", f"{rate / theirs:.1f} ×", "")
    Console().print(table)


if __name__ == "__main__":
    main()
