"""The stream's packs as batches, made ahead of the loop by threads or by processes.

Threads are the default: pictures are decoded and resized without the interpreter's lock, so a second core is used
without copying pixels between processes, and a shard stays mapped once. Processes (`workers.py`) leave the
interpreter to a loop that keeps it busy.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from mindvl_data.stream import PackStream, Slot, Step
from mindvl_train.data.batch import Batch, BatchLayout, collate
from mindvl_train.data.steps import Cursor, StepBatches, micro_batches, planned

__all__ = ["Kind", "Loader"]

Kind = Literal["threads", "processes"]


@dataclass(frozen=True)
class Loader:
    """Batches of one rank.

    Attributes:
        stream: where the packs come from; its position is the loader's beginning, and follows the loop.
        packs_per_step: packs of this rank in one optimizer step.
        micro_batch: packs joined into one batch.
        layout: how a batch is made.
        workers: threads or processes that read and decode.
        ahead: optimizer steps kept ready.
        kind: what the workers are.
    """

    stream: PackStream
    packs_per_step: int
    micro_batch: int
    layout: BatchLayout
    workers: int
    ahead: int
    kind: Kind = "threads"

    def steps(self, limit: int) -> Iterator[StepBatches]:
        """At most `limit` steps from where the stream stands. An error of a worker is raised at its step."""
        if self.packs_per_step != self.stream.packs_per_step:
            raise ValueError(
                f"packs_per_step is {self.packs_per_step}, but the stream's global batch gives a rank "
                f"{self.stream.packs_per_step}"
            )
        if self.kind == "processes":
            # torch.utils.data is loaded by those who ask for it.
            from mindvl_train.data.workers import steps_from_workers

            yield from steps_from_workers(self.stream, self.layout, self.workers, self.ahead, self.micro_batch, limit)
        else:
            yield from self._steps_from_threads(limit)

    def _steps_from_threads(self, limit: int) -> Iterator[StepBatches]:
        waiting: deque[tuple[list[Future[Batch]], Step]] = deque()
        pool = _Threads(self.workers, self.stream, self.layout)
        try:
            for step in planned(self.stream, limit):
                groups = micro_batches(step.slots, self.micro_batch)
                waiting.append(([pool.submit(group) for group in groups], step))
                if len(waiting) > self.ahead:
                    yield self._finish(*waiting.popleft())
            while waiting:
                yield self._finish(*waiting.popleft())
        finally:
            pool.stop()

    def _finish(self, futures: list[Future[Batch]], step: Step) -> StepBatches:
        batches = tuple(future.result() for future in futures)
        self.stream.advance(step)
        return StepBatches(batches, Cursor(**self.stream.state_dict()))


class _Threads:
    """Threads that die with the process: one that waits for a silent store holds up neither Ctrl-C nor an error."""

    def __init__(self, workers: int, stream: PackStream, layout: BatchLayout) -> None:
        self._asked: queue.SimpleQueue[Callable[[PackStream], None] | None] = queue.SimpleQueue()
        self._layout = layout
        self._threads = [
            threading.Thread(target=self._work, args=(stream.reopened(),), daemon=True, name=f"decode-{number}")
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, slots: Sequence[Slot]) -> Future[Batch]:
        made: Future[Batch] = Future()

        def make(stream: PackStream) -> None:
            if not made.set_running_or_notify_cancel():
                return
            try:
                made.set_result(collate([stream.read(slot) for slot in slots], self._layout, pixels="levels"))
            except BaseException as error:  # noqa: BLE001, raised where the batch is due
                made.set_exception(error)

        self._asked.put(make)
        return made

    def stop(self) -> None:
        """Nothing more is begun; what runs ends by itself."""
        with suppress(queue.Empty):  # not asked of `empty()`: a thread may take the last one before it is got
            while True:
                self._asked.get_nowait()
        for _ in self._threads:
            self._asked.put(None)

    def _work(self, stream: PackStream) -> None:
        while (make := self._asked.get()) is not None:
            make(stream)
