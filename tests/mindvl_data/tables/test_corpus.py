"""The corpus: the columns of several stores in a row."""

from pathlib import Path

import numpy as np
import pytest

from mindvl_data.steps.fit import image_bytes, weigh
from mindvl_data.tables import columns
from mindvl_data.tables.corpus import Corpus, from_stores
from mindvl_data.tables.store import IMAGE, Store, starts_of
from mindvl_data.vision import Resolution

# Of each sample the bytes of its images.
FIRST, SECOND = [[10], [], [20, 30]], [[], [40, 50, 60]]


def store(samples: list[list[int]], seed: int) -> Store:
    rng = np.random.default_rng(seed)
    sizes = [size for images in samples for size in images]
    table = np.zeros(len(sizes), IMAGE)
    table["size"], table["width"], table["height"] = sizes, 56, 28
    table["sha256"] = rng.integers(0, 256, (len(sizes), 32), np.uint8)
    lengths = np.array([4 + len(images) for images in samples])
    return Store(
        sample_ids=rng.integers(0, 256, (len(samples), 16), np.uint8),
        ids=np.zeros(int(lengths.sum()), np.int32),
        loss=np.zeros(int(lengths.sum()), bool),
        starts=starts_of(lengths),
        loss_tokens=np.arange(len(samples), dtype=np.int32),
        images=table,
        image_starts=starts_of(np.array([len(images) for images in samples])),
        text_hash=rng.integers(0, 256, (len(samples), 32), np.uint8),
        uris=[],
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return from_stores(("a", "b"), ["b", "a"], [store(FIRST, 1), store(SECOND, 2)], tmp_path)


def test_stores_stand_one_after_another(corpus: Corpus) -> None:
    assert corpus.source.tolist() == [1, 1, 1, 0, 0]
    assert corpus.num_ids.tolist() == [5, 4, 6, 4, 7]
    assert corpus.image_starts.tolist() == [0, 1, 1, 3, 3, 6]
    assert corpus.size.tolist() == [10, 20, 30, 40, 50, 60]
    assert corpus.content_starts.tolist() == [0, 1, 2, 4, 5, 8]
    assert corpus.content[1].tobytes() == store(FIRST, 1).text_hash[1, :8].tobytes()
    assert [corpus.place(sample) for sample in range(5)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_stores_without_samples_add_nothing(tmp_path: Path) -> None:
    found = from_stores(("a",), ["a", "a", "a"], [store([], 0), store(FIRST, 1), store([], 0)], tmp_path)
    assert found.starts.tolist() == [0, 0, 3, 3]
    assert found.image_starts.tolist() == [0, 1, 1, 3]


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_samples_are_weighed_alike_whatever_lies_in_a_chunk(
    corpus: Corpus, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "CHUNK", chunk)
    weights = weigh(corpus, Resolution(min_pixels=28 * 28))
    assert weights.num_images.tolist() == [1, 0, 2, 0, 3]
    assert weights.patches.tolist() == [8, 0, 16, 0, 24]
    assert weights.tokens.tolist() == [5 - 1 + 2, 4, 6 - 2 + 4, 4, 7 - 3 + 6]
    assert image_bytes(corpus, weights).tolist() == [10, 0, 50, 0, 150]
    weights.num_images[2:] = [1, 0, 2]  # as a cut leaves them
    assert image_bytes(corpus, weights).tolist() == [10, 0, 20, 0, 90]
