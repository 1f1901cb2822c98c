"""The pool of the parallel tests: what waits in it costs the other tests nothing."""

import os
from pathlib import Path

from mindvl_train.parallel.mesh import Sizes
from tests.mindvl_train.parallel.one_step import Case, on_a_mesh
from tests.mindvl_train.parallel.pool import Pool
from tests.mindvl_train.synthetic import mixed_packs


def threads(_: Path) -> int:
    return len(os.listdir("/proc/self/task"))


def test_a_job_leaves_no_threads_behind(pool: Pool) -> None:
    """Those of a mesh's groups look for messages a hundred times a second: of a few dozen jobs they fill a core."""
    left = []
    for _ in range(2):
        pool.run(2, on_a_mesh, Case(mixed_packs(4, 24)), Sizes(shard=2))
        left.append(pool.run(2, threads))
    assert left[0] == left[1]
