"""Packed training beside padded: `python -m tests.benchmarks.padding [MANIFEST] [--capacity 4096] [--samples 64]`.

The same samples, model and kernels, in one run: packed, and in random order padded to the longest of their batch,
for several batch sizes, of which the best counts. Useful tokens (no padding) a CPU second of one thread through
forward, backward and optimizer; images are decoded, and packs made, before. In both the vision tower takes images
packed: only text is padded, as the published model does it. Without MANIFEST the quickstart is built.

Then invented mixes of lengths, until one gives twice the tokens: which one is printed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mindvl_data.manifest import packs_of, read_manifest
from mindvl_data.packing import plan
from mindvl_data.shards import Pack, PackImage
from mindvl_train.data.batch import Batch, BatchLayout, collate
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.models.initialise import give_weights
from mindvl_train.models.vlm import VLM, VLMConfig
from mindvl_train.presets import read_preset
from tests.benchmarks.vlm_lengths import clipped
from tests.benchmarks.vlm_lengths import samples as lengths_of
from tests.mindvl_train.synthetic import SPECIAL_IDS, Sample, pack_of

BATCH_SIZES = (1, 2, 4, 8, 16)
LARGEST_IMAGE = 1024  # tokens
VOCABULARY = 4096
WANTED = 2.0


def samples_of(manifest: Path) -> list[Sample]:
    """A data set taken apart into its samples."""
    found = []
    for pack in packs_of(read_manifest(manifest)):
        for start, stop in zip(pack.cu_seqlens[:-1], pack.cu_seqlens[1:], strict=True):
            if stop <= pack.num_tokens:
                inside = (image for image in pack.images if start <= image.start < stop)
                images = tuple(replace(image, start=int(image.start - start)) for image in inside)
                found.append(Sample(pack.tokens[start:stop], pack.loss_mask[start:stop], images))
    return found


def invented(mix: str, count: int, capacity: int) -> list[Sample]:
    """Samples of a mix of tests/benchmarks/vlm_lengths.py, or of two lengths: `NAME` or `SHARE x SHORT + LONG`."""
    if "x" in mix and "+" in mix:
        share, short, long = (float(part) for part in mix.replace("%", "").replace("x", "+").split("+"))
        drawn = np.random.default_rng(0).random(count) < share / 100
        return [_sample(int(short if few else long), 0) for few in drawn]
    marks = 2 * (capacity // LARGEST_IMAGE + 2)
    lengths, patches = clipped(*lengths_of(count, mix), capacity - marks)
    return [_sample(int(length - seen // 4), int(seen // 4)) for length, seen in zip(lengths, patches, strict=True)]


def _sample(text: int, vision: int) -> Sample:
    """Images first, each with its two marks; loss on the text."""
    sizes = [LARGEST_IMAGE] * (vision // LARGEST_IMAGE) + [vision % LARGEST_IMAGE] * (vision % LARGEST_IMAGE > 0)
    tokens, images = [], []
    for size in sizes:
        images.append(PackImage(len(tokens) + 1, (1, 2, 2 * size)))
        tokens += [SPECIAL_IDS["vision_start"], *[SPECIAL_IDS["image_pad"]] * size, SPECIAL_IDS["vision_end"]]
    tokens += [7] * max(2, text - 2 * len(sizes))
    mask = np.array(tokens) == 7
    mask[0] = False
    return Sample(np.array(tokens, np.int32), mask, tuple(images))


def packed(samples: Sequence[Sample], capacity: int, image_pad: int) -> list[Batch]:
    """As a build packs them, a pack a step."""
    packs = plan(np.array([len(sample.tokens) for sample in samples], np.int32), capacity)
    groups = [packs.index[start:stop] for start, stop in zip(packs.offsets[:-1], packs.offsets[1:], strict=True)]
    return [_batch([pack_of([samples[i] for i in group], capacity)], image_pad) for group in groups]


def padded(samples: Sequence[Sample], size: int, image_pad: int) -> list[Batch]:
    """In random order, `size` at a time, each row as long as the longest."""
    order = np.random.default_rng(0).permutation(len(samples))
    batches = []
    for start in range(0, len(order), size):
        rows = [samples[i] for i in order[start : start + size]]
        longest = max(len(sample.tokens) for sample in rows)
        batches.append(_batch([_row(sample, longest) for sample in rows], image_pad))
    return batches


def _row(sample: Sample, length: int) -> Pack:
    """One segment of the whole length: causal attention hides the padding behind a sample, but computes it."""
    return replace(pack_of([sample], length), cu_seqlens=np.array([0, length], np.int32))


def _batch(packs: Sequence[Pack], image_pad: int) -> Batch:
    layout = BatchLayout(patch=14, merge=2, image_pad=image_pad)
    return collate(packs, layout, pixels="black").to(torch.device("cpu"))


def _sized(preset: dict[str, Any]) -> dict[str, Any]:
    return preset | {"decoder": {"vocab_size": VOCABULARY} | preset["decoder"]}


def speed(batches: Sequence[Batch]) -> float:
    """Useful tokens a CPU second, of a model trained from nothing."""
    with torch.device("meta"):
        model = VLM(VLMConfig(**_sized(read_preset("tiny"))), resolve(KernelConfig(), "cpu"))
    give_weights(model, 0, torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    before = time.process_time()
    for batch in batches:
        (model(batch) / batch.total_weight).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return sum(batch.num_tokens for batch in batches) / (time.process_time() - before)


def compare(name: str, samples: Sequence[Sample], capacity: int, image_pad: int = SPECIAL_IDS["image_pad"]) -> float:
    """Prints a line and returns the ratio."""
    lengths = np.array([len(sample.tokens) for sample in samples])
    ours = packed(samples, capacity, image_pad)
    fill = lengths.sum() / sum(len(batch.ids) for batch in ours)
    theirs = {size: speed(padded(samples, size, image_pad)) for size in BATCH_SIZES}
    best = max(theirs, key=lambda size: theirs[size])
    useful = lengths.sum() / sum(len(batch.ids) for batch in padded(samples, best, image_pad))
    fast = speed(ours)
    quartiles = "/".join(f"{int(value):,}" for value in np.quantile(lengths, (0.25, 0.5, 0.75, 1)))
    every = " ".join(f"{size}:{value:,.0f}" for size, value in theirs.items())
    print(
        f"{name:<16} {quartiles:>22} {fast:>9,.0f} {fill:>6.1%} {theirs[best]:>9,.0f} {best:>4} {useful:>6.1%} "
        f"{fast / theirs[best]:>6.2f}   padded by batch size {every}",
        flush=True,
    )
    return fast / theirs[best]


def main() -> None:
    """The data set, then the mixes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", nargs="?", type=Path)
    parser.add_argument("--capacity", type=int, default=4096)
    parser.add_argument("--samples", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = f"{'samples':<16} {'length at 1/4..4/4':>22} {'packed':>9} {'fill':>6} {'padded':>9}"
    print(f"{columns} {'size':>4} {'useful':>6}  ratio")
    with tempfile.TemporaryDirectory() as folder:
        manifest = arguments.manifest or _quickstart(Path(folder))
        image_pad = read_manifest(manifest).tokenizer["special_ids"]["image_pad"]
        samples = samples_of(manifest)[: arguments.samples]
        ratio = compare("quickstart", samples, arguments.capacity, image_pad)
    for mix in ("text-heavy", "90% x 64 + 2048", "97% x 32 + 2048"):
        if ratio >= WANTED:
            break
        ratio = compare(mix, invented(mix, arguments.samples, arguments.capacity), arguments.capacity)
    print(f"twice the useful tokens: {'yes, in the last line' if ratio >= WANTED else 'in none of these'}")


def _quickstart(folder: Path) -> Path:
    recipe = Path(__file__).parents[2] / "recipes" / "quickstart" / "recipe.yaml"
    build = [sys.executable, "-m", "mindvl_data", "build", str(recipe), "--out", str(folder / "built")]
    subprocess.run(build, check=True, capture_output=True)
    return folder / "built" / "sft-4096" / "manifest.json"


if __name__ == "__main__":
    main()
