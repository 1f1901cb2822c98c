"""What a run says of itself: records to loggers, and the summary made of them at its end.

A logger is an entry point of the group `mindvl_train.loggers`: a function of the run's folder that returns a
`Logger`. A record is a flat mapping of JSON values with `event` (`run`, `step`, `evaluation`, `stage`) and
`step`, the optimizer steps taken so far.
"""

import importlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mindvl_data import atomic
from mindvl_data.errors import UserError

FILE_NAME = "metrics.jsonl"
Record = Mapping[str, Any]


class Logger(Protocol):
    """Receives the records of a run."""

    def begin(self, step: int, total_tokens: int, done_tokens: int) -> None:
        """The run starts, or goes on from a checkpoint at `step`: records of later steps are void, and come
        again.

        Args:
            step: -1 when the run starts from nothing.
            total_tokens: that the whole run delivers, padding included.
            done_tokens: of them, those delivered before `step`.
        """

    def log(self, record: Record) -> None:
        """Takes one record."""

    def close(self) -> None:
        """The run ended or failed."""


class LoggerError(UserError):
    """A logger that was asked for and cannot work here."""


class JsonlLogger:
    """`metrics.jsonl`: one record a line, in the order of the run, as if it had never been interrupted."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME

    def begin(self, step: int, total_tokens: int, done_tokens: int) -> None:
        kept = [_line(record) for record in _before(read_records(self._path), step)]
        atomic.write_text(self._path, "".join(kept))
        self._file = self._path.open("a")

    def log(self, record: Record) -> None:
        self._file.write(_line(record))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _line(record: Record) -> str:
    """As JSON, which has no word for what is no number: it becomes null."""
    return json.dumps(_finite(record), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _before(records: Iterable[Record], step: int) -> Iterator[Record]:
    """Those that a checkpoint at `step` stands behind; an average that ends the run takes no step, and what was logged
    of it follows the end of the stage before it."""
    for record in records:
        if record["step"] <= step:
            yield record
        if record["event"] == "stage" and record["step"] == step:
            return


class TensorBoardLogger:
    """Every number of a record as a curve over steps, under `tensorboard/` in the run's folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "tensorboard"

    def begin(self, step: int, total_tokens: int, done_tokens: int) -> None:
        try:
            module: Any = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise LoggerError("loggers: tensorboard needs `pip install 'mindvl[tensorboard]'`") from error
        # What was logged after the checkpoint is hidden.
        self._writer = module.SummaryWriter(str(self._path), purge_step=step + 1)

    def log(self, record: Record) -> None:
        for name, value in numbers(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._writer.close()


def numbers(record: Record) -> dict[str, float]:
    """Every number of a record but its step, as trackers name curves: `event/name`, `step/lr/GLOB`, `step/loss/SOURCE`.

    Truths and what is no number are left out.
    """
    found = {name: value for name, value in record.items() if name != "step"}
    found |= {f"lr/{glob}": rate for glob, rate in record.get("lr", {}).items()}
    found |= {f"loss/{name}": seen["loss"] for name, seen in record.get("sources", {}).items()}
    kept = {
        name: value for name, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {f"{record['event']}/{name}": value for name, value in kept.items() if math.isfinite(value)}


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`; a last line that a crash cut short is not one."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


@dataclass(frozen=True)
class StageSummary:
    """One stage in a few numbers.

    Attributes:
        steps: optimizer steps.
        tokens: delivered, padding included.
        first_loss: mean over the first tenth of the steps that have a loss; None: no step has one.
        last_loss: mean over the last tenth.
        holdout_before: loss on the held-out set at the end of the stage it began from; None without a held-out set.
        holdout_after: at its end.
        seconds: in steps, waiting for data included.
        moved: tensors that changed, by part of the model.
        unchanged: tensors that are as they were, byte for byte.
        unreached: of them, those that train and that no gradient reached.
    """

    name: str
    steps: int
    tokens: int
    first_loss: float | None
    last_loss: float | None
    holdout_before: float | None
    holdout_after: float | None
    seconds: float
    moved: dict[str, int]
    unchanged: dict[str, int]
    unreached: dict[str, int]


def summarise(records: Iterable[Record]) -> list[StageSummary]:
    """A finished run's records, in order → a summary of each of its stages."""
    summaries: list[StageSummary] = []
    steps: list[Record] = []
    holdouts: dict[str, float] = {}
    for record in records:
        match record["event"]:
            case "step":
                steps.append(record)
            case "evaluation":
                holdouts[record["stage"]] = record["loss"]
            case "stage":
                summaries.append(_summarise_stage(record, steps, holdouts))
                steps = []
    return summaries


def _summarise_stage(end: Record, steps: list[Record], holdouts: Mapping[str, float]) -> StageSummary:
    losses = [record["loss"] for record in steps if record["loss"] is not None]
    tenth = max(1, len(losses) // 10)
    return StageSummary(
        name=end["stage"],
        steps=len(steps),
        tokens=sum(record["tokens"] + record["padding"] for record in steps),
        first_loss=sum(losses[:tenth]) / tenth if losses else None,
        last_loss=sum(losses[-tenth:]) / tenth if losses else None,
        holdout_before=holdouts.get(end["parent"] or ""),
        holdout_after=holdouts.get(end["stage"]),
        seconds=sum(record["seconds"] for record in steps),
        moved=end["moved"],
        unchanged=end["unchanged"],
        unreached=end.get("unreached", {}),
    )
