"""A store written a batch at a time is the store of all of them, and holds no more than a batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.steps.scan import records
from mindvl_data.tables.store import IMAGE, Store, open_store, starts_of
from mindvl_data.tables.store_writer import StoreWriter
from tests.mindvl_data.crawl import built, crawl


def batch(lengths: list[int], weight: float | None, seed: int) -> Store:
    """Samples of these lengths, each with an image."""
    rng, count, tokens = np.random.default_rng(seed), len(lengths), sum(lengths)
    images = np.zeros(count, IMAGE)
    images["uri"] = rng.integers(0, 2, count)
    return Store(
        sample_ids=rng.integers(0, 256, (count, 16), np.uint8),
        ids=rng.integers(0, 1000, tokens).astype(np.int32),
        loss=rng.integers(0, 2, tokens).astype(bool),
        starts=starts_of(np.array(lengths, np.int64)),
        loss_tokens=rng.integers(0, 9, count).astype(np.int32),
        images=images,
        image_starts=np.arange(count + 1),
        text_hash=rng.integers(0, 256, (count, 32), np.uint8),
        uris=[f"b{seed % 3}", "a"],
        weights=None if weight is None else np.full(tokens, weight, np.float32),
    )


BATCHES = st.lists(
    st.tuples(st.lists(st.integers(0, 5), max_size=4), st.sampled_from([None, 1.0, 0.5])), min_size=0, max_size=5
)


@settings(deadline=None, max_examples=40)
@given(BATCHES)
def test_a_store_of_batches_is_that_of_all(tmp_path_factory: pytest.TempPathFactory, made: list[Any]) -> None:
    batches = [batch(lengths, weight, seed) for seed, (lengths, weight) in enumerate(made)]
    folder = tmp_path_factory.mktemp("store") / "one"
    with StoreWriter(folder) as writer:
        for one in batches:
            writer.add(one)
    found = open_store(folder)
    for name in ("ids", "loss", "sample_ids", "loss_tokens", "text_hash"):
        whole = np.concatenate([getattr(found, name)[:0], *(getattr(one, name) for one in batches)])
        assert (getattr(found, name) == whole).all()
        assert getattr(found, name).dtype == whole.dtype
    lengths = [length for one, _ in made for length in one]
    assert np.diff(found.starts).tolist() == lengths
    assert [found.uris[i] for i in found.images["uri"]] == [b.uris[i] for b in batches for i in b.images["uri"]]
    weighted = any(weight == 0.5 and sum(one) for one, weight in made)
    assert (found.weights is not None) == weighted
    if found.weights is not None:
        assert found.weights.tolist() == [weight or 1.0 for one, weight in made for _ in range(sum(one))]


def test_a_file_of_long_texts_is_counted_a_little_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crawl(tmp_path / "crawl.parquet", [{"caption": f"{i} " + "word " * 200} for i in range(40)])
    whole = built(tmp_path)
    monkeypatch.setattr(records, "BATCH_CHARS", 3000)
    most: list[int] = []
    add = StoreWriter.add

    def noted(writer: StoreWriter, one: Store) -> None:
        most.append(len(one))
        add(writer, one)

    monkeypatch.setattr(StoreWriter, "add", noted)
    parts = built(tmp_path, tmp_path / "parts")
    assert sum(most) == 40
    assert max(most) <= 4
    for name in ("manifest.json", "shard-00000.arrow"):
        assert (whole.out / "only-256" / name).read_bytes() == (parts.out / "only-256" / name).read_bytes()
