"""Which samples stay: the filters' rules in their order, with the scores that they name and the tops they take."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.pipeline.funnel import FunnelLine
from mindvl_data.runtime import fingerprints, reached, seals
from mindvl_data.steps.filters import NO_FILTER, FilterTask, Rule, dropped_by, group_names, named_by, numbers, threshold

if TYPE_CHECKING:
    from mindvl_data.pipeline.pool import Pool
    from mindvl_data.pipeline.run import Run
    from mindvl_data.pipeline.scanning import Partition
    from mindvl_data.pipeline.scoring import Scores


@dataclass(frozen=True)
class Selection:
    """What the filters made of every partition.

    rules: with their thresholds. first: int16 a partition, for every line the number of the first rule that
    drops it, or NO_FILTER.
    """

    rules: tuple[Rule, ...]
    first: Sequence[NDArray[np.int16]]


def select(run: Run, partitions: Sequence[Partition], scores: Scores) -> Selection:
    """Apply every rule to what the rules before it left."""
    state = [np.full(pq.read_metadata(p.samples).num_rows, NO_FILTER, np.int16) for p in partitions]
    keys = [""] * len(partitions)
    rules: list[Rule] = []
    for block in blocks(run.rules, scores.costly):
        alive = [first == NO_FILTER for first in state]
        files = scores.files([named_by(block, p.source) for p in partitions], alive)
        tasks = [_task(run, p, scored, block, len(rules)) for p, scored in zip(partitions, files, strict=True)]
        inputs = [_inputs(p, task, key) for p, task, key in zip(partitions, tasks, keys, strict=True)]
        if block[0].top is not None:
            block = (_with_thresholds(run, block[0], tasks, inputs, state),)
            tasks = [replace(task, rules=block) for task in tasks]
        keys = [fingerprints.key(key, [asdict(rule) for rule in block]) for key in inputs]
        state = [_dropped(run, i, *one, len(tasks)) for i, one in enumerate(zip(tasks, keys, state, strict=True))]
        rules += block
    return Selection(tuple(rules), state)


def blocks(rules: Sequence[Rule], costly: Collection[str]) -> Iterator[tuple[Rule, ...]]:
    """Rules that one pass over a partition applies.

    A top waits for all partitions and stands alone; a rule that names a costly column begins a block, so that a
    model is asked about what the rules before it left.
    """
    together: list[Rule] = []
    for rule in rules:
        if together and (rule.top is not None or together[0].top is not None or named_by((rule,)) & set(costly)):
            yield tuple(together)
            together = []
        together.append(rule)
    if together:
        yield tuple(together)


def _task(run: Run, partition: Partition, scored: Sequence[Path], block: tuple[Rule, ...], first: int) -> FilterTask:
    kind = run.recipe.sources[partition.source].kind
    data = (partition.columns,) if partition.columns else ()
    return FilterTask(partition.source, kind, partition.samples, (*data, *scored), block, first, partition.kinds)


def _inputs(partition: Partition, task: FilterTask, before: str) -> str:
    """What a block's outcome for a partition depends on, beside its rules."""
    kinds = {name: str(kind) for name, kind in task.kinds.items()}
    code = reached.code(dropped_by.__module__)
    return fingerprints.key(before, task.kind, partition.version, [path.name for path in task.columns], kinds, code)


def _dropped(
    run: Run, number: int, task: FilterTask, key: str, before: NDArray[np.int16], of: int
) -> NDArray[np.int16]:
    path = task.samples.with_suffix(f".filter-{key}.npy")
    if not seals.is_whole(path):
        run.work["filter"] += 1
        run.progress("filter", number + 1, of)
        with seals.sealed(path) as partial, partial.open("wb") as file:
            np.save(file, dropped_by(task, before))
    first: NDArray[np.int16] = np.load(seals.checked(path))
    return first


def _with_thresholds(
    run: Run, rule: Rule, tasks: Sequence[FilterTask], inputs: Sequence[str], state: Sequence[NDArray[np.int16]]
) -> Rule:
    """The rule with what its top begins at, of each source or of all together."""
    names = [task.samples.name for task in tasks]
    path = run.folder("samples") / f"top-{fingerprints.key(asdict(rule), names, inputs)}.json"
    run.used.add(path)
    if not seals.is_whole(path):
        run.work["top"] += 1
        found: dict[str, list[NDArray[np.float64]]] = {}
        for task, first in zip(tasks, state, strict=True):
            if rule.applies_to(task.source):
                group = task.source if rule.per else ""
                reached = numbers(task)[first == NO_FILTER]
                found.setdefault(group, []).append(reached[~np.isnan(reached)])
        assert rule.top is not None
        starts = {group: threshold(np.concatenate(parts), rule.top) for group, parts in found.items()}
        with seals.sealed(path) as partial:
            partial.write_text(json.dumps(starts))
    starts = json.loads(seals.checked(path).read_text())
    by_source = {name: starts[name if rule.per else ""] for name in run.recipe.sources if rule.applies_to(name)}
    return replace(rule, thresholds=by_source)


def numbers_of(
    run: Run, partitions: Sequence[Partition], scores: Scores, rule: Rule, pool: Pool
) -> NDArray[np.float64]:
    """What an expression is for every sample of a pool, float64 [n]; NaN where it is missing."""
    tasks = _pool_tasks(run, partitions, scores, rule, pool)
    found = [numbers(task)[pool.rows_of(number)] for number, task in tasks]
    return np.concatenate([np.zeros(0), *found])


def groups_of(run: Run, partitions: Sequence[Partition], scores: Scores, rule: Rule, pool: Pool) -> pl.Series:
    """The same as text, String [n]; null where it is missing."""
    tasks = _pool_tasks(run, partitions, scores, rule, pool)
    found = [group_names(task).gather(pool.rows_of(number)) for number, task in tasks]
    return pl.concat([pl.Series([], dtype=pl.String), *found])


def holding(
    run: Run,
    partitions: Sequence[Partition],
    scores: Scores,
    rule: Rule | None,
    sources: Sequence[str] | None,
    kept: Sequence[NDArray[np.bool_]],
) -> list[NDArray[np.bool_]]:
    """Which of the kept lines of these sources an expression holds for (all, where there is none): bool a partition."""
    chosen = [mask & (sources is None or p.source in sources) for p, mask in zip(partitions, kept, strict=True)]
    if rule is None:
        return chosen
    files = scores.files([named_by((rule,)) if mask.any() else set() for mask in chosen], chosen)
    for number, (partition, scored) in enumerate(zip(partitions, files, strict=True)):
        if chosen[number].any():
            before = np.where(chosen[number], NO_FILTER, 0).astype(np.int16)
            chosen[number] = dropped_by(_task(run, partition, scored, (rule,), 0), before) == NO_FILTER
    return chosen


def _pool_tasks(
    run: Run, partitions: Sequence[Partition], scores: Scores, rule: Rule, pool: Pool
) -> list[tuple[int, FilterTask]]:
    """How to evaluate an expression over every partition that has samples in the pool."""
    asked = [named_by((rule,)) if len(pool.rows_of(i)) else set() for i in range(len(partitions))]
    alive = [np.zeros(pq.read_metadata(p.samples).num_rows, bool) for p in partitions]
    for number, mask in enumerate(alive):
        mask[pool.rows_of(number)] = True
    files = scores.files(asked, alive)
    pairs = enumerate(zip(partitions, files, strict=True))
    return [(i, _task(run, p, scored, (rule,), 0)) for i, (p, scored) in pairs if len(pool.rows_of(i))]


def filter_funnel(run: Run, partitions: Sequence[Partition], selection: Selection) -> list[FunnelLine]:
    """How many samples of every source each rule dropped."""
    lines = []
    order = [f"filter: {rule.name}" for rule in selection.rules]
    for name in run.recipe.sources:
        mine = [
            np.zeros(0, np.int16),
            *(f for p, f in zip(partitions, selection.first, strict=True) if p.source == name),
        ]
        dropped = np.bincount(np.concatenate(mine) + 1, minlength=len(selection.rules) + 1)
        entered = int(dropped.sum())
        for number, rule in enumerate(selection.rules):
            lost = int(dropped[number + 1])
            reasons = {"filtered": lost} if lost else {}
            lines.append(FunnelLine(f"filter: {rule.name}", name, entered, entered - lost, reasons))
            entered -= lost
    return sorted(lines, key=lambda line: order.index(line.step))
