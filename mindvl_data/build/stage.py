"""One packed set: fit, mix, pack and write for one stage and one sequence length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data import fingerprints
from mindvl_data.build import publish
from mindvl_data.build.prepare import Prepared
from mindvl_data.build.run import BuildError, Run, bounds_of
from mindvl_data.build.summary import FunnelLine, funnel_lines, mixture, packing, reasons_by_source
from mindvl_data.corpus import Corpus
from mindvl_data.fit import Fitted, Weights, fit, weigh
from mindvl_data.manifest import Manifest
from mindvl_data.mix import Draw, Pool, draw, pass_order
from mindvl_data.pack import Packs, order_packs, plan, plan_windows
from mindvl_data.recipe import Budget, Recipe
from mindvl_data.store import Store, open_store
from mindvl_data.vision import Resolution

STAGE_CODE = tuple(
    f"mindvl_data.{name}"
    for name in ("corpus", "draws", "holdout", "fit", "mix", "pack", "write", "shards", "vision", "build")
)


@dataclass(frozen=True)
class Spec:
    """One packed set to make. `fit_len`: the longest sample it may draw. `mixture` None: all held-out samples."""

    stage: str
    seq_len: int
    fit_len: int
    overlong: str
    resolution: Resolution
    mixture: Mapping[str, float] | None
    budget: Budget | None
    max_repeats: float
    max_patches: int | None = None
    max_samples: int | None = None
    window: int | None = None

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.seq_len}"


@dataclass(frozen=True)
class Planned:
    """A packed set before it is written: `data` is its manifest as far as it is known then.

    names: its sources, in the recipe's order. keys: what its manifest and its content depend on. there: the
    set as it is published already, with nothing left to do; the rest is None then.
    """

    spec: Spec
    names: Sequence[str]
    keys: Mapping[str, str]
    data: Mapping[str, Any]
    there: Manifest | None = None
    fitted: Fitted | None = None
    drawn: Draw | None = None
    packs: Packs | None = None


def specs(recipe: Recipe) -> list[Spec]:
    """Every packed set of a recipe, in the order of its stages, the held-out set last."""
    found = []
    for name, stage in recipe.stages.items():
        resolution = bounds_of(recipe, stage)
        for seq_len in stage.seq_len:
            fit_len = seq_len if stage.fit == "each" else min(stage.seq_len)
            found.append(
                Spec(
                    name,
                    seq_len,
                    fit_len,
                    stage.overlong,
                    resolution,
                    stage.mixture,
                    stage.budget,
                    stage.max_repeats,
                    stage.max_patches,
                    stage.max_samples,
                    stage.window,
                )
            )
    if recipe.holdout:
        length = recipe.holdout.seq_len
        found.append(Spec("holdout", length, length, "drop", bounds_of(recipe), None, None, 1))
    return found


def plan_stage(run: Run, prepared: Prepared, spec: Spec) -> Planned:
    """Fit, mix and pack one set, or find that it is there. Raises MixError, PackError or BuildError."""
    prepared = prepared.at(spec.resolution)
    corpus, recipe = prepared.corpus, run.recipe
    names = [name for name in corpus.sources if spec.mixture is None or name in spec.mixture]
    among = np.isin(corpus.source, [corpus.sources.index(name) for name in names])
    among &= prepared.held if spec.mixture is None else ~prepared.held
    funnel = [line.as_dict() for line in prepared.funnel if line.source in names]
    scores = {name: told for name, told in prepared.selection.scores.items() if name in names}
    content_key = _content_key(run, prepared, spec, names, among)
    keys = {"content": content_key, "manifest": fingerprints.key(content_key, run.loaded.hash, funnel, scores)}
    publish.recover(run.out / spec.name)
    there = publish.published(run.out / spec.name, "manifest", keys["manifest"])
    if there is not None and not prepared.estimates:
        return Planned(spec, names, keys, there.data, there)

    fitted = _fit(run, prepared, spec, among)
    drawn = _draw(corpus, fitted, spec, names, recipe.seed)
    packs, costs = _pack(corpus, fitted.weights, drawn, spec, recipe)
    data = {
        **publish.header(run, spec.stage, spec.seq_len, spec.resolution),
        "sources": publish.sources(run, prepared, names),
        **({"scores": scores} if scores else {}),
        "funnel": funnel + [line.as_dict() for line in _stage_funnel(corpus, spec, among, fitted, drawn, names)],
        "mixture": _mixture(corpus, fitted, drawn, spec, names),
        "packing": packing(packs, _taken(fitted.weights, drawn.samples), costs, spec.seq_len, recipe.order.step),
        "order": {"rule": recipe.order.rule, "step": recipe.order.step, "seed": recipe.seed},
    }
    return Planned(spec, names, keys, data, None, fitted, drawn, packs)


def _content_key(run: Run, prepared: Prepared, spec: Spec, names: Sequence[str], among: NDArray[np.bool_]) -> str:
    """What the bytes of the shards depend on: the partitions used, what may be drawn of each, and the rules."""
    recipe, corpus = run.recipe, prepared.corpus
    borders = np.searchsorted(corpus.partition, np.arange(len(prepared.stores) + 1))
    used = [
        (store.name, fingerprints.of_bytes(np.packbits(among[a:b]).tobytes()))
        for store, a, b in zip(prepared.stores, borders[:-1].tolist(), borders[1:].tolist(), strict=True)
        if among[a:b].any()
    ]
    return fingerprints.key(
        spec.__dict__ | {"resolution": spec.resolution.__dict__},
        names,
        used,
        [recipe.seed, recipe.media, recipe.shard_bytes, recipe.order.model_dump()],
        fingerprints.code(*STAGE_CODE),
    )


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
        run.tokeniser.special_ids["image_pad"],
    )
    if spec.overlong == "error" and fitted.lost:
        first = next(iter(fitted.lost))
        where = prepared.partitions[corpus.partition[first]].file.uri
        raise BuildError(
            f"stages.{spec.stage}: {len(fitted.lost)} samples are longer than {spec.fit_len} tokens, the first is "
            f"{bytes(corpus.sample_ids[first]).hex()} of {where} ({fitted.lost[first][1]}); lower max_pixels, raise "
            "seq_len, or set overlong: drop or truncate"
        )
    return fitted


def _token_reader(prepared: Prepared) -> Callable[[int], tuple[NDArray[np.int32], NDArray[np.bool_]]]:
    stores: dict[int, Store] = {}

    def read(sample: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        number, row = int(prepared.corpus.partition[sample]), int(prepared.corpus.row[sample])
        if number not in stores:
            # Samples come by partition: one store open at a time is enough.
            stores.clear()
            stores[number] = open_store(prepared.stores[number])
        store = stores[number]
        span = slice(int(store.starts[row]), int(store.starts[row + 1]))
        return store.ids[span], store.loss[span]

    return read


def _draw(corpus: Corpus, fitted: Fitted, spec: Spec, names: Sequence[str], seed: int) -> Draw:
    if spec.mixture is None:
        rows = np.flatnonzero(fitted.fits)
        order = rows[pass_order(corpus.sample_ids[rows], seed, spec.stage)]
        return Draw(order, np.zeros(len(order), np.int16))
    assert spec.budget is not None
    return draw(
        {name: _pool(corpus, fitted, name) for name in names},
        spec.mixture,
        tokens=spec.budget.tokens,
        epochs=spec.budget.epochs,
        max_repeats=spec.max_repeats,
        seed=seed,
        stage=spec.stage,
    )


def _pool(corpus: Corpus, fitted: Fitted, name: str) -> Pool:
    rows = np.flatnonzero(fitted.fits & (corpus.source == corpus.sources.index(name)))
    return Pool(rows, corpus.sample_ids[rows], fitted.weights.tokens[rows])


def _pack(
    corpus: Corpus, weights: Weights, drawn: Draw, spec: Spec, recipe: Recipe
) -> tuple[Packs, dict[str, dict[str, NDArray[np.int64]]]]:
    """The packs in the order they are written, and both costs of each in every order there is."""
    if not len(drawn.samples):
        raise BuildError(f"{spec.name}: nothing is left to pack; see the funnel of `plan`")
    lengths, patches = weights.tokens[drawn.samples], weights.patches[drawn.samples]
    _check_patches(corpus, drawn, patches, spec)
    limits = (patches, spec.max_patches, spec.max_samples)
    borders = None
    if spec.window is None:
        packs = plan(lengths, spec.seq_len, *limits, seed=recipe.seed)
    else:
        stored = _as_stored(corpus, drawn)
        limits = (patches[stored], spec.max_patches, spec.max_samples)
        packs, borders = plan_windows(lengths[stored], spec.seq_len, spec.window, *limits, seed=recipe.seed)
        packs = replace(packs, index=stored[packs.index])
    costs = {"attention": packs.sums(lengths**2), "patches": packs.sums(patches)}
    orders = {
        rule: order_packs(
            *costs.values(), rule=rule, step=recipe.order.step, seed=recipe.seed, name=spec.name, borders=borders
        )
        for rule in ("balanced", "shuffled")
    }
    ordered = {rule: {name: values[order] for name, values in costs.items()} for rule, order in orders.items()}
    return packs.reordered(orders[recipe.order.rule]), ordered


def _check_patches(corpus: Corpus, drawn: Draw, patches: NDArray[np.int64], spec: Spec) -> None:
    if spec.max_patches is None or (patches <= spec.max_patches).all():
        return
    first = int(np.argmax(patches > spec.max_patches))
    raise BuildError(
        f"stages.{spec.stage}.max_patches: the sample {bytes(corpus.sample_ids[drawn.samples[first]]).hex()} has "
        f"{patches[first]:,} patches, a pack holds {spec.max_patches:,}; raise it, lower the stage's "
        "resolution.max_pixels, or filter the sample out"
    )


def _as_stored(corpus: Corpus, drawn: Draw) -> NDArray[np.int64]:
    """The draws, int64 [draws], where each pass over a source goes through it as it lies; sources stay mixed."""
    of = (corpus.source[drawn.samples], drawn.repeats)
    places = np.lexsort((np.arange(len(drawn.samples)), *of))
    stored = np.empty(len(places), np.int64)
    stored[places] = np.lexsort((drawn.samples, *of))
    return stored


def _taken(weights: Weights, samples: NDArray[np.int64]) -> Weights:
    return Weights(*(getattr(weights, name)[samples] for name in weights.__dataclass_fields__))


def _mixture(corpus: Corpus, fitted: Fitted, drawn: Draw, spec: Spec, names: Sequence[str]) -> dict[str, Any]:
    pools = {name: _pool(corpus, fitted, name).total for name in names}
    total = sum(pools.values())
    asked = spec.mixture or {name: round(tokens / total, 6) for name, tokens in pools.items() if tokens}
    asked_tokens = spec.budget.tokens if spec.budget else None
    return {
        "asked_tokens": asked_tokens,
        "asked_epochs": spec.budget.epochs if spec.budget else None,
        **mixture(corpus.sources, corpus.source, fitted.weights, drawn.samples, asked, pools),
    }


def _stage_funnel(
    corpus: Corpus, spec: Spec, among: NDArray[np.bool_], fitted: Fitted, drawn: Draw, names: Sequence[str]
) -> list[FunnelLine]:
    chosen = np.zeros(len(corpus), bool)
    chosen[drawn.samples] = True
    reasons = reasons_by_source(corpus.sources, corpus.source, fitted.lost)
    fits = [
        FunnelLine(line.step, line.source, line.entered, line.left, reasons[corpus.sources.index(line.source)])
        for line in funnel_lines("fit", corpus.sources, corpus.source, among, fitted.fits)
    ]
    draws = funnel_lines("draw", corpus.sources, corpus.source, fitted.fits, chosen)
    return [line for line in fits + draws if line.source in names]
