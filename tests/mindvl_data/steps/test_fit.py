"""What does not fit a pack: where it may be cut, and what is left."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindvl_data.steps.fit import truncated

PAD, START, END = 5, 3, 4


@given(blocks=st.lists(st.integers(1, 9) | st.none(), min_size=1, max_size=20), seq_len=st.integers(1, 60))
def test_a_cut_leaves_whole_images_and_as_much_as_fits(blocks: list[int | None], seq_len: int) -> None:
    ids, vision = [], []
    for block in blocks:
        ids += [9] if block is None else [START, PAD, END]
        vision += [] if block is None else [block]
    kept, images = truncated(np.array(ids, np.int32), np.array(vision, np.int64), seq_len, PAD)
    rest = ids[:kept]
    assert rest.count(PAD) == rest.count(START) == rest.count(END) == images
    length = kept - images + sum(vision[:images])
    assert length <= seq_len
    if kept < len(ids):
        following = 1 if ids[kept] == 9 else 2 + vision[images]
        assert length + following > seq_len


@pytest.mark.parametrize(("seq_len", "expected"), [(1, (1, 0)), (7, (1, 0)), (8, (4, 1)), (9, (5, 1)), (99, (5, 1))])
def test_an_image_counts_with_its_frame(seq_len: int, expected: tuple[int, int]) -> None:
    ids = np.array([9, START, PAD, END, 9], np.int32)
    assert truncated(ids, np.array([5]), seq_len, PAD) == expected
