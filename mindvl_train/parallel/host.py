"""What ranks tell each other about a step: a few numbers and words on the host, over gloo.

No pickle, and no order but that of the ranks: every rank computes the same sums from the same rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from mindvl_data.errors import UserError


def gather(row: list[float]) -> list[list[float]]:
    """The rows of all ranks, in float64; they are equally long."""
    rows = [torch.empty(len(row), dtype=torch.float64) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, torch.tensor(row, dtype=torch.float64))
    return [each.tolist() for each in rows]


def total(value: float) -> float:
    """The sum over all ranks."""
    return sum(row[0] for row in gather([value]))


def gather_words(words: str, group: dist.ProcessGroup | None = None) -> list[str]:
    """What every rank says; `group`: one that speaks gloo, when the default one may be in use."""
    said = torch.tensor(list(words.encode()), dtype=torch.uint8)
    lengths = [torch.empty(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([len(said)]), group=group)
    longest = int(max(lengths))
    heard = [torch.zeros(longest, dtype=torch.uint8) for _ in lengths]
    dist.all_gather(heard, torch.nn.functional.pad(said, (0, longest - len(said))), group=group)
    return [bytes(each[: int(length)].tolist()).decode() for each, length in zip(heard, lengths, strict=True)]


class ElsewhereError(UserError):
    """Another rank has failed, and says why."""


def agree(error: UserError | None) -> None:
    """Raises on all ranks what one of them has met, so that none waits for it in vain."""
    heard = gather_words(str(error) if error else "")
    if error:
        raise error
    for rank, words in enumerate(heard):
        if words:
            raise ElsewhereError(f"rank {rank}: {words}")


@contextmanager
def together() -> Iterator[None]:
    """What one rank does for all: if it fails, all fail."""
    problem: UserError | None = None
    try:
        yield
    except UserError as error:
        problem = error
    agree(problem)
