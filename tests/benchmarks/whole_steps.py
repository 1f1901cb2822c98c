"""`python -m mindvl_data` as it is, and a note of the seconds that each step took: the rows of `whole`.

    python -m tests.benchmarks.whole_steps NOTE build RECIPE ...

A step lasts from the first time that it shows its progress until the next one does. Before the first is the start-up
(Python, imports, the recipe); what follows the last shard (draws, manifest, the end of the workers) is with writing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

Mark = tuple[str, float, float]


def main() -> None:
    # Imported here, since workers that start by `spawn` import this file too.
    import mindvl_data.cli as command_line

    note = Path(sys.argv.pop(1))
    marks: list[Mark] = []
    _noted(marks)
    try:
        command_line.main()
    finally:
        note.write_text(json.dumps(marks))


def _noted(marks: list[Mark]) -> None:
    """Have `build` write down when each of its steps begins, and when it ends."""
    import mindvl_data.pipeline

    built = mindvl_data.pipeline.build

    def noting(loaded: Any, out: Any, workers: int, progress: Any, *rest: Any, **more: Any) -> Any:
        def seen(step: str, done: int, total: int, note: str = "") -> None:
            name = step.split(" ")[0].rstrip(",")
            if not marks or marks[-1][0] != name:
                marks.append((name, time.time(), cpu()))
            progress(step, done, total, note)

        return built(loaded, out, workers, seen, *rest, **more)

    mindvl_data.pipeline.build = noting


def cpu() -> float:
    """CPU seconds of this process and of the processes that it started, those still at work included."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    done = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return done + sum(_cpu_of(child.pid) for child in multiprocessing.active_children() if child.pid)


def _cpu_of(pid: int) -> float:
    """User and system seconds of a process, from Linux' /proc; 0 where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
