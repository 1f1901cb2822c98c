"""Levels normalised on the device are the patches of the published processor."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data import vision
from mindvl_data.vision import CLIP
from mindvl_data.vision.resize import QWEN2_VL, QWEN3_VL
from mindvl_train.data.batch import collate
from mindvl_train.data.uint8_patches import normalise
from tests.mindvl_data.packs import png
from tests.mindvl_train.synthetic import LAYOUT, mixed_packs


@given(seed=st.integers(0, 99), width=st.integers(20, 300), height=st.integers(20, 300))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("rule", [QWEN2_VL, QWEN3_VL], ids=["qwen2-vl", "qwen3-vl"])
def test_levels_become_the_patches_of_decode(rule: vision.Resolution, seed: int, width: int, height: int) -> None:
    data = png(seed, (width, height))
    _, h, w = vision.patch_grid(width, height, rule)
    levels = vision.uint8_patches(data, h, w, rule.patch, rule.merge)
    patches = vision.decode(data, h, w, rule.patch, rule.merge, normalisation=rule.normalisation)
    assert np.abs(normalise(torch.from_numpy(levels), rule.normalisation).numpy() - patches).max() < 1e-6


@pytest.mark.parametrize("normalisation", [CLIP, QWEN3_VL.normalisation])
def test_a_batch_of_levels_becomes_the_batch(normalisation: vision.Normalisation) -> None:
    packs, layout = mixed_packs(4, 24), replace(LAYOUT, normalisation=normalisation)
    whole, levels = collate(packs, layout), collate(packs, layout, pixels="levels")
    assert levels.patches.nbytes * 8 == whole.patches.nbytes
    assert torch.equal(levels.pixels, levels.to(torch.device("cpu")).patches)
    moved = levels.to(torch.device("cpu"))
    torch.testing.assert_close(moved.patches, whole.patches, atol=1e-6, rtol=0)
    assert torch.equal(moved.ids, whole.ids)
