"""One packed set: fit, mix, pack and write for one stage and one sequence length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mindvl_data import fingerprints, ledger
from mindvl_data.build import publish
from mindvl_data.build.prepare import Prepared
from mindvl_data.build.run import BuildError, Run
from mindvl_data.build.summary import FunnelLine, funnel_lines, mixture, packing, reasons_by_source
from mindvl_data.corpus import Corpus
from mindvl_data.fit import Fitted, Weights, fit, weigh
from mindvl_data.mix import Draw, Pool, draw, pass_order
from mindvl_data.pack import Packs, order_packs, plan
from mindvl_data.recipe import Budget, Recipe
from mindvl_data.schema import Drop
from mindvl_data.shards import content_id, shard_name
from mindvl_data.store import Store, open_store, starts_of
from mindvl_data.vision import Resolution
from mindvl_data.write import Segments, WriteTask, shard_borders, write, written

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

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.seq_len}"


@dataclass(frozen=True)
class StageResult:
    """A packed set that was built, was there already, or would be built: `data` is its manifest."""

    name: str
    state: str
    data: Mapping[str, Any]
    manifest: Path | None


def specs(recipe: Recipe) -> list[Spec]:
    """Every packed set of a recipe, in the order of its stages, the held-out set last."""
    bounds = recipe.resolution.model_dump()
    found = []
    for name, stage in recipe.stages.items():
        resolution = Resolution(**(bounds | stage.resolution.model_dump(exclude_none=True)))
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
                )
            )
    if recipe.holdout:
        length = recipe.holdout.seq_len
        found.append(Spec("holdout", length, length, "drop", Resolution(**bounds), None, None, 1))
    return found


def build_stage(run: Run, prepared: Prepared, spec: Spec) -> StageResult:
    """Make one packed set, or find that it is there. Raises MixError, MediaError or BuildError."""
    corpus, recipe = prepared.corpus, run.recipe
    names = list(spec.mixture or corpus.sources)
    among = np.isin(corpus.source, [corpus.sources.index(name) for name in names])
    among &= prepared.held if spec.mixture is None else ~prepared.held
    content_key = _content_key(run, prepared, spec, among)
    funnel = [line.as_dict() for line in prepared.funnel if line.source in names]
    full_key = fingerprints.key(content_key, run.loaded.hash, funnel)
    publish.recover(run.out / spec.name)
    there = publish.published(run.out / spec.name, "manifest", full_key)
    if there is not None and not prepared.estimates:
        return StageResult(spec.name, "up to date", there.data, there.path)

    run.progress(spec.name, 0, 1)
    fitted = _fit(run, prepared, spec, among)
    drawn = _draw(corpus, fitted, spec, names, recipe.seed)
    packs, costs = _pack(corpus, fitted.weights, drawn, spec, recipe)
    data = {
        **publish.header(run, spec.stage, spec.seq_len, spec.resolution),
        "sources": publish.sources(run, prepared, names),
        "funnel": funnel + [line.as_dict() for line in _stage_funnel(corpus, spec, among, fitted, drawn, names)],
        "mixture": _mixture(corpus, fitted, drawn, spec, names),
        "packing": packing(packs, _taken(fitted.weights, drawn.samples), costs, spec.seq_len, recipe.order.step),
        "order": {"rule": recipe.order.rule, "step": recipe.order.step, "seed": recipe.seed},
    }
    if run.dry_run:
        run.progress(spec.name, 1, 1)
        return StageResult(spec.name, "planned", data, None)
    ledger.write(run.folder("ledger"), f"fit-{spec.name}", _fit_ledger(prepared, spec, fitted))
    keys = {"manifest": full_key, "content": content_key}
    path = _write(run, prepared, spec, fitted.weights, drawn, packs, data, keys)
    run.progress(spec.name, 1, 1)
    return StageResult(spec.name, "built", data, path)


def _content_key(run: Run, prepared: Prepared, spec: Spec, among: NDArray[np.bool_]) -> str:
    recipe = run.recipe
    used = {int(i) for i in np.unique(prepared.corpus.partition[among])}
    stores = [path.name for i, path in enumerate(prepared.stores) if i in used]
    return fingerprints.key(
        spec.__dict__ | {"resolution": spec.resolution.__dict__},
        stores,
        np.packbits(among).tobytes().hex(),
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
        store = stores.setdefault(number, open_store(prepared.stores[number]))
        span = slice(int(store.starts[row]), int(store.starts[row + 1]))
        return store.ids[span], store.loss[span]

    return read


def _draw(corpus: Corpus, fitted: Fitted, spec: Spec, names: Sequence[str], seed: int) -> Draw:
    if spec.mixture is None:
        rows = np.flatnonzero(fitted.fits)
        order = rows[pass_order(corpus.sample_ids[rows], seed, spec.stage)]
        return Draw(order, np.zeros(len(order), np.int16), float(fitted.weights.tokens[order].sum()))
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
) -> tuple[Packs, dict[str, NDArray[np.int64]]]:
    """The packs in the order they are written, and both costs of each."""
    if not len(drawn.samples):
        raise BuildError(f"{spec.name}: nothing is left to pack; see the funnel of `plan`")
    lengths = weights.tokens[drawn.samples]
    packs = plan(lengths, spec.seq_len)
    costs = {"attention": packs.sums(lengths**2), "patches": packs.sums(weights.patches[drawn.samples])}
    order = order_packs(
        costs["attention"],
        costs["patches"],
        rule=recipe.order.rule,
        step=recipe.order.step,
        seed=recipe.seed,
        name=spec.name,
    )
    return packs.reordered(order), {name: values[order] for name, values in costs.items()}


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


def _fit_ledger(prepared: Prepared, spec: Spec, fitted: Fitted) -> list[pl.DataFrame]:
    by_partition: dict[int, list[tuple[bytes, Drop]]] = {}
    cut = {int(i): ("truncated", f"its first {fitted.weights.tokens[i]} tokens are kept") for i in fitted.cut}
    for sample, (reason, detail) in {**fitted.lost, **cut}.items():
        uid = bytes(prepared.corpus.sample_ids[sample])
        by_partition.setdefault(int(prepared.corpus.partition[sample]), []).append((uid, Drop(reason, detail)))
    frames = []
    for number, drops in by_partition.items():
        partition = prepared.partitions[number]
        frames.append(
            ledger.of_samples(
                ledger.Dropped(partition.source, partition.file.uri, partition.samples, f"fit: {spec.name}", drops)
            )
        )
    return frames


# ------------------------------------------------------------------------------------------------ write


def _write(
    run: Run,
    prepared: Prepared,
    spec: Spec,
    weights: Weights,
    drawn: Draw,
    packs: Packs,
    data: Mapping[str, Any],
    keys: Mapping[str, str],
) -> Path:
    folder = run.out / spec.name
    work = publish.work_folder(run.out, spec.name, keys["content"])
    tasks = _write_tasks(run, prepared, spec, weights, drawn, packs, work)
    draws = _draws(prepared.corpus, weights, drawn, packs, [task.first_pack for task in tasks])
    if (there := publish.published(folder, "content", keys["content"])) is not None:
        return publish.publish(folder, work, data, publish.link_shards(there, work), draws, there.id, keys)
    done = {task.path: written(task.path) for task in tasks}
    fresh = run.step(f"write {spec.name}", write, [task for task in tasks if done[task.path] is None])
    infos = sorted([*(info for info in done.values() if info), *fresh], key=lambda info: info.path)
    content = content_id(digest for info in infos for digest in info.pack_digests)
    return publish.publish(folder, work, data, infos, draws, content, keys)


def _write_tasks(
    run: Run, prepared: Prepared, spec: Spec, weights: Weights, drawn: Draw, packs: Packs, work: Path
) -> list[WriteTask]:
    corpus, tokeniser = prepared.corpus, run.tokeniser
    samples = drawn.samples[packs.index]
    segments = Segments(
        partition=corpus.partition[samples],
        row=corpus.row[samples],
        source=corpus.source[samples],
        repeat=drawn.repeats[packs.index],
        num_ids=weights.num_ids[samples],
        num_images=weights.num_images[samples],
    )
    embedded = packs.sums(weights.image_bytes[drawn.samples]) * (run.recipe.media == "embed")
    publish.check_size(int(embedded.sum()), run.recipe.embed_limit, spec.name)
    tasks = []
    for number, (first, end) in enumerate(shard_borders(embedded, spec.seq_len, run.recipe.shard_bytes)):
        span = slice(int(packs.offsets[first]), int(packs.offsets[end]))
        tasks.append(
            WriteTask(
                path=work / shard_name(number),
                seq_len=spec.seq_len,
                first_pack=first,
                segments=segments[span],
                offsets=packs.offsets[first : end + 1] - packs.offsets[first],
                stores=prepared.stores,
                sources=corpus.sources,
                resolution=spec.resolution,
                media=run.recipe.media,
                image_pad=tokeniser.special_ids["image_pad"],
                pad=tokeniser.pad_id,
                build_folder=run.out,
                recipe_folder=run.loaded.folder,
            )
        )
    return tasks


def _draws(
    corpus: Corpus, weights: Weights, drawn: Draw, packs: Packs, first_packs: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """Where each draw went, by sample id: shard, pack (in the manifest's order) and token range in it."""
    samples = drawn.samples[packs.index]
    pack = np.repeat(np.arange(len(packs)), np.diff(packs.offsets))
    ends = np.cumsum(weights.tokens[samples])
    starts = ends - weights.tokens[samples]
    base = starts_of(packs.sums(weights.tokens[drawn.samples]))[:-1][pack]
    shard = np.searchsorted(first_packs, pack, side="right") - 1
    ids = corpus.sample_ids[samples]
    words = np.ascontiguousarray(ids).view(">u8")
    order = np.lexsort((drawn.repeats[packs.index], words[:, 1], words[:, 0]))
    columns: dict[str, NDArray[Any]] = {
        "repeat": drawn.repeats[packs.index],
        "shard": shard.astype(np.int32),
        "pack": pack.astype(np.int64),
        "start": (starts - base).astype(np.int32),
        "stop": (ends - base).astype(np.int32),
    }
    return {"sample_id": ids[order], **{name: values[order] for name, values in columns.items()}}
