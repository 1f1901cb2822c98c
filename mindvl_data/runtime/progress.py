"""How far a command is: bars on a terminal; where there is none, as in a cluster's job, lines of a log."""

from __future__ import annotations

import logging
import math
import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LOG = logging.getLogger(__name__)
# Steps whose progress is counted in bytes.
IN_BYTES = ("split", "scan")
LINE_SECONDS = 30.0


def done_of(task: Task) -> str:
    """How much is done of how much: bytes and their rate where files are read through, tasks elsewhere."""
    if task.description not in IN_BYTES:
        return f"{task.completed:,.0f}/{task.total or 0:,.0f}"
    done, total = decimal(int(task.completed)), decimal(int(task.total or 0))
    return f"{done} of {total}, {decimal(int(task.speed or 0))}/s"


class _Done(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(done_of(task))


class _Note(ProgressColumn):
    """What the engine has to say of the tasks that are not finished."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("note", ""))


def open_progress(console: Console) -> Progress:
    """Bars on a terminal, else a line as a step begins, every half a minute, and as it ends."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        _Done(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        _Note(),
    )
    return Progress(*columns, console=console) if console.is_terminal else _Lines(console=console, disable=True)


class _Lines(Progress):
    """The same calls, told by the logger of this module."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # When the next line of a step is due.
        self._due: dict[TaskID, float] = {}

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        task, now = self.tasks[task_id], time.monotonic()
        due = self._due.get(task_id, now)
        if now >= due or (task.finished and due < math.inf):
            LOG.info("%s", line(task))
            self._due[task_id] = math.inf if task.finished else now + LINE_SECONDS


def line(task: Task) -> str:
    """`scan: 1.2 GB of 4.0 GB, 80.0 MB/s, 0:00:40 left`."""
    left = task.time_remaining
    rest = f", {timedelta(seconds=round(left))} left" if left else ""
    note = task.fields.get("note", "")
    return f"{task.description}: {done_of(task)}{rest}{f', {note}' if note else ''}"
