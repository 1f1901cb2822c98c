"""Two processes, one without a picture: every parameter has a gradient to reduce, so nobody waits."""

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mindvl_data.shards import Pack
from mindvl_train.batch import collate
from tests.mindvl_train.synthetic import LAYOUT, image_sample, pack_of, text_sample, tiny_model


def _pack(rank: int) -> Pack:
    """Rank 0 sees a picture, rank 1 only text."""
    rng = np.random.default_rng(rank)
    return pack_of([image_sample(rng, (4, 4), 6)] if rank == 0 else [text_sample(rng, 12)], 16)


def _reduce_gradients(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model, batch = tiny_model(), collate([_pack(rank)], LAYOUT)
    divisor = torch.tensor(batch.total_weight)
    dist.all_reduce(divisor)
    (model(batch) / divisor).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        dist.all_reduce(parameter.grad)
    torch.save({name: parameter.grad for name, parameter in model.named_parameters()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_a_rank_without_images_does_not_hang_and_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    context = mp.spawn(_reduce_gradients, args=(str(tmp_path),), nprocs=2, join=False)
    while not context.join(timeout=60):
        pass
    model, batch = tiny_model(), collate([_pack(0), _pack(1)], LAYOUT)
    (model(batch) / batch.total_weight).backward()
    for rank in (0, 1):
        reduced = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(reduced[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)
