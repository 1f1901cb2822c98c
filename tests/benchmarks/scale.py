"""What metadata alone costs: filters, exact dedup, corpus, mixture and packing of millions of generated samples.

    python -m tests.benchmarks.scale [--samples 10 30] [--folder DIR]      # millions, each in a process of its own

The samples tables are written first, by another process: captions, instructions, pages, several photos and text alone
by tests/benchmarks/vlm_lengths.py, a tenth of them dropped by a filter and 2 % twice there. Everything after them is
the build's own code, but token stores hold no tokens. Peak is the process's resident memory within the step, growth
the bytes a sample between the first size and the last.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from mindvl_data.engines.local import LocalEngine
from mindvl_data.pipeline.assembly import draws_of
from mindvl_data.pipeline.curation import curate
from mindvl_data.pipeline.prepare import Prepared, corpus_of, hold_out
from mindvl_data.pipeline.publish import write_draws
from mindvl_data.pipeline.rewriting import Rewritten
from mindvl_data.pipeline.run import Run
from mindvl_data.pipeline.scanning import Partition
from mindvl_data.pipeline.scoring import Scores
from mindvl_data.pipeline.selecting import select
from mindvl_data.pipeline.spec import specs
from mindvl_data.pipeline.stage import Planned, plan_stage
from mindvl_data.recipe import load_recipe
from mindvl_data.sources.files import SourceFile
from mindvl_data.steps.estimate import Estimate
from mindvl_data.tables.schema import SAMPLES
from mindvl_data.tables.store import Store, from_samples, starts_of
from tests.benchmarks import vlm_lengths
from tests.conftest import QUICKSTART

PARTITION = 250_000
SOURCES = ("captions", "instructions", "pages")
RECIPE = {
    "name": "scale",
    "tokenizer": str(QUICKSTART / "tokenizer.json"),
    "sources": {name: {"format": "captions", "path": f"{name}.parquet", "kind": name} for name in SOURCES},
    "filters": [{"name": "text", "where": "text_chars >= 30 and (num_images = 0 or aspect <= 20)"}],
    "dedup": [{"by": "text"}],
    "stages": {
        "pretrain": {
            "seq_len": 8192,
            "budget": {"epochs": 1},
            "mixture": {"captions": 0.34, "rest": {"share": 0.66, "temperature": 2, "instructions": 1, "pages": 1}},
        }
    },
}
Step = tuple[str, float, float, int]


# ---------------------------------------------------------------------------------------- generated tables


def write_tables(folder: Path, samples: int) -> None:
    """Samples tables of PARTITION lines each; every fiftieth text is that of a line before it."""
    for number, start in enumerate(range(0, samples, PARTITION)):
        count = min(PARTITION, samples - start)
        pq.write_table(_table(number, count), folder / f"part-{number:04d}.parquet", compression="none")


def _table(number: int, count: int) -> pa.Table:
    rng = np.random.default_rng(number)
    text, vision = vlm_lengths.samples(count, seed=number)
    images = (vision > 0).astype(np.int64)
    hashes = rng.integers(0, 256, (count, 32), np.uint8)
    hashes[::50] = hashes[1::50][: len(hashes[::50])]
    cells = np.maximum(vision, 1)
    columns: dict[str, Any] = {
        "sample_id": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(16), count, [None, pa.py_buffer(rng.bytes(16 * count))]
        ),
        "key": pa.array(np.arange(count)).cast(pa.string()),
        "num_turns": pa.array(np.ones(count, np.int16)),
        "text_chars": pa.array((text * 4 + rng.integers(-3, 3, count)).astype(np.int32)),
        "num_images": pa.array(images.astype(np.int16)),
        "width": pa.array(np.full(count, 28, np.int32), mask=vision == 0),
        "height": pa.array((28 * cells).astype(np.int32), mask=vision == 0),
        "aspect": pa.array(rng.uniform(1, 22, count).astype(np.float32), mask=vision == 0),
        "text_hash": pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), count, [None, pa.py_buffer(hashes)]),
        "text": pa.array(text.astype(np.int32)),
        "vision": pa.array(vision.astype(np.int32)),
    }
    empty = {name: pa.nulls(count, SAMPLES.field(name).type) for name in ("uid", "replaced", "pixels", "image_bytes")}
    return pa.table(columns | empty)


def _stores(partitions: Sequence[Partition], kept: Sequence[np.ndarray]) -> Iterator[Store]:
    """What counting would leave of each table, without tokens: one image of a width that gives its vision tokens."""
    kind = SAMPLES.field("images").type
    for partition, mask in zip(partitions, kept, strict=True):
        table = pq.read_table(partition.samples, columns=["sample_id", "text_hash", "text", "vision"]).filter(
            pa.array(mask)
        )
        table = table.combine_chunks()
        text, vision = (table.column(name).to_numpy() for name in ("text", "vision"))
        has = vision > 0
        # 28 × (28 · tokens) pixels would be refused for its aspect: as square as the tokens allow.
        rows = np.maximum(1, np.sqrt(vision[has]).astype(np.int64))
        width, height = 28 * (vision[has] // rows), 28 * rows
        count = int(has.sum())
        flat = {"uri": pa.array(["x"] * count), "offset": np.arange(count), "size": np.full(count, 40_000)}
        flat |= {
            "width": width.astype(np.int32),
            "height": height.astype(np.int32),
            "format": pa.array(["jpeg"] * count),
        }
        values = [
            pa.array(flat[f.name], f.type) if f.name in flat else pa.nulls(count, f.type) for f in kind.value_type
        ]
        struct = pa.StructArray.from_arrays(values, fields=list(kind.value_type))
        images = pa.ListArray.from_arrays(pa.array(starts_of(has), pa.int32()), struct, type=kind)
        columns = [table.column(name).combine_chunks() for name in ("sample_id", "text_hash")]
        batch = pa.RecordBatch.from_arrays([*columns, images], ["sample_id", "text_hash", "images"])
        none = np.zeros(0, np.int32)
        yield from_samples(batch, none, none.astype(bool), starts_of(text + has), text.astype(np.int32))


# ------------------------------------------------------------------------------------------------- measured


def measured(folder: Path) -> list[Step]:
    """Every step's name, wall and CPU seconds, and peak resident bytes."""
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE))
    loaded = load_recipe(folder / "recipe.yaml")
    steps: list[Step] = []

    def timed(name: str, work: Callable[[], Any]) -> Any:
        Path("/proc/self/clear_refs").write_text("5")
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        steps.append((name, time.perf_counter() - wall, time.process_time() - cpu, _peak()))
        return result

    with LocalEngine(2) as engine:
        run = Run(loaded, folder / "out", engine, lambda *_: None, dry_run=True)
        parts = _partitions(folder)
        scores = Scores(run, parts)
        selection = timed("filters", lambda: select(run, parts, scores))
        curated = timed("exact dedup by text", lambda: curate(run, parts, [], selection.first, scores))
        corpus = timed("corpus", lambda: corpus_of(run, parts, _stores(parts, curated.kept)))
        timed("held-out set", lambda: hold_out(run, corpus))
        held = np.zeros(len(corpus), bool)
        stores = [folder / f"store-{number}" for number in range(len(parts))]
        known = {
            "corpus": corpus.without_content(),
            "held": held,
            "partitions": parts,
            "stores": stores,
            "stores_at": {},
            "estimates": {"all": Estimate(0, len(corpus), 0.0)},  # no published set is looked for
            "selection": selection,
            "curated": curated,
            "rewritten": Rewritten(parts),
        }
        # The rest is what a ledger is written from; none is here.
        prepared = Prepared(**({field.name: {} for field in fields(Prepared)} | known))  # type: ignore[arg-type]
        corpus = prepared.corpus
        (spec,) = specs(loaded.recipe)
        plan = timed("fit, mixture, packing, order", lambda: plan_stage(run, prepared, spec))
        assert isinstance(plan, Planned)
        timed(
            "draws",
            lambda: write_draws(folder / "draws", draws_of(corpus, plan.fitted.weights, plan.drawn, plan.packs, [0])),
        )
        print(
            f"{len(held):,} left, {len(plan.drawn):,} drawn, {len(plan.packs):,} packs, "
            f"fill {plan.data['packing']['fill']:.4%}"
        )
    return steps


def _partitions(folder: Path) -> list[Partition]:
    tables = sorted(folder.glob("part-*.parquet"))
    return [Partition(SOURCES[i % 3], _file(path), path, path, None, "1", None) for i, path in enumerate(tables)]  # type: ignore[arg-type]


def _file(path: Path) -> SourceFile:
    return SourceFile(str(path), path.name, path.name, 1, path.name, "", "")


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def _in_a_process_of_its_own(step: str, folder: Path, samples: int) -> str:
    """Standard output of this module run for one step; a failure there is one here."""
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--step", step, "--folder", str(folder)]
    return subprocess.run(
        [*command, "--samples", str(samples / 1e6)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=float, nargs="+", default=[1.0, 3.0], help="millions")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--step", choices=["write", "measure"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step == "write":
        return write_tables(arguments.folder, int(arguments.samples[0] * 1e6))
    if arguments.step == "measure":
        return print(json.dumps(measured(arguments.folder)))
    table = Table(title="CPU s (wall) and peak resident MB, by millions of samples", title_justify="left")
    table.add_column("step")
    columns: list[list[str]] = []
    peaks = []
    for millions in arguments.samples:
        samples = int(millions * 1e6)
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            _in_a_process_of_its_own("write", Path(name), samples)
            wall = time.perf_counter()
            steps = json.loads(_in_a_process_of_its_own("measure", Path(name), samples).splitlines()[-1])
            wall = time.perf_counter() - wall
        peaks.append((samples, max(peak for *_, peak in steps)))
        table.add_column(f"{millions:g}M", justify="right")
        columns.append([f"{cpu:.1f} ({w:.1f}) {peak / 1e6:,.0f}" for _, w, cpu, peak in steps])
        columns[-1].append(f"{sum(s[2] for s in steps):.1f} ({wall:.1f}) {peaks[-1][1] / 1e6:,.0f}")
        names = [step[0] for step in steps]
    for row, name in enumerate([*names, "all"]):
        table.add_row(name, *(column[row] for column in columns))
    Console().print(table)
    (first, low), (last, high) = peaks[0], peaks[-1]
    if last > first:
        print(f"growth {(high - low) / (last - first):.0f} bytes a sample")


if __name__ == "__main__":
    main()
