"""Greedy continuation of one prompt: for a look at what a model says, not for serving.

Every step runs the whole stream again, without a cache: a few answers of a few tokens need no second way through
the model that would have to be proven equal to the first.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mindvl_data.shards import Pack
from mindvl_train.data.batch import Batch, BatchLayout, collate
from mindvl_train.kernels.segments import Segments


def generate(
    model: Any, prompt: Pack, layout: BatchLayout, device: torch.device, stop: Collection[int], limit: int
) -> list[int]:
    """The likeliest tokens after a prompt, up to and without the first of `stop`.

    Args:
        model: has `image_features` and `next_token`, as `VLM` does.
        prompt: one sample that ends with text, with its images' bytes.
        layout: how packs become batches.
        device: where the model is.
        stop: ids that end an answer.
        limit: of new tokens.
    """
    batch = collate([prompt], layout).to(device)
    said: list[int] = []
    with torch.no_grad():
        features = model.image_features(batch)
        while len(said) < limit:
            token = int(model.next_token(batch, features))
            if token in stop:
                break
            said.append(token)
            batch = _longer(batch, token)
    return said


def prompt_of(sample: Pack, stop: int) -> Pack:
    """The sample's first `stop` tokens, without a loss."""
    return replace(
        sample,
        tokens=sample.tokens[:stop],
        loss_mask=sample.loss_mask[:stop] & False,
        cu_seqlens=np.array([0, stop], np.int32),
        num_tokens=stop,
        images=tuple(image for image in sample.images if image.start < stop),
    )


def _longer(batch: Batch, token: int) -> Batch:
    """The batch with one more token of text at the end of its only segment."""
    return replace(
        batch,
        ids=_and(batch.ids, token),
        # Text goes on by one in every axis.
        positions=torch.cat([batch.positions, batch.positions[..., -1:] + 1], dim=-1),
        segments=Segments.of([len(batch.ids) + 1]),
        real=_and(batch.real, len(batch.ids)),
        num_tokens=batch.num_tokens + 1,
    )


def _and(tensor: Tensor, value: int) -> Tensor:
    return torch.cat([tensor, tensor.new_tensor([value])])
