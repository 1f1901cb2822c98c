"""The count step's texts a CPU second by either library, and the libraries alone, in one run.

    python -m tests.benchmarks.tokenise [--samples 10000] [--tokenizer qwen] [--rounds 3]

Captions of the quickstart's words, as `whole` makes them. The count step reads a samples table, renders, encodes,
checks its share against `tokenizers` and writes a token store. Loading is not in it: it is said on a line of its own.
CPU seconds are user and system of all threads; figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mindvl_data.steps.count import CountTask, count
from mindvl_data.tables.schema import SAMPLES
from mindvl_data.tokenise import TEMPLATES, load_tokeniser
from mindvl_data.vision import Resolution
from tests.benchmarks.whole import captions, seconds
from tests.conftest import QUICKSTART


def samples_table(texts: list[str]) -> pa.Table:
    """A samples table of captions, each with one image."""
    image = {"uri": "a.tar", "offset": 0, "size": 900, "width": 300, "height": 300, "format": "jpeg", "sha256": None}
    part = {"turn": 0, "role": "caption", "loss": None, "text": None}
    lines = [
        {name: None for name in SAMPLES.names}
        | {"sample_id": number.to_bytes(16, "big"), "key": str(number), "text_hash": bytes(32), "images": [image]}
        | {"parts": [part, part | {"text": text}]}
        for number, text in enumerate(texts)
    ]
    return pa.Table.from_pylist(lines, SAMPLES)


def cpu(work: Callable[[], object], rounds: int) -> float:
    return statistics.median(float(seconds(work)[1]) for _ in range(rounds))


def counted(folder: Path, samples: int, tokenizer: str, fast: bool) -> None:
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    kept = np.packbits(np.ones(samples, bool)).tobytes()
    table, drops = folder / "samples.parquet", folder / "store.drops.parquet"
    rendering = ("caption", "answers", TEMPLATES["qwen2-vl"], tokenizer, QUICKSTART)
    count(
        CountTask("a", "a.tar", table, kept, *rendering, None, None, None, (Resolution(),), (store,), drops, fast=fast)
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--tokenizer", default="qwen")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    texts = list(islice(captions(), args.samples))
    one = load_tokeniser(args.tokenizer, QUICKSTART)
    print(
        f"load tokenizers: {cpu(lambda: one.text_only, 1):.2f} CPU s; fastokens: {cpu(lambda: one.fast, 1):.2f} CPU s"
    )
    assert one.fast is not None
    with tempfile.TemporaryDirectory() as name:
        pq.write_table(samples_table(texts), Path(name) / "samples.parquet")
        rows: dict[str, Callable[[], object]] = {
            "tokenizers alone, encode_batch": lambda: one.text_only.encode_batch(texts, add_special_tokens=False),
            "fastokens alone, encode_batch_flat": lambda: one.fast and one.fast.library.encode_batch_flat(texts),
            "count step, tokenizers": lambda: counted(Path(name), args.samples, args.tokenizer, False),
            "count step, fastokens and the check": lambda: counted(Path(name), args.samples, args.tokenizer, True),
        }
        taken = {row: cpu(work, args.rounds) for row, work in rows.items()}
    for row, second in taken.items():
        print(f"{row:40} {args.samples / second:10,.0f} texts a CPU second")
    print(f"count step: {taken['count step, tokenizers'] / taken['count step, fastokens and the check']:.1f} x")


if __name__ == "__main__":
    main()
