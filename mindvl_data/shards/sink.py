"""Where a shard's bytes go: hashed as they pass, and on their way to the disk while the next ones are made."""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import IO, Any

# Handed to the threads together: a shard is thousands of buffers, most of them a few bytes.
WRITTEN_BYTES = 1 << 20
# Were they left to one fsync at the end, the disk would wait for us until then, and we for the disk after it.
SYNCED_BYTES = 32 << 20
# What a slow disk makes us hold in memory.
WAITING_BYTES = 32 << 20


class HashingFile(io.RawIOBase):
    """Hashes what passes through, so that a shard is never read again to be hashed.

    One thread hashes and writes, another calls fsync: neither the caller nor the disk waits for the other. What
    goes wrong there is raised by a later `write`, or by `finish`. Use as a context manager; `file` stays open.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._writer, self._syncer = ThreadPoolExecutor(1, "write"), ThreadPoolExecutor(1, "sync")
        self._gathered: list[Any] = []
        self._gathered_bytes = 0
        self._waiting: deque[Future[int]] = deque()
        self._waiting_bytes = 0
        self._syncing: Future[None] | None = None
        self._unsynced = 0
        self.size = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown(cancel_futures=True)
        self._syncer.shutdown(cancel_futures=True)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, data: Any) -> int:
        """Take a buffer, which must not change any more."""
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        self.size += len(data)
        if self._gathered_bytes >= WRITTEN_BYTES:
            self._hand_over()
            while self._waiting_bytes > WAITING_BYTES or (self._waiting and self._waiting[0].done()):
                self._waiting_bytes -= self._waiting.popleft().result()
        return len(data)

    def finish(self) -> str:
        """The SHA-256 of all bytes, hexadecimal, once they are on the disk."""
        self._hand_over()
        for future in self._waiting:
            future.result()
        if self._syncing:
            self._syncing.result()
        os.fsync(self._file.fileno())
        return self._digest.hexdigest()

    def _hand_over(self) -> None:
        self._waiting.append(self._writer.submit(self._put, self._gathered))
        self._waiting_bytes += self._gathered_bytes
        self._gathered, self._gathered_bytes = [], 0

    def _put(self, buffers: list[Any]) -> int:
        for data in buffers:
            self._digest.update(data)
            self._file.write(data)
        self._file.flush()
        written = sum(map(len, buffers))
        self._unsynced += written
        if self._unsynced >= SYNCED_BYTES and (self._syncing is None or self._syncing.done()):
            if self._syncing:
                self._syncing.result()
            self._syncing = self._syncer.submit(os.fsync, self._file.fileno())
            self._unsynced = 0
        return written
