"""Runs of a second or two, ended where a test wants it, and what they logged."""

from pathlib import Path
from typing import Any

from mindvl_train.config.loading import load_config
from mindvl_train.loop.metrics import Record, read_records
from mindvl_train.loop.run import Result, train

TIMINGS = ("seconds", "wait_seconds", "tokens_per_second", "loss_tokens_per_second", "memory_gib", "tflops_per_second")


class Stop(Exception):  # noqa: N818 -- no error: it stands for a process that is gone
    """Thrown out of the loop at a chosen record."""


class StopAt:
    """A logger that ends the run right after the record of one step was logged."""

    def __init__(self, event: str, step: int) -> None:
        self.event, self.step = event, step

    def begin(self, step: int, total_tokens: int, done_tokens: int) -> None:
        pass

    def log(self, record: Record) -> None:
        if (record["event"], record["step"]) == (self.event, self.step):
            raise Stop

    def close(self) -> None:
        pass


def run_of(path: Path, out: Path, *overrides: str, stop: StopAt | None = None) -> Result:
    """Trains, up to its end or to where `stop` ends it."""
    return train(load_config(path, overrides), str(path), out, [stop] if stop else [])


def records_of(out: Path) -> list[dict[str, Any]]:
    """What a run logged, but for what its clock said."""
    records = read_records(out / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in TIMINGS} for record in records]


def losses_of(out: Path, event: str = "step") -> list[float]:
    """Of the records of one event, in order."""
    return [record["loss"] for record in records_of(out) if record["event"] == event]
