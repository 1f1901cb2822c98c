"""What a build writes down beside its packed sets: which tables it used, and who left where and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mindvl_data import atomic
from mindvl_data.media import source_roots
from mindvl_data.note import LOCAL_FILE, BuilderNote, note_text
from mindvl_data.pipeline.prepare import Prepared
from mindvl_data.pipeline.run import Run
from mindvl_data.pipeline.scanning import Partition
from mindvl_data.runtime import mirror as mirrors
from mindvl_data.runtime.mirror import USES
from mindvl_data.steps.filters import NO_FILTER, Rule
from mindvl_data.tables import ledger
from mindvl_data.tables.schema import EVALUATIONS_INDEX, SAMPLES_INDEX

if TYPE_CHECKING:
    from mindvl_data.pipeline.prepare import Prepared
    from mindvl_data.pipeline.run import Run
    from mindvl_data.pipeline.scanning import Partition


def write_note(run: Run) -> None:
    """Where the recipe and its data lie here: no part of the data set, but a reader of referenced media needs it."""
    raw = run.loaded.raw
    roots = source_roots({**raw.get("evaluations", {}), **raw["sources"]})
    note = BuilderNote(str(run.loaded.folder), run.loaded.path.name, roots, str(raw["tokenizer"]))
    atomic.write_text(run.out / LOCAL_FILE, note_text(note))


def write_index(run: Run, prepared: Prepared) -> None:
    """Which samples tables this build used, with the scores of each and its texts as rewritten, for `explain`.

    The folder may hold others too. Those of evaluation sets have a list of their own.
    """
    lines = [
        {
            "samples": p.samples.name,
            "rewritten": q.samples.name,
            "source": p.source,
            "file": p.file.uri,
            "scores": [path.name for path in scores],
        }
        for p, q, scores in zip(prepared.partitions, prepared.rewritten.partitions, prepared.score_files, strict=True)
    ]
    atomic.write_text(run.folder("samples") / SAMPLES_INDEX, json.dumps(lines))
    theirs = [{"samples": p.samples.name, "source": p.source, "file": p.file.uri} for p in prepared.evaluations]
    atomic.write_text(run.folder("samples") / EVALUATIONS_INDEX, json.dumps(theirs))


def write_uses(run: Run, sets: Sequence[str]) -> None:
    """Which of the folder's files and packed sets are this build's, for `gc`: the others are of no use to it."""
    files = sorted(path.relative_to(run.out).as_posix().split(".")[0] for path in run.used)
    atomic.write_text(run.out / USES, json.dumps({"sets": list(sets), "files": files}) + "\n")


def send(run: Run, unchanged: bool) -> None:
    """To a store, where the build lies in one: what has no seal, since every build writes it anew."""
    mirror = mirrors.of(run.out)
    if mirror is None or (unchanged and mirror.size(USES) is not None):
        return
    indices = [run.out / "samples" / name for name in (SAMPLES_INDEX, EVALUATIONS_INDEX)]
    files = [*sorted((run.out / "ledger").glob("*.parquet")), *indices, run.out / USES]
    mirror.together(mirror.send, files)


def write_ledger(run: Run, prepared: Prepared) -> None:
    """The ledgers of scan, filter and count; each stage adds its own."""
    folder, partitions, selection = run.folder("ledger"), prepared.partitions, prepared.selection
    ledger.write(folder, "scan", [ledger.read(partition.scan_drops for partition in partitions)])
    ledger.write(
        folder,
        "filter",
        [_filter_lines(selection.rules, p, f) for p, f in zip(partitions, selection.first, strict=True)],
    )
    ledger.write(folder, "dedup", [line for lost in prepared.curated.drops for line in lost.lines(partitions)])
    ledger.write(folder, "count", [ledger.read(prepared.count_drops)])


def _filter_lines(rules: Sequence[Rule], partition: Partition, first: NDArray[np.int16]) -> pl.DataFrame:
    rows = np.flatnonzero(first != NO_FILTER)
    said = [rule.said(partition.source) if rule.applies_to(partition.source) else "" for rule in rules]
    details = pl.Series(said, dtype=pl.String).gather(first[rows].astype(np.int64))
    named = (partition.source, partition.file.uri)
    return ledger.of_rows(named, partition.samples, rows, "filter", "filtered", details)
