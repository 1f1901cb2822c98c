"""One packed set: fit, mix, pack and write for one stage and one sequence length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.errors import BuildError
from mindvl_data.packing import Packs, edges_of, order_packs
from mindvl_data.pipeline import publish
from mindvl_data.pipeline.allocating import with_means
from mindvl_data.pipeline.drawing import Drawn, drawn
from mindvl_data.pipeline.funnel import FunnelLine, funnel_lines, reasons_by_source
from mindvl_data.pipeline.summary import mixture, packing
from mindvl_data.runtime import fingerprints, reached
from mindvl_data.steps.fit import Fitted, Weights, fit, weigh
from mindvl_data.steps.write import write
from mindvl_data.tables.columns import chunks, let_go, taken
from mindvl_data.tables.store import Store, open_store, starts_of, weighted_rows

if TYPE_CHECKING:
    from mindvl_data.manifest import Manifest
    from mindvl_data.pipeline.prepare import Prepared
    from mindvl_data.pipeline.run import Run
    from mindvl_data.pipeline.spec import Spec
    from mindvl_data.recipe import Recipe
    from mindvl_data.steps.mix import Draw
    from mindvl_data.tables.corpus import Corpus

# What decides the bytes of a set, beside this file and `assembly`, which call it.
MAKERS = (fit, drawn, order_packs, write, mixture)


@dataclass(frozen=True)
class Published:
    """A packed set that is there already, with nothing left to do."""

    spec: Spec
    manifest: Manifest


@dataclass(frozen=True)
class Planned:
    """A packed set before it is written: `data` is its manifest as far as it is known then.

    names: its sources, in the recipe's order. keys: what its manifest and its content depend on.
    """

    spec: Spec
    names: Sequence[str]
    keys: Mapping[str, str]
    data: Mapping[str, Any]
    fitted: Fitted
    drawn: Draw
    packs: Packs


def plan_stage(run: Run, prepared: Prepared, spec: Spec) -> Planned | Published:
    """Fit, mix and pack one set, or find that it is there. Raises MixError, PackError or BuildError."""
    prepared, spec = prepared.at(spec.resolution), with_means(spec, prepared.means)
    corpus, recipe = prepared.corpus, run.recipe
    asked = corpus.sources if spec.mixture is None else set(spec.mixture.sources())
    names = [name for name in corpus.sources if name in asked]
    among = taken(np.array([name in asked for name in corpus.sources]), corpus.source)
    among &= prepared.held if spec.mixture is None else ~prepared.held
    funnel = [line.as_dict() for line in prepared.funnel if line.source in names]
    scores = {name: told for name, told in prepared.scores.items() if name in names}
    column = prepared.ordered_by[spec.stage].of(corpus) if spec.stage in prepared.ordered_by else None
    content_key = _content_key(run, prepared, spec, names, among, column)
    beside = [scores, prepared.curated.evaluations, prepared.rewritten.told]
    keys = {
        "content": content_key,
        "manifest": fingerprints.key(content_key, run.loaded.hash, funnel, beside),
    }
    publish.recover(run.out / spec.name)
    there = publish.published(run.out / spec.name, "manifest", keys["manifest"])
    if there is not None and not prepared.estimates:
        return Published(spec, there)

    fitted = _fit(run, prepared, spec, among)
    if spec.curriculum and column is None:
        column = fitted.weights.tokens.astype(np.float64)
    made = drawn(corpus, fitted, spec, names, recipe.seed, column)
    packs, costs = _ordered(fitted.weights, made, spec, recipe)
    mixed = mixture(made, fitted, corpus, spec)
    data = {
        **publish.header(run, spec.stage, spec.seq_len, spec.resolution, _has_clips(prepared, made.draw)),
        **({"loss_weights": True} if _has_weights(prepared, made.draw) else {}),
        "sources": publish.sources(run, prepared, names),
        **({"scores": scores} if scores else {}),
        **({"rewritten": prepared.rewritten.told} if prepared.rewritten.told else {}),
        **({"evaluations": prepared.curated.evaluations} if prepared.curated.evaluations else {}),
        "funnel": funnel + [line.as_dict() for line in _stage_funnel(corpus, spec, among, fitted, made.draw, names)],
        "mixture": mixed,
        "packing": packing(packs, made.draw, mixed["total"]["tokens"], costs, spec.seq_len, recipe.order.step),
        "order": {
            "rule": recipe.order.rule,
            "step": recipe.order.step,
            "seed": recipe.seed,
            **_curriculum(spec, recipe, made, column),
        },
    }
    return Planned(spec, names, keys, data, fitted, made.draw, packs)


def _content_key(
    run: Run,
    prepared: Prepared,
    spec: Spec,
    names: Sequence[str],
    among: NDArray[np.bool_],
    column: NDArray[np.float64] | None,
) -> str:
    """What the bytes of the shards depend on: the partitions used, what may be drawn of each, and the rules."""
    recipe, corpus = run.recipe, prepared.corpus
    starts = corpus.starts[: len(prepared.stores) + 1].tolist()
    used = [
        (store.name, fingerprints.of_bytes(np.packbits(among[a:b]).tobytes()))
        for store, (a, b) in zip(prepared.stores, pairwise(starts), strict=True)
        if among[a:b].any()
    ]
    return fingerprints.key(
        spec.__dict__ | {"resolution": spec.resolution.__dict__},
        names,
        used,
        [recipe.seed, recipe.media, recipe.shard_bytes, recipe.order.model_dump()],
        None if column is None else fingerprints.of_bytes(column[among].tobytes()),
        reached.code(*(made.__module__ for made in MAKERS), alone=(__name__, "mindvl_data.pipeline.assembly")),
    )


def _has_clips(prepared: Prepared, draw: Draw) -> bool:
    """Whether any sample that is drawn has a clip: of those the corpus has grids in the place of sizes."""
    corpus = prepared.corpus
    has = np.zeros(len(corpus), bool)
    for start, end in chunks(len(corpus)):
        starts = corpus.image_starts[start : end + 1]
        clips = starts_of(corpus.width[starts[0] : starts[-1]] < 0)
        has[start:end] = np.diff(clips[starts - starts[0]]) > 0
        let_go(corpus.image_starts, corpus.width)
    return bool(has.any()) and bool(taken(has, draw.samples).any())


def _has_weights(prepared: Prepared, draw: Draw) -> bool:
    """Whether a loss token of any sample that is drawn weighs anything else than 1."""
    every = ((number, weighted_rows(store)) for number, store in enumerate(prepared.stores))
    weighted = {number: rows for number, rows in every if rows is not None and rows.any()}
    if not weighted:
        return False
    partition, row = prepared.corpus.places(draw.samples)
    return any(rows[row[partition == number]].any() for number, rows in weighted.items())


def _fit(run: Run, prepared: Prepared, spec: Spec, among: NDArray[np.bool_]) -> Fitted:
    corpus = prepared.corpus
    fitted = fit(
        corpus,
        weigh(corpus, spec.resolution),
        among,
        spec.fit_len,
        # What a cut leaves is only known from the ids, which an estimate has not.
        "drop" if prepared.estimates else spec.overlong,
        spec.resolution,
        _token_reader(prepared),
        run.tokeniser.pads,
    )
    if spec.overlong == "error" and len(fitted.overlong):
        first = int(fitted.overlong[0])
        where = prepared.partitions[corpus.place(first)[0]].file.uri
        raise BuildError(
            f"stages.{spec.stage}: {len(fitted.overlong)} samples are longer than {spec.fit_len} tokens, the first is "
            f"{bytes(corpus.sample_ids[first]).hex()} of {where} ({fitted.weights.tokens[first]} tokens); lower "
            "max_pixels, raise seq_len, or set overlong: drop or truncate"
        )
    return fitted


def _token_reader(prepared: Prepared) -> Callable[[int], tuple[NDArray[np.int32], NDArray[np.bool_]]]:
    stores: dict[int, Store] = {}

    def read(sample: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        number, row = prepared.corpus.place(sample)
        if number not in stores:
            # Samples come by partition: one store open at a time is enough.
            stores.clear()
            stores[number] = open_store(prepared.stores[number])
        store = stores[number]
        span = slice(int(store.starts[row]), int(store.starts[row + 1]))
        return store.ids[span], store.loss[span]

    return read


def _ordered(
    weights: Weights, made: Drawn, spec: Spec, recipe: Recipe
) -> tuple[Packs, dict[str, dict[str, NDArray[np.int64]]]]:
    """The packs in the order they are written, and both costs of each in every order there is."""
    samples = made.draw.samples
    costs = {
        "attention": made.packs.sums(taken(weights.tokens, samples), power=2),
        "patches": made.packs.sums(taken(weights.patches, samples)),
    }
    orders = {
        rule: order_packs(
            *costs.values(), rule=rule, step=recipe.order.step, seed=recipe.seed, name=spec.name, borders=made.borders
        )
        for rule in ("balanced", "shuffled")
    }
    ordered = {rule: {name: values[order] for name, values in costs.items()} for rule, order in orders.items()}
    return made.packs.reordered(orders[recipe.order.rule]), ordered


def _curriculum(
    spec: Spec, recipe: Recipe, made: Drawn, column: NDArray[np.floating[Any]] | None
) -> dict[str, dict[str, Any]]:
    """What the manifest says of a stage's curriculum: its rule, where windows begin and end, draws without a value."""
    if spec.curriculum is None or made.borders is None or column is None:
        return {}
    missing = int(np.isnan(column[made.draw.samples]).sum())
    borders = edges_of(made.borders, recipe.order.step).tolist()
    return {"curriculum": {**spec.curriculum.model_dump(exclude_none=True), "borders": borders, "missing": missing}}


def _stage_funnel(
    corpus: Corpus, spec: Spec, among: NDArray[np.bool_], fitted: Fitted, drawn: Draw, names: Sequence[str]
) -> list[FunnelLine]:
    chosen = np.zeros(len(corpus), bool)
    chosen[drawn.samples] = True
    lost = {"overlong": fitted.overlong, "no_loss_token": fitted.emptied}
    reasons = reasons_by_source(corpus.sources, corpus.source, lost)
    fits = [
        FunnelLine(line.step, line.source, line.entered, line.left, reasons[corpus.sources.index(line.source)])
        for line in funnel_lines("fit", corpus.sources, corpus.source, among, fitted.fits)
    ]
    draws = funnel_lines("draw", corpus.sources, corpus.source, fitted.fits, chosen)
    return [line for line in fits + draws if line.source in names]
