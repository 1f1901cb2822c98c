"""A run in the terminal: a bar and a line now and then while it goes on, and a table of what it did."""

import time
from collections.abc import Iterator
from datetime import timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from mindvl_train.loop.metrics import Record, StageSummary


class TerminalLogger:
    """A progress bar with the time left, and a line now and then that stays."""

    LINES_PER_STAGE = 10

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("tokens"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None)
        self._total = self._begun = self._done = 0
        self._since = time.monotonic()

    def begin(self, step: int, total_tokens: int, done_tokens: int) -> None:
        """Starts the bar where the run stands."""
        if step >= 0:
            self._console.print(f"going on from the checkpoint at step {step}")
        self._total, self._begun, self._done, self._since = total_tokens, done_tokens, done_tokens, time.monotonic()
        self._progress.update(self._task, total=total_tokens, completed=done_tokens)
        self._progress.start()

    def log(self, record: Record) -> None:
        """Moves the bar, and prints what is worth a line."""
        match record["event"]:
            case "run":
                self._print(_run_line(record))
            case "step":
                self._step(record)
            case "evaluation":
                place = f"after {record['stage']}" if record["stage"] else "before the first stage"
                self._print(f"held-out loss {place}: {record['loss']:.4f}")
            case "skipped":
                self._print(record["why"])
            case "stage":
                self._print(f"{record['stage']}: {_movement(record['moved'], record['unchanged'])}")
                if record["unreached"]:
                    self._print(f"{record['stage']}: {_unreached(record['unreached'])}")

    def close(self) -> None:
        """Leaves the terminal as it was."""
        self._progress.stop()

    def _step(self, record: Record) -> None:
        delivered = record["tokens"] + record["padding"]
        self._done += delivered
        self._progress.update(self._task, advance=delivered, description=record["stage"])
        every = max(1, record["stage_steps"] // self.LINES_PER_STAGE)
        if record["stage_step"] % every == 0 or record["stage_step"] == 1:
            self._print(f"{_step_line(record)}  {self._left()}")

    def _left(self) -> str:
        """The time that the rest of the run takes at the speed since it was started."""
        seconds = (time.monotonic() - self._since) * (self._total - self._done) / max(1, self._done - self._begun)
        return f"left {timedelta(seconds=round(seconds))}"

    def _print(self, line: str) -> None:
        self._console.print(escape(line), highlight=False, soft_wrap=True)


def _run_line(record: Record) -> str:
    kernels = ", ".join(f"{operation} {name}" for operation, name in record["kernels"].items())
    hardware = f"{record['device']}, {record['threads']} threads"
    return f"{record['parameters']:,} parameters on {hardware}; kernels: {kernels}"


def _step_line(record: Record) -> str:
    rates = " ".join(f"{glob} {rate:.2e}" for glob, rate in record["lr"].items())
    return (
        f"{record['stage']} {record['stage_step']}/{record['stage_steps']}  loss {record['loss']:.4f}  "
        f"grad {record['grad_norm']:.2f}  {record['tokens_per_second']:,.0f} tokens/s  "
        f"{record['loss_tokens_per_second']:,.0f} loss tokens/s  padding {record['padding_share']:.1%}  "
        f"lr {rates}"
    )


def _movement(moved: dict[str, int], unchanged: dict[str, int]) -> str:
    """Which parts of the model a stage changed, and which it left as they were."""
    changes = ", ".join(f"{part} ({count} tensors)" for part, count in moved.items()) or "nothing"
    kept = ", ".join(f"{part} ({count} tensors)" for part, count in unchanged.items())
    return f"{changes} moved" + (f"; {kept} unchanged" if kept else "")


def _unreached(parts: dict[str, int]) -> str:
    counted = ", ".join(f"{part} ({count} tensors)" for part, count in parts.items())
    return f"{counted} saw nothing in this stage: no gradient reached them, so they neither moved nor decayed"


def print_summary(console: Console, stages: list[StageSummary]) -> None:
    """A table of the stages, and what is worth knowing of those that froze something."""
    table = Table(title="what the run did", title_justify="left")
    table.add_column("stage")
    for column in ("steps", "tokens", "loss, first → last tenth", "held-out, before → after", "seconds"):
        table.add_column(column, justify="right", no_wrap=True)
    for stage in stages:
        losses = _losses(stage.first_loss, stage.last_loss)
        table.add_row(
            stage.name, f"{stage.steps}", f"{stage.tokens:,}", losses, _holdout(stage), f"{stage.seconds:.1f}"
        )
    console.print(table)
    for note in _notes(stages):
        console.print(note, soft_wrap=True, highlight=False)


def _holdout(stage: StageSummary) -> str:
    return _losses(stage.holdout_before, stage.holdout_after)


def _losses(before: float | None, after: float | None) -> str:
    return "–" if before is None or after is None else f"{before:.4f} → {after:.4f}"


def _notes(stages: list[StageSummary]) -> Iterator[str]:
    """Says of every stage that froze something what moved, and when a flat loss is what to expect."""
    trained: set[str] = set()
    for stage in stages:
        untrained = [part for part in stage.unchanged if part not in trained]
        trained.update(stage.moved)
        if stage.unchanged:
            yield f"{stage.name}: {_movement(stage.moved, stage.unchanged)}"
        if untrained:
            yield f"  nothing is pretrained here: {' and '.join(untrained)} stood as drawn, so little falls"
