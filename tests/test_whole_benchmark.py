"""The benchmark of a whole build runs the command as it is, misses none of its seconds, and builds what it says."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.whole import captions, measured, pictures, table, write_corpus
from tests.conftest import QUICKSTART

SAMPLES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


def test_steps_are_all_of_a_build_of_all_samples(folder: Path) -> None:
    images = pictures(QUICKSTART / "data" / "documents")
    texts = write_corpus(folder, images, lambda samples, size: samples >= SAMPLES)
    found = measured(folder, QUICKSTART / "tokenizer.json", texts, workers=1)
    manifest = json.loads((folder / "out" / "pretrain-4096" / "manifest.json").read_text())
    assert manifest["mixture"]["total"]["samples"] == len(texts) == SAMPLES
    size = sum(shard["bytes"] for shard in manifest["shards"])
    assert size > sum(len(images[i % len(images)][1]) for i in range(SAMPLES))
    assert size == sum(path.stat().st_size for path in (folder / "copy").iterdir())
    steps = [taken for name, taken in found.items() if name not in ("all", "tokenise", "copy")]
    assert set(found) >= {"start-up", "scan", "filter", "count", "fit", "write", "tokenise", "copy"}
    assert np.sum(steps, axis=0) == pytest.approx(found["all"])
    assert all((taken >= 0).all() for taken in steps)
    assert table(found, SAMPLES, size, 1).row_count == len(steps) + 6


def test_captions_are_real_words_of_many_lengths() -> None:
    texts = [text for text, _ in zip(captions(), range(500), strict=False)]
    lengths = {len(text.split()) for text in texts}
    assert (min(lengths), max(lengths)) == (8, 59)
    assert len({word for text in texts for word in text.split()}) > 500
