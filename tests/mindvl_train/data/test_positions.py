"""Positions of packed samples are those that transformers computes for each of them alone."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

from mindvl_train.data.positions import multimodal_positions
from mindvl_train.kernels.segments import Segments

TEXT, IMAGE, VIDEO = 0, 1, 2
MERGE = 2
SIDES = st.integers(1, 4).map(lambda side: MERGE * side)


@dataclass(frozen=True)
class Part:
    """So much text, and an image or a video of this grid behind it; the seconds are None of an image."""

    text: int
    grid: tuple[int, int, int]
    seconds: float | None

    @property
    def tokens(self) -> int:
        return int(np.prod(self.grid)) // MERGE**2


IMAGES = st.builds(Part, st.integers(1, 4), st.tuples(st.just(1), SIDES, SIDES), st.none())
VIDEOS = st.builds(Part, st.integers(1, 4), st.tuples(st.integers(1, 5), SIDES, SIDES), st.floats(0.0625, 9, width=32))
SAMPLES = st.lists(st.one_of(IMAGES, VIDEOS), max_size=3)


def _theirs(sample: list[Part], after: int, tokens_per_second: int) -> torch.Tensor:
    """[3, T] of one sample with `after` tokens of text at its end."""
    vision = SimpleNamespace(spatial_merge_size=MERGE, tokens_per_second=tokens_per_second)
    model = SimpleNamespace(config=SimpleNamespace(vision_config=vision))
    model.get_vision_position_ids = lambda *args, **named: Qwen2_5_VLModel.get_vision_position_ids(
        model, *args, **named
    )
    kinds = [
        kind
        for part in sample
        for kind in [TEXT] * part.text + [IMAGE if part.seconds is None else VIDEO] * part.tokens
    ] + [TEXT] * after
    videos = [part for part in sample if part.seconds is not None]
    positions, _ = Qwen2_5_VLModel.get_rope_index(
        model,
        torch.zeros(1, len(kinds), dtype=torch.int64),
        torch.tensor([kinds]),
        image_grid_thw=torch.tensor([part.grid for part in sample if part.seconds is None]),
        video_grid_thw=torch.tensor([part.grid for part in videos]),
        second_per_grid_ts=torch.tensor([part.seconds for part in videos]),
    )
    return positions[:, 0]


@settings(max_examples=60, deadline=None)
@given(samples=st.lists(SAMPLES, min_size=1, max_size=3), after=st.integers(1, 3), rate=st.sampled_from([1, 2, 4, 25]))
def test_positions_are_those_of_every_sample_alone(samples: list[list[Part]], after: int, rate: int) -> None:
    starts, grids, intervals, lengths, end = [], [], [], [], 0
    for sample in samples:
        begin = end
        for part in sample:
            starts.append(end + part.text)
            grids.append(part.grid)
            intervals.append(1.0 if part.seconds is None else rate * part.seconds)
            end += part.text + part.tokens
        end += after
        lengths.append(end - begin)
    ours = multimodal_positions(Segments.of(lengths), starts, grids, MERGE, intervals)
    theirs = torch.cat([_theirs(sample, after, rate) for sample in samples], dim=1)
    assert torch.equal(torch.from_numpy(ours), theirs)
