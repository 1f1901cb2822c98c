"""Two ranks, a real process each, killed while they save: the last good checkpoint is whole, and a run goes on from it.

Also on another number of ranks, to the losses of a run that nothing has disturbed.
"""

import multiprocessing as mp
import random
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from mindvl_data.shards import file_sha256
from mindvl_train.config.loading import load_config
from mindvl_train.loop.metrics import read_records
from mindvl_train.loop.run import train
from mindvl_train.weights.checkpoint import UNFINISHED, newest, read_state
from tests.mindvl_train.parallel.pool import PRELOADED
from tests.mindvl_train.short_runs import run_of
from tests.mindvl_train.synthetic import write_run

pytestmark = pytest.mark.slow

# A checkpoint a step, so that there is hardly a moment without one being written.
OVERRIDES = [
    "checkpoint.every_steps=1",
    "stages.everything.global_batch=2",
    "stages.everything.micro_batch=1",
    "stages.everything.until={packs: 48}",
]
DEADLINE = 60.0


def _rank(rank: int, ranks: int, meet: str, run_yaml: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=ranks)
    train(load_config(Path(run_yaml), OVERRIDES), run_yaml, Path(out))
    dist.destroy_process_group()


def _started(ranks: int, run_yaml: Path, out: Path, meet: Path) -> list[mp.process.BaseProcess]:
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    every = [
        context.Process(target=_rank, args=(rank, ranks, str(meet), str(run_yaml), str(out)), daemon=True)
        for rank in range(ranks)
    ]
    for each in every:
        each.start()
    return every


def _wait_for_saving(folder: Path, after: set[str], processes: list[mp.process.BaseProcess]) -> None:
    """Until a checkpoint is being written, and one more than `after` has been published."""
    deadline = time.monotonic() + DEADLINE
    while not ({path.name for path in folder.glob("step-*")} - after and any(folder.glob(f"{UNFINISHED}step-*"))):
        assert all(each.is_alive() for each in processes), "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def _step_of_newest(folder: Path) -> int:
    """Of the checkpoint that a run would go on from; all its files are what was hashed."""
    latest = newest(folder)
    assert latest is not None
    state = read_state(latest)
    assert {name: file_sha256(latest / name) for name in state["files"]} == state["files"]
    return int(state["progress"]["step"])


def _losses(out: Path) -> dict[tuple[str, int], float]:
    return {(r["event"], r["step"]): r["loss"] for r in read_records(out / "metrics.jsonl") if "loss" in r}


def test_a_rank_killed_while_it_saves_costs_no_good_checkpoint(tmp_path: Path) -> None:
    run_yaml, out = write_run(tmp_path), tmp_path / "killed"
    checkpoints, moments = out / "checkpoints", random.Random(5)
    before = 0
    for number, victims in enumerate(((0, 1), (1,), (0,))):
        there = {path.name for path in checkpoints.glob("step-*")}
        processes = _started(2, run_yaml, out, tmp_path / f"meet-{number}")
        _wait_for_saving(checkpoints, there, processes)
        time.sleep(moments.uniform(0, 0.02))
        for victim in victims:
            processes[victim].kill()
        for each in processes:
            # One that has lost the other ends by itself.
            each.join(DEADLINE)
            assert each.exitcode
        step = _step_of_newest(checkpoints)
        assert step >= before
        before = step
    run_of(run_yaml, out, *OVERRIDES)
    run_of(run_yaml, tmp_path / "whole", *OVERRIDES)
    assert _losses(out) == pytest.approx(_losses(tmp_path / "whole"), rel=1e-4)
    assert not list(checkpoints.glob(f"{UNFINISHED}*"))
