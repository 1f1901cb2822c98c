"""How fast packs with decoded pictures reach a loop, beside other loaders on the same samples and the limit.

    python -m tests.benchmarks.stream [--samples 3000] [--seconds 8] [--rounds 3] [--readers limit ours-threads mds ...]
    python -m tests.benchmarks.stream --resume

Every reader delivers sequences of 4096 tokens with the levels of their pictures (Pillow, bicubic, sides to
multiples of 28), from two workers, in a process of its own. The others pack online with a greedy knapsack over a
buffer of 500 samples, get their token ids ready made, and hand over one array of pixels a sequence: better than
what they do by default, where every picture is a tensor that crosses processes by itself. `limit` is two processes
that decode and resize from memory and hand over nothing. Readers take turns, the middle of the rounds counts.
`core`: a second of CPU, of all processes of a reader together, so that a busy machine shows less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import yaml

from mindvl_data.manifest import read_manifest
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from mindvl_data.stream import PackStream
from mindvl_data.stream.epochs import order_of_epoch
from mindvl_data.tokenise import load_tokeniser
from tests.benchmarks.scan import WORDS, pictures
from tests.conftest import QUICKSTART
from tests.peers.environment import run

READERS = ("limit", "ours-threads", "ours-processes", "webdataset", "mds", "energon")
# What cannot share our environment has a folder of its own.
APART = {"mds": "mds", "write-mds": "mds", "energon": "energon"}
SHARD_SAMPLES = 500
SCRIPT = Path(__file__).with_name("stream_reader.py")


def write_tars(folder: Path, samples: int) -> int:
    """Pictures with captions of 10 to 150 words and their token ids, as WebDataset has them; the number of tars."""
    folder.mkdir()
    tokeniser = load_tokeniser(str(QUICKSTART / "tokenizer.json"), QUICKSTART)
    rng = np.random.default_rng(0)
    images = pictures(256)
    for first in range(0, samples, SHARD_SAMPLES):
        with tarfile.open(folder / f"shard-{first // SHARD_SAMPLES:03d}.tar", "w") as archive:
            for number in range(first, min(samples, first + SHARD_SAMPLES)):
                caption = " ".join(rng.choice(WORDS, rng.integers(10, 150)))
                ids = " ".join(map(str, tokeniser.text_only.encode(caption, add_special_tokens=False).ids))
                for suffix, data in {"jpg": images[number % 256], "txt": caption.encode(), "ids": ids.encode()}.items():
                    info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, BytesIO(data))
    return -(-samples // SHARD_SAMPLES)


def write_all(folder: Path, samples: int, readers: list[str]) -> None:
    """The same samples as every reader wants them."""
    tars = write_tars(folder / "tars", samples)
    if "mds" in readers:
        read_by("write-mds", folder, 0)
    if "energon" in readers:
        command = ["-c", "from megatron.energon.cli.main import main; main()", "prepare", folder / "tars"]
        parts = ["--non-interactive", "--split-parts", f"train:shard-{{000..{tars - 1:03d}}}.tar"]
        fields = ["--sample-type", "CaptioningSample", "--field-map", json.dumps({"image": "jpg", "caption": "ids"})]
        run("energon", *command, *parts, *fields, "--num-workers", "1")
    recipe = {
        "name": "bench",
        "seed": 0,
        "tokenizer": str(QUICKSTART / "tokenizer.json"),
        "media": "embed",
        "sources": {"pictures": {"format": "webdataset", "path": "tars/*.tar", "kind": "caption"}},
        "stages": {"one": {"seq_len": 4096, "budget": {"epochs": 1}, "mixture": {"pictures": 1}}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    build(load_recipe(folder / "recipe.yaml"), folder / "built")


def read_by(name: str, folder: Path, seconds: float) -> str:
    command = ["-P", str(SCRIPT), name, str(folder), str(seconds)]
    if name in APART:
        return run(APART[name], *command)
    return subprocess.run([sys.executable, *command], check=True, stdout=subprocess.PIPE, text=True).stdout


def speed(folder: Path, readers: list[str], seconds: float, rounds: int) -> None:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name in readers:
            found[name].append(json.loads(read_by(name, folder, seconds).splitlines()[-1]))
    middle = {
        name: {key: statistics.median(one[key] for one in ran) for key in ran[0]} for name, ran in found.items() if ran
    }
    limit = middle.get("limit", {"images": float("nan"), "images_core": float("nan")})
    print("| reader | images/s | of the limit | images/s a core | of the limit | tokens/s a core | padding |")
    print("|---|---|---|---|---|---|---|")
    for name, row in middle.items():
        shares = [row[key] / limit[key] for key in ("images", "images_core")]
        tokens = f"{row['tokens_core']:,.0f} | {row['padding']:.1%}" if row["tokens_core"] else "– | –"
        wall, core = f"{row['images']:.0f} | {shares[0]:.2f}", f"{row['images_core']:.0f} | {shares[1]:.2f}"
        print(f"| {name} | {wall} | {core} | {tokens} |")


def resume(folder: Path) -> None:
    manifest = read_manifest(folder / "built" / "one-4096")
    packs = manifest.num_packs
    size = max(shard.bytes for shard in manifest.shards) / 1e6
    print(f"seconds (CPU) from a saved position to the first pack, {packs} packs, shards of {size:.0f} MB:")
    for n in (0, packs // 2, packs - 1, 1000 * packs + packs // 3):
        wall, cpu = time.perf_counter(), time.process_time()
        stream = PackStream(manifest.path, epochs=None)
        stream.load_state_dict({"manifest": manifest.id, "packs": n})
        next(iter(stream))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"  epoch {n // packs}, place {n % packs}: {wall:.3f} ({cpu:.3f})")
    wall, cpu = time.perf_counter(), time.process_time()
    order_of_epoch(manifest.id, 7, 10_000_000, 64)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"  the order of a later epoch of 10 million packs, besides: {wall:.3f} ({cpu:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--readers", nargs="+", choices=READERS, default=READERS)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep the samples here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        readers = [] if options.resume else list(options.readers)
        if not (folder / "built").exists():
            write_all(folder, options.samples, readers)
        if options.resume:
            resume(folder)
        else:
            speed(folder, readers, options.seconds, options.rounds)


if __name__ == "__main__":
    sys.exit(main())
