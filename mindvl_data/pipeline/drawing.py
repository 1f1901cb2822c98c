"""What a packed set draws, and the packs this makes: together, since a budget in packs needs both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.errors import BuildError
from mindvl_data.packing import Packs, index_type, plan, plan_windows
from mindvl_data.recipe import Budget
from mindvl_data.steps.curriculum import rising
from mindvl_data.steps.mix import Asked, Draw, Pool, ask, check_repeats, draw, pass_order
from mindvl_data.tables.columns import let_go, taken

if TYPE_CHECKING:
    from mindvl_data.pipeline.spec import Spec
    from mindvl_data.steps.fit import Fitted, Weights
    from mindvl_data.tables.corpus import Corpus


@dataclass(frozen=True)
class Drawn:
    """What was asked for, the draw, its packs before they are ordered, and where windows of them begin."""

    asked: Asked
    draw: Draw
    packs: Packs
    borders: NDArray[np.int64] | None


def drawn(
    corpus: Corpus,
    fitted: Fitted,
    spec: Spec,
    names: Sequence[str],
    seed: int,
    column: NDArray[np.floating[Any]] | None = None,
) -> Drawn:
    """Draw and pack one set; column: of every sample, what a curriculum orders by.

    Raises MixError, PackError or BuildError.
    """
    asked, found = _draw({name: _pool(corpus, fitted, spec.by, name) for name in names}, spec, seed)
    let_go(corpus.sample_ids, corpus.loss_tokens)
    if not len(found):
        raise BuildError(f"{spec.name}: nothing is left to pack; see the funnel of `plan`")
    _check_patches(corpus, fitted.weights, found, spec)
    if spec.budget and spec.budget.packs:
        at_fit_len = replace(spec, seq_len=spec.fit_len)
        found, packs, borders = _within_packs(
            corpus, fitted.weights, found, at_fit_len, spec.budget.packs, seed, column
        )
        if spec.seq_len != spec.fit_len:
            packs, borders = _pack(corpus, fitted.weights, found, spec, seed, column)
    else:
        packs, borders = _pack(corpus, fitted.weights, found, spec, seed, column)
    return Drawn(asked, found, packs, borders)


def _pool(corpus: Corpus, fitted: Fitted, by: str, name: str) -> Pool:
    rows = np.flatnonzero(fitted.fits & (corpus.source == corpus.sources.index(name)))
    measure = None if by == "samples" else getattr(fitted.weights, by)
    return Pool(rows.astype(index_type(len(corpus))), corpus.sample_ids, fitted.weights.tokens, measure)


def _draw(pools: Mapping[str, Pool], spec: Spec, seed: int) -> tuple[Asked, Draw]:
    if spec.mixture is None:
        return _everything(pools, spec, seed)
    budget = spec.budget
    if budget and budget.packs:
        # What so many packs hold at most; how much less they do hold is only known once it is packed.
        budget = Budget(tokens=budget.packs * spec.fit_len)
    asked = ask(pools, spec.mixture, budget, spec.by, spec.stage)
    check_repeats(pools, asked, spec.max_epochs, spec.by, spec.stage)
    return asked, draw(pools, asked, seed, spec.stage)


def _everything(pools: Mapping[str, Pool], spec: Spec, seed: int) -> tuple[Asked, Draw]:
    """Each sample once: the held-out set."""
    total = sum(pool.size for pool in pools.values())
    asked = Asked({name: pool.size / total for name, pool in pools.items() if pool.size}, total)
    rows = np.sort(np.concatenate([pool.samples for pool in pools.values()]))
    ids = next(iter(pools.values())).sample_ids
    return asked, Draw(taken(rows, pass_order(ids, rows, seed, spec.stage)), np.zeros(len(rows), np.int16))


def _within_packs(
    corpus: Corpus,
    weights: Weights,
    found: Draw,
    spec: Spec,
    most: int,
    seed: int,
    column: NDArray[np.floating[Any]] | None,
) -> tuple[Draw, Packs, NDArray[np.int64] | None]:
    """The largest draw looked at that makes `most` packs, by bisection: a draw and the packs of it."""
    ends = np.cumsum(weights.tokens[found.samples], dtype=np.int64)
    good, bad = 0, int(np.searchsorted(ends, most * spec.seq_len, side="right")) + 1
    end = min(bad - 1, len(found))
    while True:
        packs, borders = _pack(corpus, weights, found.first(end), spec, seed, column)
        if len(packs) > most:
            bad = end
        else:
            good = end
        if len(packs) == most or bad - good <= 1:
            break
        # What is over is about what has to go; should that have been too much, halve the way back.
        fewer = int(np.searchsorted(ends, ends[end - 1] - (len(packs) - most) * spec.seq_len, side="right"))
        end = fewer if good < fewer < bad else (good + bad) // 2
    if end != good:
        packs, borders = _pack(corpus, weights, found.first(good), spec, seed, column)
    return found.first(good), packs, borders


def _pack(
    corpus: Corpus,
    weights: Weights,
    found: Draw,
    spec: Spec,
    seed: int,
    column: NDArray[np.floating[Any]] | None,
) -> tuple[Packs, NDArray[np.int64] | None]:
    lengths, patches = taken(weights.tokens, found.samples), taken(weights.patches, found.samples)
    # Without repeats nothing has to be kept apart.
    samples = found.samples if found.repeats.any() else None
    window = spec.window
    if column is not None:
        stored = _rising(corpus, found, spec, column)
        window = -(-len(found) // (spec.curriculum.windows if spec.curriculum else 1))
    elif window is not None:
        stored = _as_stored(corpus, found)
    else:
        limits = (patches, spec.max_patches, spec.max_samples)
        return plan(lengths, spec.seq_len, *limits, seed=seed, samples=samples), None
    limits = (patches[stored], spec.max_patches, spec.max_samples)
    of = None if samples is None else samples[stored]
    packs, borders = plan_windows(lengths[stored], spec.seq_len, window, *limits, seed=seed, samples=of)
    return replace(packs, index=stored[packs.index]), borders


def _rising(corpus: Corpus, found: Draw, spec: Spec, column: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The draws, int64 [draws], in the order of the stage's curriculum."""
    assert spec.curriculum
    groups = corpus.source[found.samples] if spec.curriculum.per else None
    return rising(column[found.samples], groups, spec.curriculum.descending)


def _check_patches(corpus: Corpus, weights: Weights, found: Draw, spec: Spec) -> None:
    if spec.max_patches is None:
        return
    patches = taken(weights.patches, found.samples)
    if (patches <= spec.max_patches).all():
        return
    first = int(np.argmax(patches > spec.max_patches))
    raise BuildError(
        f"stages.{spec.stage}.max_patches: the sample {bytes(corpus.sample_ids[found.samples[first]]).hex()} has "
        f"{patches[first]:,} patches, a pack holds {spec.max_patches:,}; raise it, lower the stage's "
        "resolution.max_pixels, or filter the sample out"
    )


def _as_stored(corpus: Corpus, found: Draw) -> NDArray[np.int64]:
    """The draws, int64 [draws], where each pass over a source goes through it as it lies; sources stay mixed."""
    of = (corpus.source[found.samples], found.repeats)
    places = np.lexsort((np.arange(len(found)), *of))
    stored = np.empty(len(places), np.int64)
    stored[places] = np.lexsort((found.samples, *of))
    return stored
