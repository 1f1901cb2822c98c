"""What leaves because of other samples: what evaluation sets hold, duplicates, what is too many, what trains least."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.pipeline.funnel import FunnelLine
from mindvl_data.pipeline.pool import Pool, features, matches, pairs, pool_of
from mindvl_data.pipeline.scoring import Scores
from mindvl_data.pipeline.selecting import groups_of, numbers_of
from mindvl_data.runtime import fingerprints, reached, seals
from mindvl_data.runtime.memory import give_back
from mindvl_data.steps.balance import capped, flattened, staying
from mindvl_data.steps.dedup import kept_of, ranks
from mindvl_data.steps.filters import NO_FILTER
from mindvl_data.steps.round_robin import chosen, ranking, styles_of, ties
from mindvl_data.tables import ledger

if TYPE_CHECKING:
    from mindvl_data.pipeline.run import Run
    from mindvl_data.pipeline.scanning import Partition
    from mindvl_data.recipe.balance import Balance
    from mindvl_data.recipe.duplicates import Decontaminate, Dedup
    from mindvl_data.recipe.select import Select


@dataclass(frozen=True)
class Lost:
    """Samples that a rule drops. details: makes a text for each, String [samples]; they take far more memory."""

    samples: Pool
    step: str
    reason: str
    details: Callable[[], pl.Series]

    def lines(self, partitions: Sequence[Partition]) -> Iterator[pl.DataFrame]:
        """Their lines of the ledger, a partition at a time."""
        details = self.details()
        for number, partition in enumerate(partitions):
            first, end = np.searchsorted(self.samples.partition, [number, number + 1])
            if first < end:
                named, rows = (partition.source, partition.file.uri), self.samples.row[first:end]
                why = details.slice(first, end - first)
                yield ledger.of_rows(named, partition.samples, rows, self.step, self.reason, why)


@dataclass
class Curated:
    """kept: what is left, bool a partition. funnel, drops: what became of the rest, by rule in their order.

    evaluations: of every evaluation set its samples, and how many of them some training sample is alike to.
    """

    kept: list[NDArray[np.bool_]]
    funnel: list[FunnelLine] = field(default_factory=list)
    drops: list[Lost] = field(default_factory=list)
    evaluations: dict[str, dict[str, int]] = field(default_factory=dict)


def curate(
    run: Run,
    partitions: Sequence[Partition],
    evaluations: Sequence[Partition],
    first: Sequence[NDArray[np.int16]],
    scores: Scores,
) -> Curated:
    """Decontaminate, dedup, balance, select, rule by rule, from what the filters left (see Selection.first)."""
    curated = Curated([numbers == NO_FILTER for numbers in first])
    sets = Scores(run, evaluations)
    for rule in run.recipe.decontaminate:
        _decontaminate(run, partitions, evaluations, (scores, sets), rule, curated)
    for number, duplicates in enumerate(run.recipe.dedup):
        _dedup(run, partitions, scores, duplicates, number, curated)
    for number, balance in enumerate(run.recipe.balance):
        _balance(run, partitions, scores, balance, number, curated)
    for number, selection in enumerate(run.recipe.select):
        _select(run, partitions, scores, selection, number, curated)
    give_back()
    return curated


def _pool(run: Run, partitions: Sequence[Partition], curated: Curated, sources: Sequence[str] | None) -> Pool:
    names = list(run.recipe.sources)
    chosen = [kept & (sources is None or p.source in sources) for p, kept in zip(partitions, curated.kept, strict=True)]
    return pool_of(partitions, chosen, names)


# --------------------------------------------------------------------------------------- decontaminate


def _decontaminate(
    run: Run,
    partitions: Sequence[Partition],
    evaluations: Sequence[Partition],
    scores: tuple[Scores, Scores],
    rule: Decontaminate,
    curated: Curated,
) -> None:
    """Every sample that is alike to one of an evaluation set leaves, because of the first set that has such a one.

    By image one image is enough.
    """
    names = list(run.recipe.evaluations)
    asked = [name for name in names if rule.against is None or name in rule.against]
    every = [np.ones(pq.read_metadata(p.samples).num_rows, bool) & (p.source in asked) for p in evaluations]
    pool, theirs = _pool(run, partitions, curated, rule.sources), pool_of(evaluations, every, names)
    here = features(run, pool, partitions, scores[0], rule, each=True)
    there = features(run, theirs, evaluations, scores[1], rule, each=True)

    def look() -> dict[str, NDArray[Any]]:
        ours, others = matches(rule, here, there)
        # Of several the first: in the recipe's order of sets, then of their samples.
        order = np.lexsort((others, ours))
        left, first = np.unique(ours[order], return_index=True)
        return {"left": left, "other": others[order][first], "found": np.unique(others)}

    found = _cached(run, "decontaminate", [rule.model_dump(), asked, here.version, there.version], look)
    ids = theirs.taken(found["other"]).ids(evaluations)
    for number, name in enumerate(names):
        if name in asked:
            told = curated.evaluations.setdefault(name, {"samples": int((theirs.source == number).sum()), "found": 0})
            told["found"] = max(told["found"], int((theirs.source[found["found"]] == number).sum()))
            mine = theirs.source[found["other"]] == number
            lost = pool.taken(found["left"][mine])
            details = partial(_with_ids, "like ", ids[mine], f" of {name} ({rule.said})")
            _note(run, partitions, curated, lost, f"decontaminate: {name}: {rule.said}", "contaminated", details)


# ----------------------------------------------------------------------------------------------- dedup


def _dedup(
    run: Run, partitions: Sequence[Partition], scores: Scores, rule: Dedup, number: int, curated: Curated
) -> None:
    """Of samples that are alike the one of the smallest rank stays."""
    pool = _pool(run, partitions, curated, rule.sources)
    found = features(run, pool, partitions, scores, rule)
    prefer = _preferred(run, partitions, scores, f"dedup.{number}.prefer", pool)

    def look() -> dict[str, NDArray[Any]]:
        left, right = pairs(rule, found)
        involved = np.unique(np.concatenate([left, right]))
        few = pool.taken(involved)
        rank = ranks(None if prefer is None else prefer[involved], few.source, few.ids(partitions))
        stays = kept_of(len(few), np.searchsorted(involved, left), np.searchsorted(involved, right), rank)
        lost = np.flatnonzero(stays != np.arange(len(few)))
        return {"left": involved[lost], "other": involved[stays[lost]]}

    version = None if prefer is None else fingerprints.of_bytes(prefer.tobytes())
    result = _cached(run, "dedup", [rule.model_dump(), list(run.recipe.sources), found.version, version], look)
    reason = "duplicate" if rule.near is None else "near_duplicate"
    others = pool.taken(result["other"]).ids(partitions)
    details = partial(_with_ids, "like ", others, f", which stays ({rule.said})")
    _note(run, partitions, curated, pool.taken(result["left"]), f"dedup: {rule.said}", reason, details)


def _preferred(
    run: Run, partitions: Sequence[Partition], scores: Scores, place: str, pool: Pool
) -> NDArray[np.float64] | None:
    rule = run.expressions.get(place)
    return None if rule is None else numbers_of(run, partitions, scores, rule, pool)


# --------------------------------------------------------------------------------------------- balance


def _balance(
    run: Run, partitions: Sequence[Partition], scores: Scores, rule: Balance, number: int, curated: Curated
) -> None:
    """Of each group so many stay as the rule says; cheap beside what its scores cost, so that nothing is stored."""
    pool = _pool(run, partitions, curated, rule.sources)
    named = groups_of(run, partitions, scores, run.expressions[f"balance.{number}.by"], pool)
    names = named.drop_nulls().unique().sort()
    codes = named.replace_strict(names, pl.arange(0, len(names), eager=True), default=-1, return_dtype=pl.Int64)
    groups = codes.to_numpy()
    sizes = np.bincount(groups[groups >= 0], minlength=len(names)).astype(np.int64)
    if rule.share is None:
        assert rule.cap is not None
        counts = capped(sizes, rule.cap)
    else:
        counts = flattened(sizes, rule.share, rule.exponent)
    prefer = _preferred(run, partitions, scores, f"balance.{number}.prefer", pool)
    lost = np.flatnonzero(~staying(groups, counts, pool.ids(partitions), prefer, run.recipe.seed))
    said = [f"{rule.name}: {rule.by} is {group}: {counts[i]} of {sizes[i]} stay" for i, group in enumerate(names)]
    details = partial(pl.Series(said, dtype=pl.String).gather, groups[lost])
    _note(run, partitions, curated, pool.taken(lost), f"balance: {rule.name}", "balanced", details)


# ---------------------------------------------------------------------------------------------- select


def _select(
    run: Run, partitions: Sequence[Partition], scores: Scores, rule: Select, number: int, curated: Curated
) -> None:
    """A share of all stays, that capabilities choose in turns."""
    pool = _pool(run, partitions, curated, rule.sources)
    place = f"select.{number}.by"
    said, origin = (
        groups_of(run, partitions, scores, run.expressions[f"{place}.{key}"], pool)
        if f"{place}.{key}" in run.expressions
        else None
        for key in ("styles", "origin")
    )
    assert said is not None
    rank = ties(pool.ids(partitions), run.recipe.seed)
    expressions = [one for path, one in run.expressions.items() if path.startswith(f"{place}.capabilities.")]
    rankings = [ranking(numbers_of(run, partitions, scores, one, pool), rule.by.above, rank) for one in expressions]
    stays = chosen(rankings, styles_of(said, origin), int(len(pool) * rule.share))
    lost = np.flatnonzero(~stays)
    text = f"{rule.name}: {int(stays.sum())} of {len(pool)} stay, by {len(expressions)} capabilities and their styles"
    details = partial(pl.Series([text], dtype=pl.String).new_from_index, 0, len(lost))
    _note(run, partitions, curated, pool.taken(lost), f"select: {rule.name}", "not_selected", details)


# ---------------------------------------------------------------------------------------------- shared


def _cached(
    run: Run, step: str, parts: Sequence[object], look: Callable[[], dict[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """What `look` finds, from the build folder when it was found before."""
    path = run.folder("samples") / f"{step}-{fingerprints.key(parts, reached.code(pairs.__module__))}.npz"
    run.used.add(path)
    if not seals.is_whole(path):
        run.work[step] += 1
        run.progress(step, 0, 1)
        with seals.sealed(path) as written, written.open("wb") as file:
            np.savez(file, allow_pickle=False, **look())
    with np.load(seals.checked(path)) as file:
        return dict(file)


def _with_ids(before: str, ids: NDArray[np.uint8], after: str) -> pl.Series:
    """Texts around sample ids (uint8 [n, 16]) in hexadecimal: String [n]."""
    flat = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(ids), [None, pa.py_buffer(ids.tobytes())])
    written = pl.Series("id", flat).cast(pl.Binary).bin.encode("hex")
    return written.to_frame().select(pl.concat_str(pl.lit(before), "id", pl.lit(after))).to_series()


def _note(
    run: Run,
    partitions: Sequence[Partition],
    curated: Curated,
    lost: Pool,
    step: str,
    reason: str,
    details: Callable[[], pl.Series],
) -> None:
    """Take the lost samples out of what is kept, and note why."""
    names = list(run.recipe.sources)
    before = np.zeros(len(names), np.int64)
    for partition, kept in zip(partitions, curated.kept, strict=True):
        before[names.index(partition.source)] += int(kept.sum())
    gone = np.bincount(lost.source, minlength=len(names))
    for number, name in enumerate(names):
        left = int(before[number] - gone[number])
        curated.funnel.append(
            FunnelLine(step, name, int(before[number]), left, {reason: int(gone[number])} if gone[number] else {})
        )
    for number, kept in enumerate(curated.kept):
        kept[lost.rows_of(number)] = False
    curated.drops.append(Lost(lost, step.split(":")[0], reason, details))
