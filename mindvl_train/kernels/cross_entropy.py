"""The loss of every target token, from the hidden states that predict them.

The language-model head is part of the operation, so that an implementation may go without the whole logits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mindvl_train.kernels.registry import KernelSpec

# Targets; 0.6 GB of float32 logits over Qwen's vocabulary.
CHUNK = 1024


def reference(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(hidden · headᵀ)[target], with all logits in memory, in float32.

    Args:
        hidden: [L, D], the last hidden states at the positions that predict a target.
        head: [V, D], the weight of the language-model head.
        targets: [L] int64.

    Returns:
        [L] float32, in nats; the caller weighs and sums them.
    """
    return F.cross_entropy(F.linear(hidden, head).float(), targets, reduction="none")


def chunked(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """The same with the logits of `CHUNK` targets in memory at a time; they are computed again for gradients.

    Args and returns are those of `reference`.
    """
    losses = [
        checkpoint(reference, rows, head, chunk, use_reentrant=False)
        for rows, chunk in zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True)
    ]
    return torch.cat(losses)


REFERENCE = KernelSpec(devices=frozenset(), load=lambda: reference)
CHUNKED = KernelSpec(devices=frozenset(), load=lambda: chunked)
