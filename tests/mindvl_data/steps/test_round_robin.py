"""Capabilities that choose in turns over their styles."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.steps.round_robin import chosen, ranking, styles_of, ties


def pick(scores: list[list[float]], said: list[str | None], target: int) -> list[int]:
    rank = np.arange(len(said), dtype=np.int32)
    found = styles_of(pl.Series(said, dtype=pl.String), None)
    return np.flatnonzero(chosen([ranking(np.array(s), 0, rank) for s in scores], found, target)).tolist()


def test_a_round_by_hand() -> None:
    # Three each. The first capability may choose 0 1 2 6: of each style one, 6 and 0. The second 3 4 7: 7 and 3.
    # Two are left, one each: 1 and 4.
    first, second = [5, 4, 3, 0, 0, 0, 2, 0], [5, 0, 0, 4, 3, 0, 0, 1]
    said = ["a", "a", "a", "a", "a", "a", "b", "b"]
    assert pick([first, second], said, 6) == [0, 1, 3, 4, 6, 7]
    # The rarer style has one of the two that are its; its debt is the other's.
    assert pick([[5, 4, 3, 2, 1]], ["a", "a", "a", "a", "b"], 4) == [0, 1, 2, 4]


def test_a_sample_of_two_styles_stands_in_both_and_is_chosen_once() -> None:
    assert pick([[3, 2, 1]], ["a, b", "a", "b,, b"], 2) == [0, 2]
    assert pick([[3, 2, 1]], ["a, b", "a", "b"], 3) == [0, 1, 2]


def test_what_no_capability_scores_or_has_no_style_is_not_chosen() -> None:
    assert pick([[1, float("nan"), 0, 2]], ["a", "a", "a", None], 4) == [0]
    assert pick([[0, 0]], ["a", "a"], 2) == []
    assert pick([], ["a", "a"], 2) == []
    assert pick([[1, 1]], ["a", ""], 0) == []


def test_styles_of_other_origins_are_others() -> None:
    found = styles_of(pl.Series(["a", "a, b", None, "a"]), pl.Series(["x", "x", "y", "y"]))
    assert found.starts.tolist() == [0, 1, 3, 3, 4]
    assert found.codes.tolist() == [0, 0, 2, 1]


def test_the_published_code_chooses_the_same() -> None:
    # `llava/select/mmssr.py` of lyumengyao/mmssr at 3a7e662, with both its sorts made stable, chose these.
    rng = np.random.default_rng(3)
    scores = [np.round(rng.permutation(60) / 60 * 5 + 0.001, 6) for _ in range(3)]
    for values in scores:
        values[rng.random(60) < 0.3] = 0
    said = [rng.choice(["x", "y", "z", "w"], rng.integers(1, 2), replace=False).tolist()[0] for _ in range(60)]
    origin = rng.choice(["p", "q"], 60).tolist()
    rank = np.arange(60, dtype=np.int32)
    found = styles_of(pl.Series(said), pl.Series(origin))
    mine = chosen([ranking(values, 0, rank) for values in scores], found, 30)
    assert np.flatnonzero(mine).tolist() == PUBLISHED


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 4), st.floats(0, 1))
def test_as_many_stay_as_there_are_to_choose_whatever_the_samples_order(
    seed: int, n: int, capabilities: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, (capabilities, n)).astype(float)
    said = pl.Series(rng.choice(["a", "b", "a, b", ""], n).tolist())
    ids = rng.integers(0, 256, (n, 16), dtype=np.uint8)
    target = int(n * share)

    def one(order: np.ndarray) -> np.ndarray:
        rank = ties(ids[order], 5)
        rankings = [ranking(values[order], 0, rank) for values in scores]
        return chosen(rankings, styles_of(said.gather(order), None), target)

    straight = one(np.arange(n))
    possible = (scores > 0).any(axis=0) & (said != "").to_numpy()
    assert straight.sum() == min(target, possible.sum())
    assert not (straight & ~possible).any()
    order = rng.permutation(n)
    assert np.array_equal(one(order), straight[order])


PUBLISHED = [2, 3, 9, 10, 13, 14, 17, 18, 20, 21, 22, 24, 26, 27, 31, 33, 35, 36, 37, 38, 39, 42, 44, 48, 49, 52, 53]
PUBLISHED += [55, 56, 58]
