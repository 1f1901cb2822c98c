"""Random words: pinned for ever, since packs, draws and splits of sets that were built come from them."""

import hashlib

import numpy as np
import pytest

from mindvl_data.random_words import hashed, shuffle, words

MASK = 2**64 - 1


def splitmix64(value: int) -> int:
    """The finaliser in Python's own integers."""
    z = value + 0x9E3779B97F4A7C15 & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


@pytest.mark.parametrize(("seed", "name"), [(0, ""), (7, "sft-4096"), (-1, "ä\0steps")])
def test_words_are_a_hash_of_seed_name_and_index(seed: int, name: str) -> None:
    key = int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8], "little")
    assert words(50, seed, name).tolist() == [splitmix64(index ^ key) for index in range(50)]
    values = np.array([3, 2**64 - 1], np.uint64)
    assert hashed(values, seed, name).tolist() == [splitmix64(value ^ key) for value in values.tolist()]


def test_the_first_words_and_a_shuffle_are_pinned() -> None:
    assert words(2, 0, "a").tolist() == [9427622463111462495, 4546850249014749319]
    assert shuffle(8, 0, "a").tolist() == [7, 5, 1, 4, 3, 0, 6, 2]


def test_fewer_words_are_the_first_of_more_and_none_comes_twice() -> None:
    many = words(100_000, 1, "x")
    assert np.array_equal(words(100, 1, "x"), many[:100])
    assert len(np.unique(many)) == len(many)


def test_names_and_seeds_draw_independently() -> None:
    columns = np.stack([words(100_000, 1, "x"), words(100_000, 2, "x"), words(100_000, 1, "y")]) / 2.0**64
    assert np.abs(columns.mean(axis=1) - 0.5).max() < 0.005
    assert np.abs(np.corrcoef(columns) - np.eye(3)).max() < 0.02


def test_a_shuffle_leaves_no_trace_of_the_places() -> None:
    order = shuffle(100_000, 3, "x")
    assert np.array_equal(np.sort(order), np.arange(100_000))
    assert abs(np.corrcoef(order, np.arange(100_000))[0, 1]) < 0.02
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.02
