"""Greedy generation goes on as whole passes over the grown text would."""

import numpy as np
import pytest
import torch

from mindvl_data.shards import Pack
from mindvl_train.data.batch import BatchLayout, collate
from mindvl_train.models.generation import generate, prompt_of
from tests.mindvl_train.synthetic import LAYOUT, SPECIAL_IDS, image_sample, pack_of, text_sample, tiny_model

CPU = torch.device("cpu")


def extended(prompt: Pack, said: list[int]) -> Pack:
    tokens = np.concatenate([prompt.tokens, np.array(said, np.int32)])
    changes = {"tokens": tokens, "loss_mask": np.zeros(len(tokens), bool), "num_tokens": len(tokens)}
    return Pack(**{**vars(prompt), **changes, "cu_seqlens": np.array([0, len(tokens)], np.int32)})


@pytest.mark.parametrize("mrope", [None, [1, 1, 2]])
@pytest.mark.parametrize("image", [True, False])
def test_every_token_is_the_likeliest_after_all_before_it(image: bool, mrope: list[int] | None) -> None:
    rng = np.random.default_rng(2)
    sample = image_sample(rng, (4, 6), 5) if image else text_sample(rng, 8)
    layout = BatchLayout(**{**vars(LAYOUT), "position_axes": 3 if mrope else 1})
    model = tiny_model(**({"mrope_section": mrope} if mrope else {}))
    said = generate(model, pack_of([sample]), layout, CPU, stop=(), limit=6)
    assert len(said) == 6
    for count, token in enumerate(said):
        logits = model.logits(collate([extended(pack_of([sample]), said[:count])], layout))
        assert int(logits[-1].argmax()) == token


def test_a_stop_token_ends_it_and_is_not_said() -> None:
    prompt = pack_of([text_sample(np.random.default_rng(3), 8)])
    model = tiny_model()
    said = generate(model, prompt, LAYOUT, CPU, stop=(), limit=4)
    assert generate(model, prompt, LAYOUT, CPU, stop={said[2]}, limit=4) == said[: said.index(said[2])]


def test_a_prompt_is_the_beginning_of_a_sample() -> None:
    sample = pack_of([image_sample(np.random.default_rng(4), (2, 2), 5)])
    prompt = prompt_of(sample, 4)
    assert prompt.tokens.tolist() == sample.tokens[:4].tolist()
    assert prompt.images == sample.images
    assert prompt_of(sample, 1).images == ()
    assert prompt_of(sample, 1).tokens.tolist() == [SPECIAL_IDS["vision_start"]]
