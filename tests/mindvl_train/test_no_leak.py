"""Packed samples do not see each other, and nothing predicts a segment's first token."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_train.data.batch import collate
from tests.mindvl_train.synthetic import (
    LAYOUT,
    QWEN3_5,
    QWEN3_VISION,
    SHARED_EXPERT,
    VIDEO_PAD,
    Sample,
    image_sample,
    pack_of,
    text_sample,
    tiny_model,
    video_sample,
)

MODEL = tiny_model()
QWEN3 = tiny_model(vision=QWEN3_VISION, mrope_section=(2, 1, 1), mrope_interleaved=True)
LAYOUTS = [replace(LAYOUT, video_pad=VIDEO_PAD, position_axes=axes) for axes in (1, 3)]
# Less sharp: the norm behind the delta rule divides by what a first token hears of itself, which may be almost nothing.
SHARP = 3
KINDS = {
    "qwen2.5": (MODEL, LAYOUTS[0]),
    "qwen3-vl": (QWEN3, LAYOUTS[1]),
    "qwen3.5": (tiny_model(factor=SHARP, **QWEN3_5), LAYOUTS[1]),
    "qwen3.5-moe": (tiny_model(factor=SHARP, **QWEN3_5, moe=SHARED_EXPERT | {"aux_loss_coef": 0.0}), LAYOUTS[1]),
}


def _alone_and_packed(
    samples: list[Sample], kind: str = "qwen2.5", padding: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    model, layout = KINDS[kind]
    seq_len = sum(len(sample.tokens) for sample in samples) + padding
    with torch.no_grad():
        alone = [model.logits(collate([pack_of([sample])], layout)) for sample in samples]
        packed = model.logits(collate([pack_of(samples, seq_len)], layout))
    return torch.cat(alone), packed[: seq_len - padding]


SAMPLES = st.one_of(
    st.integers(1, 9),
    st.tuples(st.sampled_from([(2, 2), (2, 4), (4, 2), (4, 4)]), st.integers(1, 6)),
    st.tuples(st.sampled_from([(2, 2, 2), (3, 2, 4), (5, 4, 2)]), st.integers(1, 6)),
)
MAKE = {2: image_sample, 3: video_sample}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(shapes=st.lists(SAMPLES, min_size=1, max_size=5), padding=st.integers(0, 3), seed=st.integers(0, 99))
def test_logits_of_a_pack_are_those_of_its_samples_alone(
    kind: str, shapes: list[int | tuple[tuple[int, ...], int]], padding: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    samples = [
        text_sample(rng, shape) if isinstance(shape, int) else MAKE[len(shape[0])](rng, *shape) for shape in shapes
    ]
    alone, packed = _alone_and_packed(samples, kind, padding)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_pack_are_the_sums_of_those_of_its_samples_alone(kind: str) -> None:
    """Segments of one, two and three tokens among them: fewer than a filter of the short convolution sees."""
    model, layout = KINDS[kind]
    rng = np.random.default_rng(6)
    samples = [text_sample(rng, length) for length in (5, 1, 2, 3, 70, 2)] + [image_sample(rng, (4, 4), 4)]
    found = []
    for packs in ([samples], [[sample] for sample in samples]):
        model.zero_grad()
        for pack in packs:
            model(collate([pack_of(pack)], layout)).backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    packed, alone = found
    off = {name: float((packed[name] - each).norm() / each.norm().clamp(min=1e-30)) for name, each in alone.items()}
    assert max(off.values()) <= 1e-5, {name: each for name, each in off.items() if each > 1e-5}


@pytest.mark.parametrize("image", [False, True])
def test_segments_of_equal_length_do_not_leak(image: bool) -> None:
    rng = np.random.default_rng(1)
    make = (lambda: image_sample(rng, (4, 4), 5)) if image else (lambda: text_sample(rng, 11))
    alone, packed = _alone_and_packed([make() for _ in range(4)])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


def test_two_packs_in_one_batch_do_not_leak() -> None:
    rng = np.random.default_rng(2)
    packs = [pack_of([text_sample(rng, 7), image_sample(rng, (2, 4), 3)], 24, index) for index in range(2)]
    with torch.no_grad():
        alone = torch.cat([MODEL.logits(collate([pack], LAYOUT)) for pack in packs])
        together = MODEL.logits(collate(packs, LAYOUT))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_comparison_would_notice_a_leak(kind: str) -> None:
    """The model is sharp enough: without boundaries the logits are far from those of the samples alone."""
    model, layout = KINDS[kind]
    rng = np.random.default_rng(3)
    samples = [text_sample(rng, 11) for _ in range(3)]
    alone, _ = _alone_and_packed(samples, kind)
    one = Sample(
        np.concatenate([sample.tokens for sample in samples]),
        np.concatenate([sample.loss_mask for sample in samples]),
        (),
    )
    with torch.no_grad():
        leaked = model.logits(collate([pack_of([one])], layout))
    assert (leaked[11:] - alone[11:]).abs().max() > 0.1


def test_the_picture_reaches_the_logits() -> None:
    rng = np.random.default_rng(4)
    first, second = image_sample(rng, (4, 4), 5), image_sample(rng, (4, 4), 5)
    exchanged = Sample(first.tokens, first.loss_mask, second.images)
    with torch.no_grad():
        logits = [MODEL.logits(collate([pack_of([sample])], LAYOUT)) for sample in (first, exchanged)]
    assert (logits[0] - logits[1]).abs().max() > 0.01
