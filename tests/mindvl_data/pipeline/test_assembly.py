"""Where each draw went: by sample id, with shard, pack and range, however few are sorted or summed at a time."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mindvl_data.packing import Packs
from mindvl_data.pipeline import assembly
from mindvl_data.steps.mix import Draw

SAMPLES, DRAWS = 40, 90


@pytest.fixture
def built() -> tuple[Any, Any, Draw, Packs]:
    """A corpus and weights of what `draws_of` reads, several draws of a sample, and packs of one to five of them."""
    rng = np.random.default_rng(0)
    corpus = SimpleNamespace(sample_ids=rng.integers(0, 256, (SAMPLES, 16), dtype=np.uint8))
    weights = SimpleNamespace(tokens=rng.integers(1, 50, SAMPLES).astype(np.int32))
    samples = np.concatenate([np.arange(SAMPLES), np.arange(SAMPLES), np.arange(DRAWS - 2 * SAMPLES)])
    draw = Draw(samples, (np.arange(DRAWS) // SAMPLES).astype(np.int16))
    offsets = np.unique(np.concatenate([np.arange(0, DRAWS, 5), rng.integers(0, DRAWS, 30), [0, DRAWS]]))
    return corpus, weights, draw, Packs(rng.permutation(DRAWS), offsets, 0)


def expected(corpus: Any, weights: Any, draw: Draw, packs: Packs, first_packs: list[int]) -> list[tuple[Any, ...]]:
    rows = []
    for pack in range(len(packs)):
        start = 0
        for number in packs.index[packs.offsets[pack] : packs.offsets[pack + 1]]:
            sample = draw.samples[number]
            stop = start + int(weights.tokens[sample])
            shard = max(i for i, first in enumerate(first_packs) if first <= pack)
            rows.append((bytes(corpus.sample_ids[sample]), int(draw.repeats[number]), shard, pack, start, stop))
            start = stop
    return sorted(rows)


@pytest.mark.parametrize(("chunk", "block"), [(1 << 20, 1 << 16), (30, 7), (1, 1)])
def test_draws_are_told_by_sample_id(
    built: tuple[Any, Any, Draw, Packs], monkeypatch: pytest.MonkeyPatch, chunk: int, block: int
) -> None:
    monkeypatch.setattr(assembly, "CHUNK", chunk)
    monkeypatch.setattr(assembly, "BLOCK", block)
    first_packs = [0, 4, 11]
    parts = list(assembly.draws_of(*built, first_packs))
    assert len(parts) == {1 << 20: 1, 30: 4, 1: 128}[chunk]
    rows = [
        (bytes(uid), *map(int, rest))
        for part in parts
        for uid, *rest in zip(*(part[name] for name in part), strict=True)
    ]
    assert rows == expected(*built, first_packs)
    assert [part["start"].dtype for part in parts] == [np.dtype(np.int32)] * len(parts)
