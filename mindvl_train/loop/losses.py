"""The loss of every sample that a run has seen, as data: for `by: joined` scores, and for what an epoch selects by.

A rank keeps what it saw and writes it before each checkpoint as `losses/step-<n>-rank-<r>.parquet`; at every stage's
end `losses.parquet` has a line a sample, its last visit. What a killed run wrote beyond its checkpoint is removed when
it goes on: the steps come again.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mindvl_data import atomic
from mindvl_data.errors import UserError, reading
from mindvl_train.data.batch import Batch

FOLDER, FILE = "losses", "losses.parquet"
PART = re.compile(r"step-(\d+)-rank-\d+\.parquet")
PARTS = pa.schema([("sample_id", pa.binary(16)), ("step", pa.int64()), ("loss", pa.float64()), ("tokens", pa.int64())])
# Visits that are held at a time beside one line a sample.
HELD = 1 << 22


class LossesError(UserError):
    """Losses in a run's folder that are not what the run wrote."""


@dataclass(frozen=True)
class SampleLosses:
    """What one rank saw of the samples of a step, n visits.

    Attributes:
        samples: their ids in hexadecimal.
        sources: of each the name of its source.
        loss: [n] float64, the sum over its targets of cross-entropy in nats, unweighted.
        tokens: [n] int64, its targets; where ranks share packs, those of this rank.
    """

    samples: tuple[str, ...]
    sources: tuple[str, ...]
    loss: NDArray[np.float64]
    tokens: NDArray[np.int64]

    def by_source(self) -> dict[str, tuple[float, int]]:
        """Of every source that has a target, the sum of losses and the targets."""
        names = sorted(set(self.sources))
        number = np.searchsorted(names, self.sources) if names else np.zeros(0, np.int64)
        loss = np.bincount(number, self.loss, len(names))
        tokens = np.bincount(number, self.tokens, len(names)).astype(np.int64)
        return {name: (float(loss[i]), int(tokens[i])) for i, name in enumerate(names) if tokens[i]}


def summed(model: nn.Module, batch: Batch) -> Tensor | None:
    """[samples of the batch] float32: of the last forward pass, each sample's sum of cross-entropies; None of a model
    that does not keep its targets' losses."""
    losses = getattr(model, "target_losses", None)
    if losses is None:
        return None
    sums: Tensor = losses.new_zeros(len(batch.samples))
    return sums.index_add_(0, batch.target_samples.to(losses.device), losses)


def of_step(batches: Sequence[Batch], sums: Sequence[Tensor | None]) -> SampleLosses | None:
    """The micro-batches of a step together, on the host; None where the model keeps no losses."""
    found = [each for each in sums if each is not None]
    if len(found) != len(batches) or not found:
        return None
    counts = [torch.bincount(batch.target_samples, minlength=len(batch.samples)) for batch in batches]
    return SampleLosses(
        samples=tuple(sample for batch in batches for sample in batch.samples),
        sources=tuple(source for batch in batches for source in batch.sources),
        loss=torch.cat(found).double().cpu().numpy(),
        tokens=torch.cat(counts).numpy(),
    )


class LossLog:
    """One rank's visits, until they are written."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.run_folder = folder
        self._folder = folder / FOLDER
        self._rank = rank
        self._visits: list[tuple[int, SampleLosses]] = []

    def note(self, step: int, losses: SampleLosses) -> int:
        """Keeps what a step saw; a sample without a target or with a loss that is no number says nothing.

        Returns:
            How many visits were kept.
        """
        known = np.flatnonzero((losses.tokens > 0) & np.isfinite(losses.loss))
        samples = tuple(losses.samples[i] for i in known)
        self._visits.append((step, SampleLosses(samples, (), losses.loss[known], losses.tokens[known])))
        return len(known)

    def flush(self, step: int) -> None:
        """Writes what was kept, on the disk before it returns; `step` is that of the checkpoint that follows."""
        visits, self._visits = self._visits, []
        if not any(len(each.samples) for _, each in visits):
            return
        ids = b"".join(bytes.fromhex("".join(each.samples)) for _, each in visits)
        counts = [len(each.samples) for _, each in visits]
        columns = [
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), sum(counts), [None, pa.py_buffer(ids)]),
            pa.array(np.repeat([step for step, _ in visits], counts)),
            pa.array(np.concatenate([each.loss for _, each in visits])),
            pa.array(np.concatenate([each.tokens for _, each in visits])),
        ]
        self._folder.mkdir(exist_ok=True)
        _write(
            pa.Table.from_arrays(columns, schema=PARTS), self._folder / f"step-{step:08d}-rank-{self._rank:05d}.parquet"
        )


def forget_after(folder: Path, step: int) -> None:
    """Removes what was written beyond a checkpoint at `step`; one process does it for all."""
    for path in (folder / FOLDER).glob("step-*"):
        found = PART.fullmatch(path.name)
        if found is None or int(found[1]) > step:
            path.unlink()


@dataclass(frozen=True)
class LastLosses:
    """A line a sample, sorted by id.

    Attributes:
        ids: [n, 2] uint64, the halves of the sample ids as they lie in memory.
        step: [n] int64, of the last visit.
        loss: [n] float64, its sum of cross-entropies.
        tokens: [n] int64.
        visits: that were written, of all samples.
    """

    ids: NDArray[np.uint64]
    step: NDArray[np.int64]
    loss: NDArray[np.float64]
    tokens: NDArray[np.int64]
    visits: int = 0

    @property
    def mean(self) -> NDArray[np.float64]:
        """[n] float64, nats a target."""
        return self.loss / self.tokens


def last_losses(folder: Path, up_to: int | None = None) -> LastLosses:
    """Every sample's last visit among what is written in a run's folder.

    Args:
        folder: the run's.
        up_to: visits of later steps do not count.

    Raises:
        LossesError: a file of them is damaged.
    """
    held, visits = _no_visits(), 0
    waiting: list[LastLosses] = []
    for part in _parts(folder, up_to):
        waiting.append(part)
        visits += len(part.step)
        if sum(len(each.step) for each in waiting) >= HELD:
            held, waiting = _last([held, *waiting]), []
    return replace(_last([held, *waiting]), visits=visits)


def write_last(folder: Path) -> None:
    """Writes `losses.parquet`: sample_id in hexadecimal, loss in nats a target, tokens (its targets) and step."""
    last = last_losses(folder)
    ids = pa.array([each.hex() for each in last.ids.view("V16").ravel().tolist()], pa.string())
    columns = {"sample_id": ids, "loss": last.mean, "tokens": last.tokens, "step": last.step}
    _write(pa.table(columns), folder / FILE)


def _parts(folder: Path, up_to: int | None) -> Iterator[LastLosses]:
    for path in sorted((folder / FOLDER).glob("step-*.parquet")):
        with reading(str(path), "the losses that a run wrote", LossesError):
            table = pq.read_table(path, schema=PARTS).combine_chunks()
        flat = np.frombuffer(b"".join(chunk.buffers()[1] for chunk in table.column("sample_id").chunks), np.uint64)
        step, loss, tokens = (table.column(name).to_numpy() for name in ("step", "loss", "tokens"))
        known = np.ones(len(step), bool) if up_to is None else step <= up_to
        yield LastLosses(flat.reshape(-1, 2)[: len(step)][known], step[known], loss[known], tokens[known])


def _no_visits() -> LastLosses:
    return LastLosses(np.zeros((0, 2), np.uint64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))


def _last(visits: Sequence[LastLosses]) -> LastLosses:
    """Of each sample what was seen in the last step that saw it: ranks that share it, and repeats, add up."""
    ids, step, loss, tokens = (
        np.concatenate([getattr(v, n) for v in visits]) for n in ("ids", "step", "loss", "tokens")
    )
    order = np.lexsort((loss, step, ids[:, 1], ids[:, 0]))
    ids, step, loss, tokens = ids[order], step[order], loss[order], tokens[order]
    if not len(step):
        return _no_visits()
    same_sample = (ids[1:] == ids[:-1]).all(axis=1)
    starts = np.flatnonzero(np.append(True, ~(same_sample & (step[1:] == step[:-1]))))
    ends_sample = np.append(~same_sample, True)[np.append(starts[1:], len(step)) - 1]
    loss, tokens = np.add.reduceat(loss, starts), np.add.reduceat(tokens, starts)
    return LastLosses(ids[starts][ends_sample], step[starts][ends_sample], loss[ends_sample], tokens[ends_sample])


def _write(table: pa.Table, path: Path) -> None:
    """Whole or not at all, and on the disk."""
    with atomic.whole(path) as unfinished:
        pq.write_table(table, unfinished, compression="zstd")
