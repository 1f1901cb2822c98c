"""A whole build by its steps, beside what it cannot avoid and beside what peers were measured at.

    python -m tests.benchmarks.whole [--gb 2 | --samples 50000] [--images DIR] [--tokenizer FILE] [--rounds 3]

The corpus: the images of DIR (any JPEG and PNG files below it; 2,000 made with Pillow by default, as small as a web
crawl's) with captions of the quickstart's own words, written into WebDataset tars under new keys until so many bytes of
images, or samples, are there. Then `python -m mindvl_data build` with `media: embed`, from nothing to published, and on
the same texts and bytes what no build can do without: tokenising each text once with the fastest library that has the
same ids, in one batch on all cores; `cp` and fsync of the shards. `ratio` is the build over their sum, in wall time and
in CPU time (user and system, of all processes), which other work on the machine disturbs less. Figures are medians of
the rounds. The corpus lies in the page cache: it was just written.
Peers' samples a second are those of a published comparison on 5,000 small real samples and two cores, filters or
packing alone: read them as a scale, not as a race.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from mindvl_data.tokenise import load_tokeniser
from tests.conftest import QUICKSTART

IMAGES = 2_000
PER_TAR = 10_000
PEERS = {"data-juicer, six filters": 193, "Open-Qwen2VL, packing": 160, "LLaVA-OneVision-1.5, packing": 37}
# What is asked of a build: at most so many times what cannot be avoided, at least so many times the fastest peer.
MOST, LEAST = 2.5, 50
Seconds = NDArray[np.float64]  # wall, CPU


def pictures(folder: Path | None) -> list[tuple[str, bytes]]:
    """Suffix and bytes of every image."""
    if folder is not None:
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        return [(path.suffix.lower().removeprefix("."), path.read_bytes()) for path in found]
    return [("jpg", _made(number)) for number in range(IMAGES)]


def _made(number: int) -> bytes:
    """A smooth JPEG of 200 to 500 pixels a side, 0.12 megapixels on average."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (18, 24, 3), np.uint8))
    file = io.BytesIO()
    width, height = (int(side) for side in rng.integers(200, 500, 2))
    small.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
    return file.getvalue()


def captions() -> Iterator[str]:
    """8 to 59 words each, as often as the quickstart's texts use them, without end."""
    data, rng = QUICKSTART / "data", np.random.default_rng(1)
    turns = [turn for line in (data / "text.jsonl").read_text().splitlines() for turn in json.loads(line)["messages"]]
    pages = json.loads((data / "documents" / "documents.json").read_text())
    texts = [turn["content"] for turn in turns] + [turn["value"] for page in pages for turn in page["conversations"]]
    words = " ".join(texts).replace("<image>", "").split()
    while True:
        yield " ".join([words[place] for place in rng.integers(0, len(words), rng.integers(8, 60))])


def write_corpus(folder: Path, images: Sequence[tuple[str, bytes]], enough: Callable[[int, int], bool]) -> list[str]:
    """Tars of images until there are `enough` samples or bytes, every sample under a key of its own; their texts."""
    texts: list[str] = []
    written, more = 0, captions()
    while not enough(len(texts), written):
        with tarfile.open(folder / f"{len(texts) // PER_TAR:05d}.tar", "w") as archive:
            for _ in range(PER_TAR):
                suffix, data = images[len(texts) % len(images)]
                text = next(more)
                for name, body in ((suffix, data), ("txt", text.encode())):
                    member = tarfile.TarInfo(f"{len(texts):09d}.{name}")
                    member.size = len(body)
                    archive.addfile(member, io.BytesIO(body))
                texts.append(text)
                written += len(data)
                if enough(len(texts), written):
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


def seconds(work: Callable[[], object]) -> Seconds:
    """Wall and CPU seconds, those of processes that ended within included."""
    before = np.array([time.time(), _cpu()])
    work()
    return np.array([time.time(), _cpu()]) - before


def _cpu() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def built(folder: Path, made: Path, workers: int) -> dict[str, Seconds]:
    """A build into `folder`/out from nothing, by its steps and `all`."""
    out, note = folder / "out", folder / "steps.json"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "tests.benchmarks.whole_steps", str(note), "build", str(made)]
    command += ["--out", str(out), "--workers", str(workers), "--json"]
    begin = time.time()
    total = seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    marks = [("start-up", begin, 0.0), *json.loads(note.read_text()), ("end", begin + total[0], total[1])]
    steps = {"all": total}
    for (name, *since), (_, *until) in itertools.pairwise(marks):
        steps[name] = steps.get(name, np.zeros(2)) + np.array(until) - np.array(since)
    return steps


def copied(shards: Sequence[Path], to: Path) -> None:
    to.mkdir(exist_ok=True)
    for shard in shards:
        with (to / shard.name).open("wb") as file, shard.open("rb") as source:
            shutil.copyfileobj(source, file, 1 << 24)
            file.flush()
            os.fsync(file.fileno())


def encoder(tokenizer: Path) -> Callable[[list[str]], object]:
    """The fastest way to this tokenizer's ids: `fastokens` where it has the same, `tokenizers` elsewhere."""
    one = load_tokeniser(str(tokenizer), tokenizer.parent)
    if one.fast is not None:
        return one.fast.library.encode_batch_flat
    return partial(one.text_only.encode_batch, add_special_tokens=False)


def measured(folder: Path, tokenizer: Path, texts: Sequence[str], workers: int) -> dict[str, Seconds]:
    """One round: the build by its steps, and under the names of `UNAVOIDABLE` what it cannot do without."""
    found = built(folder, recipe(folder, tokenizer), workers)
    found["tokenise"] = seconds(partial(encoder(tokenizer), list(texts)))
    shutil.rmtree(folder / "copy", ignore_errors=True)
    found["copy"] = seconds(lambda: copied(sorted((folder / "out" / "pretrain-4096").glob("*.arrow")), folder / "copy"))
    return found


UNAVOIDABLE = {"count": ("tokenise", "tokenising each text once"), "write": ("copy", "cp and fsync of the shards")}


def table(found: Mapping[str, Seconds], samples: int, size: int, workers: int) -> Table:
    shown = Table("", "wall", "CPU", "unavoidable", "wall", "CPU")
    for name in (name for name in found if name not in ("all", "tokenise", "copy")):
        key, what = UNAVOIDABLE.get(name, ("", ""))
        shown.add_row(name, *_said(found[name]), what, *(_said(found[key]) if key else ()))
    least = found["tokenise"] + found["copy"]
    what = f"build of {samples:,} samples, {size / 1e9:.2f} GB of shards, {workers} workers"
    shown.add_row(what, *_said(found["all"]), "their sum", *_said(least), style="bold")
    ratio = [f"{ratio:.2f}" for ratio in found["all"] / least]
    shown.add_row("ratio of the build to what cannot be avoided", *ratio, f"asked: at most {MOST}")
    rate = samples / found["all"][0]
    shown.add_row("samples a second", f"{rate:,.0f}", "", f"a second of one core: {samples / found['all'][1]:,.0f}")
    for number, (peer, theirs) in enumerate(PEERS.items()):
        asked = f"asked, of 50,000 samples: at least {LEAST} ×" if number == 0 else ""
        shown.add_row(f"… over {peer} ({theirs} samples/s)", f"{rate / theirs:.1f} ×", "", asked)
    return shown


def _said(taken: Seconds) -> list[str]:
    return [f"{second:.2f} s" for second in taken]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--samples", type=int, help="so many samples instead of so many GB")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=QUICKSTART / "tokenizer.json")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the corpus, the build and the copy lie meanwhile")
    arguments = parser.parse_args()

    def enough(samples: int, size: int) -> bool:
        return samples >= arguments.samples if arguments.samples else size >= arguments.gb * 1e9

    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        texts = write_corpus(folder, pictures(arguments.images), enough)
        rounds = [measured(folder, arguments.tokenizer, texts, arguments.workers) for _ in range(arguments.rounds)]
        size = sum(shard.stat().st_size for shard in (folder / "copy").iterdir())
    found = {step: np.median([one[step] for one in rounds], axis=0) for step in rounds[0]}
    Console(width=140).print(table(found, len(texts), size, arguments.workers))


if __name__ == "__main__":
    main()
