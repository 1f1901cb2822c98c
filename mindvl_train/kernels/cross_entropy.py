"""The loss of every target token, from the hidden states that predict them.

The language-model head is part of the operation, so that an implementation may go without the whole logits.
"""

import torch.nn.functional as F
from torch import Tensor

from mindvl_train.kernels.registry import KernelSpec


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


REFERENCE = KernelSpec(devices=frozenset(), load=lambda: reference)
