"""Boundaries as tokens see them, whole and of a run of the stream."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_train.kernels.segments import Segments

CPU = torch.device("cpu")


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6), data=st.data())
def test_every_token_knows_its_segment_and_its_place_in_it(lengths: list[int], data: st.DataObject) -> None:
    segments = Segments.of(lengths)
    owners = [number for number, length in enumerate(lengths) for _ in range(length)]
    assert segments.owners(CPU).tolist() == owners
    assert segments.places(CPU).tolist() == [place for length in lengths for place in range(length)]
    start = data.draw(st.integers(0, len(owners) - 1))
    stop = data.draw(st.integers(start + 1, len(owners)))
    inside = segments.within(start, stop)
    assert inside.lengths == [owners[start:stop].count(owner) for owner in sorted(set(owners[start:stop]))]
