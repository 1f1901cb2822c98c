"""The stream's packs as batches, made ahead of the loop by threads.

Threads and not processes: Pillow decodes and resizes without the interpreter's lock, so a second core is used
without copying pixels between processes, and a shard stays mapped once.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from mindvl_data.shards import Pack
from mindvl_data.stream import PackStream
from mindvl_train.batch import Batch, BatchLayout, collate


@dataclass(frozen=True)
class Cursor:
    """Where a loader stands: `packs` delivered to the loop over all ranks, never those made ahead."""

    manifest: str
    packs: int


@dataclass(frozen=True)
class StepBatches:
    """All micro-batches of one optimizer step, and the cursor once they are consumed."""

    batches: tuple[Batch, ...]
    cursor: Cursor


@dataclass(frozen=True)
class Loader:
    """Batches of one rank.

    Attributes:
        stream: where the packs come from; its position is the loader's beginning.
        packs_per_step: packs of this rank in one optimizer step.
        micro_batch: packs joined into one batch.
        layout: how a batch is made.
        workers: threads that decode images.
        ahead: optimizer steps kept ready.
    """

    stream: PackStream
    packs_per_step: int
    micro_batch: int
    layout: BatchLayout
    workers: int
    ahead: int

    def steps(self, limit: int) -> Iterator[StepBatches]:
        """At most `limit` steps from where the stream stands."""
        packs = iter(self.stream)
        waiting: deque[tuple[list[Future[Batch]], Cursor]] = deque()
        with ThreadPoolExecutor(self.workers, thread_name_prefix="decode") as pool:
            for _ in range(limit):
                step = list(islice(packs, self.packs_per_step))
                if not step:
                    break
                # The stream's state is that after this step; it is handed out with the step, however late.
                waiting.append((self._submit(pool, step), Cursor(**self.stream.state_dict())))
                if len(waiting) > self.ahead:
                    yield _finish(*waiting.popleft())
            while waiting:
                yield _finish(*waiting.popleft())

    def _submit(self, pool: ThreadPoolExecutor, step: list[Pack]) -> list[Future[Batch]]:
        groups = (step[start : start + self.micro_batch] for start in range(0, len(step), self.micro_batch))
        return [pool.submit(collate, group, self.layout) for group in groups]


def _finish(futures: list[Future[Batch]], cursor: Cursor) -> StepBatches:
    return StepBatches(tuple(future.result() for future in futures), cursor)
