"""Duplicates on arrays: every search beside comparing all with all."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mindvl_data.steps.dedup import Pictures, image_keys, kept_of, near_pictures, near_texts, ranks, same, same_as
from mindvl_data.steps.dedup import texts as text_search
from mindvl_data.steps.dedup.texts import rows_per_band
from mindvl_data.steps.scores.minhash import text_minhash
from mindvl_data.tables import columns
from mindvl_data.tables.columns import SpilledColumn
from mindvl_data.tables.store import starts_of


def groups(count: int, pairs: list[tuple[int, int]]) -> list[frozenset[int]]:
    """What pairs connect, by merging sets one pair at a time."""
    of = {i: {i} for i in range(count)}
    for one, other in pairs:
        merged = of[one] | of[other]
        for i in merged:
            of[i] = merged
    return [frozenset(of[i]) for i in range(count)]


@settings(deadline=None)
@given(st.integers(1, 30), st.data())
def test_of_what_pairs_connect_the_best_ranked_stays(count: int, data: st.DataObject) -> None:
    number = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.tuples(number, number), max_size=40))
    rank = np.array(data.draw(st.permutations(range(count))))
    left, right = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    expected = [min(group, key=lambda i: rank[i]) for group in groups(count, pairs)]
    assert kept_of(count, left, right, rank).tolist() == expected


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(0, 2), max_size=3), min_size=1, max_size=20))
def test_samples_are_the_same_when_their_images_are_in_their_order(samples: list[list[int]]) -> None:
    digests = np.array([[image] * 32 for images in samples for image in images], np.uint8).reshape(-1, 32)
    keys = image_keys(digests, starts_of(np.array([len(images) for images in samples])))
    left, right = same(keys)
    found = groups(len(samples), list(zip(left.tolist(), right.tolist(), strict=True)))
    assert found == [frozenset(j for j, b in enumerate(samples) if a == b) for a in samples]
    half = len(samples) // 2
    expected = [next((j for j, b in enumerate(samples[:half]) if a == b), -1) for a in samples[half:]]
    assert same_as(keys[half:], keys[:half]).tolist() == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=20))
def test_keys_that_share_one_word_are_not_the_same(keys: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "CHUNK", 6)
        left, right = same(np.array(keys, np.uint64))
    found = groups(len(keys), list(zip(left.tolist(), right.tolist(), strict=True)))
    assert found == [frozenset(j for j, other in enumerate(keys) if key == other) for key in keys]


def hashes(seed: int, count: int, distance: int) -> NDArray[np.uint64]:
    """Random hashes, and for each another that differs in up to twice the distance."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 2**64, count, dtype=np.uint64)
    flips = [
        sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 2 * distance + 1), replace=False)) for _ in first
    ]
    return np.concatenate([first, first ^ np.array(flips, np.uint64)])


@pytest.mark.parametrize("distance", [0, 1, 3, 6])
def test_pictures_within_a_distance_are_all_found_and_no_others(distance: int) -> None:
    found = hashes(distance, 300, distance)
    pictures = Pictures(found, np.arange(len(found) + 1))
    left, right = near_pictures(pictures, distance)
    all_pairs = np.bitwise_count(found[:, None] ^ found[None]) <= distance
    expected = groups(len(found), [(int(i), int(j)) for i, j in np.argwhere(all_pairs)])
    assert groups(len(found), list(zip(left.tolist(), right.tolist(), strict=True))) == expected
    one, other = Pictures(found[:300], np.arange(301)), Pictures(found[300:], np.arange(301))
    between = {(int(i), int(j)) for i, j in np.argwhere(all_pairs[:300, 300:])}
    assert set(zip(*(side.tolist() for side in near_pictures(one, distance, other)), strict=True)) == between


def test_samples_of_several_pictures_are_near_when_all_of_them_are() -> None:
    a, b, near_a, c = (np.uint64(v) for v in (0, 2**64 - 1, 5, 0xFFFF0000FFFF0000))
    samples = [[a, b], [near_a, b], [b, a], [a], [a, c], [near_a]]
    pictures = Pictures(np.concatenate(samples), starts_of(np.array([len(s) for s in samples])))
    pairs = set(zip(*(side.tolist() for side in near_pictures(pictures, 2)), strict=True))
    assert {frozenset(pair) for pair in pairs} == {frozenset((0, 1)), frozenset((3, 5))}


def test_texts_of_a_similarity_are_found_up_to_what_is_estimated() -> None:
    rng = np.random.default_rng(0)
    words = ["".join(chr(97 + c) for c in rng.integers(0, 26, 6)) for _ in range(400)]
    texts = [" ".join(words[i] for i in rng.integers(0, 400, 40)) for _ in range(60)]
    texts += [" ".join(text.split()[: 40 - 3 * (i % 9)]) for i, text in enumerate(texts)]
    signatures = np.stack([np.frombuffer(s, np.uint32) for s in text_minhash(pl.Series(texts)).to_list()])
    pieces = [{text[i : i + 5] for i in range(len(text) - 4)} for text in texts]
    true = np.array([[len(a & b) / len(a | b) for b in pieces] for a in pieces])
    estimated = (signatures[:, None] == signatures[None]).mean(axis=2)
    assert np.abs(estimated - true).max() < 0.2
    assert np.sqrt(((estimated - true) ** 2).mean()) < 0.02
    left, right = near_texts(signatures, 0.7)
    pairs = {(min(i, j), max(i, j)) for i, j in zip(left.tolist(), right.tolist(), strict=True)}
    asked = {(int(i), int(j)) for i, j in np.argwhere(np.triu(estimated >= 0.7, 1))}
    assert pairs <= asked
    assert len(pairs) >= 0.9 * len(asked) > 10
    assert {(i, j) for i, j in asked if true[i, j] > 0.8} <= pairs
    between = near_texts(signatures[:60], 0.7, signatures[60:])
    assert {(i, j + 60) for i, j in zip(*(side.tolist() for side in between), strict=True)} <= asked


def test_texts_are_compared_alike_whatever_is_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    signatures = rng.integers(0, 3, (40, 128), dtype=np.uint32)
    signatures[20:] = signatures[:20]
    signatures[20:, :20] = 7
    column = SpilledColumn(tmp_path, np.uint32, 128)
    column.append(signatures)
    whole = near_texts(signatures, 0.7)
    assert len(whole[0]) >= 20
    monkeypatch.setattr(columns, "CHUNK", 7)
    monkeypatch.setattr(text_search, "PAIRS", 3)
    parts = near_texts(column.values(), 0.7)
    assert all(np.array_equal(one, other) for one, other in zip(parts, whole, strict=True))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["", " ", ".", "a", "ab cd", "AB  CD", "ab\ncd", "一只狗"]), min_size=1, max_size=9))
def test_case_and_white_space_are_no_difference_and_nothing_said_has_no_signature(texts: list[str]) -> None:
    found = text_minhash(pl.Series(texts)).to_list()
    plain = [" ".join(text.lower().split()) for text in texts]
    assert [s is None for s in found] == [not any(c.isalnum() for c in text) for text in texts]
    for one, text in zip(found, plain, strict=True):
        assert [other == one for other in found if one] == [other == text for other in plain if one]


def test_bands_miss_few_of_the_pairs_asked_for() -> None:
    for similarity in (0.5, 0.55, 0.7, 0.9):
        rows = rows_per_band(similarity, 128)
        assert (1 - similarity**rows) ** (128 // rows) <= 0.05


def test_what_stays_is_the_preferred_then_the_first_source_then_the_smallest_id() -> None:
    ids = np.array([[3] * 16, [1] * 16, [2] * 16, [0] * 16], np.uint8)
    source = np.array([0, 0, 1, 1])
    assert np.argsort(ranks(None, source, ids)).tolist() == [1, 0, 3, 2]
    assert np.argsort(ranks(np.array([0.1, np.nan, 0.9, 0.1]), source, ids)).tolist() == [2, 0, 3, 1]
