"""Real processes, killed in mid-epoch and started again in another number: every pack once an epoch."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mindvl_data.stream import PackStream
from tests.mindvl_data.packs import make_manifest, make_pack

# A rank writes down what it trained on and, as a checkpoint does, its state; a step counts once all ranks have it.
RANK = """
import json, sys, time
from pathlib import Path
from mindvl_data.stream import PackStream
manifest, out, rank, world, global_batch, state = sys.argv[1:]
stream = PackStream(manifest, int(rank), int(world), int(global_batch), epochs=None, deal="cost")
stream.load_state_dict(json.loads(state))
step = []
for pack in stream:
    step.append([pack.index, bool(pack.loss_mask.any())])
    if len(step) == stream.packs_per_step:
        with open(out, "a") as file:
            file.write(json.dumps({"state": stream.state_dict(), "packs": step}) + "\\n")
        step = []
        time.sleep(0.002)
"""


@pytest.mark.slow
def test_killed_ranks_go_on_in_another_world_without_losing_or_repeating_a_pack(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path / "set", [make_pack(i, images=i % 2 == 0) for i in range(23)])
    state, seen = PackStream(manifest).state_dict(), Counter[int]()
    for world, global_batch, steps in [(1, 2, 4), (3, 6, 3), (2, 4, 6), (1, 5, 2)]:
        done = run_and_kill(tmp_path, manifest, world, global_batch, state, steps)
        # The checkpoint is that of the last step which every rank has: what came after it is delivered again.
        state = done[0][steps - 1]["state"]
        assert all(rank[steps - 1]["state"] == state for rank in done)
        seen.update(index for rank in done for step in rank[:steps] for index, learns in step["packs"] if learns)
    passes, more = divmod(state["packs"], 23)
    assert seen.total() == state["packs"] > 46
    assert set(seen.values()) <= {passes, passes + 1}
    assert sum(count == passes + 1 for count in seen.values()) == more


def run_and_kill(
    folder: Path, manifest: Path, world: int, global_batch: int, state: dict, steps: int
) -> list[list[dict]]:
    """What each rank wrote, once all have at least `steps` steps and were killed in the middle of another."""
    outs = [folder / f"{world}-{global_batch}-{rank}" for rank in range(world)]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, manifest, out, str(rank), str(world), str(global_batch), json.dumps(state)]
        )
        for rank, out in enumerate(outs)
    ]
    while not all(out.exists() and out.read_text().count("\n") > steps for out in outs):
        assert all(rank.poll() is None for rank in ranks)
    for rank in ranks:
        os.kill(rank.pid, signal.SIGKILL)
        assert rank.wait() == -signal.SIGKILL
    return [
        [json.loads(line) for line in out.read_text().splitlines(keepends=True) if line.endswith("\n")] for out in outs
    ]
