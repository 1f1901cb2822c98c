"""From a recipe to everything that can be drawn: scan, score, filter, count, hold out. Each partition is cached."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.errors import BuildError
from mindvl_data.media import source_roots
from mindvl_data.pipeline import allocating, curricula
from mindvl_data.pipeline.curation import Curated, curate
from mindvl_data.pipeline.funnel import FunnelLine, funnel_lines
from mindvl_data.pipeline.rewriting import Rewritten, rewrite_texts
from mindvl_data.pipeline.scanning import Partition, check_bad, scan_evaluations, scan_funnel, scan_sources
from mindvl_data.pipeline.scoring import Scores
from mindvl_data.pipeline.selecting import Selection, filter_funnel, select
from mindvl_data.recipe import RecipeError, Source
from mindvl_data.runtime import fingerprints, plugins, reached, sandbox, seals
from mindvl_data.runtime.memory import give_back
from mindvl_data.sources import DEFAULT_RENDER, GROUP
from mindvl_data.steps import estimate as estimating
from mindvl_data.steps.count import CountTask, FramesTask, count, text_bytes
from mindvl_data.steps.holdout import held_out
from mindvl_data.tables import ledger
from mindvl_data.tables.columns import chunks, let_go
from mindvl_data.tables.corpus import Corpus, from_stores, recounted
from mindvl_data.tables.store import Store, of_corpus, open_store
from mindvl_data.tokenise import CHARACTERS_TO_LOAD
from mindvl_data.tokenise.grounding import CONTROL_TOKENS

if TYPE_CHECKING:
    from mindvl_data.steps.estimate import Estimate

if TYPE_CHECKING:
    from mindvl_data.pipeline.run import Run
    from mindvl_data.vision import Resolution

LOG = logging.getLogger(__name__)
LEAST_SAMPLED = 32


@dataclass(frozen=True)
class Prepared:
    """What the stages draw from. `held`: bool over the corpus. `stores`: one a partition, the corpus' order.

    `stores_at`: the stores of partitions whose texts depend on a stage's bounds, at each bounds, by number;
    corpus and `stores` are what the first of them says. `estimates`: per source, when text tokens were
    estimated from a sample instead of counted. `selection`, `curated`, `count_drops`: what the ledger is written from.
    `rewritten`: the samples tables that tokens were counted from. `means`: see `allocating.means`. `ordered_by`: see
    `curricula.columns`. `scores`: see
    `Scores.described`, of all that any rule named.
    """

    corpus: Corpus
    held: NDArray[np.bool_]
    partitions: Sequence[Partition]
    evaluations: Sequence[Partition]
    stores: Sequence[Path]
    stores_at: Mapping[Resolution, Mapping[int, Path]]
    funnel: Sequence[FunnelLine]
    estimates: Mapping[str, Estimate]
    selection: Selection
    score_files: Sequence[Sequence[Path]]
    curated: Curated
    rewritten: Rewritten
    count_drops: Sequence[Path]
    means: Mapping[str, Mapping[str, float]]
    ordered_by: Mapping[str, curricula.Column]
    scores: Mapping[str, Mapping[str, Any]]

    def at(self, resolution: Resolution) -> Prepared:
        """The same as it is at a stage's bounds: texts with boxes, and clips, have tokens of their own there."""
        others = {i: path for i, path in self.stores_at.get(resolution, {}).items() if path != self.stores[i]}
        if not others:
            return self
        stores = [others.get(i, path) for i, path in enumerate(self.stores)]
        if any(self.partitions[i].videos for i in others):
            # Other frames are other images: all of the corpus is read anew.
            names = [partition.source for partition in self.partitions]
            opened = (open_store(seals.checked(path, of_corpus(path))) for path in stores)
            corpus = from_stores(self.corpus.sources, names, opened, stores[0].parent, content=False)
        else:
            found = {i: open_store(seals.checked(path, of_corpus(path))) for i, path in others.items()}
            corpus = recounted(self.corpus, found)
        return replace(self, corpus=corpus, stores=stores)


def prepare(run: Run) -> Prepared:
    """Scan, score, filter, curate, rewrite, count and hold out."""
    partitions = scan_sources(run)
    funnel = scan_funnel(run, partitions)
    scores = Scores(run, partitions)
    selection = select(run, partitions, scores)
    funnel += filter_funnel(run, partitions, selection)
    evaluations = scan_evaluations(run)
    curated = curate(run, partitions, evaluations, selection.first, scores)
    funnel += curated.funnel
    kept = curated.kept
    means = allocating.means(run, partitions, scores, kept)
    ordered_by = curricula.columns(run, partitions, scores, kept)
    rewritten = rewrite_texts(run, partitions, kept, scores)
    tasks: list[CountTask] = []
    estimates: dict[str, Estimate] = {}
    opened: Iterable[Store]
    if run.sample is None:
        tasks = count_partitions(run, rewritten.partitions, kept)
        counted = count_funnel(run, partitions, kept, [task.drops for task in tasks])
        check_boxes(run, counted, tasks)
        funnel += counted
        opened = (open_store(seals.checked(task.stores[0], of_corpus(task.stores[0]))) for task in tasks)
    else:
        opened, estimates = estimate_sources(run, rewritten.partitions, kept, run.sample)
    corpus = corpus_of(run, partitions, opened)
    held = hold_out(run, corpus)
    if run.recipe.holdout:
        funnel += funnel_lines("holdout", corpus.sources, corpus.source, np.ones(len(corpus), bool), ~held)
    return Prepared(
        corpus=corpus.without_content(),
        held=held,
        partitions=partitions,
        evaluations=evaluations,
        stores=[task.stores[0] for task in tasks],
        stores_at=_stores_at(tasks),
        funnel=funnel,
        estimates=estimates,
        selection=selection,
        score_files=scores.beside(),
        curated=curated,
        rewritten=rewritten,
        count_drops=[task.drops for task in tasks],
        means=means,
        ordered_by=ordered_by,
        scores=scores.described(),
    )


def _stores_at(tasks: Sequence[CountTask]) -> dict[Resolution, dict[int, Path]]:
    stores: dict[Resolution, dict[int, Path]] = {}
    for number, task in enumerate(tasks):
        for bounds, store in zip(task.bounds, task.stores, strict=True):
            stores.setdefault(bounds, {})[number] = store
    return stores


def corpus_of(run: Run, partitions: Sequence[Partition], stores: Iterable[Store]) -> Corpus:
    """What the stages draw from, a store a partition. Raises BuildError when two samples have one id."""
    names = [partition.source for partition in partitions]
    sources, folder = tuple(run.recipe.sources), run.folder("tokens")
    corpus = from_stores(sources, names, stores, folder, content=run.recipe.holdout is not None)
    _check_ids(partitions, corpus)
    give_back()
    return corpus


def _check_ids(partitions: Sequence[Partition], corpus: Corpus) -> None:
    """Everything that names a sample by its id would mean both."""
    words = corpus.sample_ids.view("<u8")
    halves = np.empty(len(words), np.uint64)
    for start, end in chunks(len(words)):
        halves[start:end] = words[start:end, 0]
        let_go(words)
    halves.sort()
    if not (halves[1:] == halves[:-1]).any():
        return
    del halves
    order = np.lexsort((words[:, 1], words[:, 0]))
    same = np.flatnonzero((words[order[1:]] == words[order[:-1]]).all(axis=1))
    if len(same):
        one, other = (partitions[corpus.place(order[same[0] + i])[0]].file.uri for i in (0, 1))
        raise BuildError(f"{len(same)} samples have the id of another, the first in {one} and {other}")


# ------------------------------------------------------------------------------------------------ count


def count_partitions(run: Run, partitions: Sequence[Partition], kept: Sequence[NDArray[np.bool_]]) -> list[CountTask]:
    """The kept samples of every partition counted, now or before: its token stores and its drops."""
    check_marks(run)
    tasks = _counted(run, partitions, kept)
    differing = [task.other_ids for task in tasks if seals.is_whole(task.other_ids)]
    if differing:
        run.used.update(differing)
        run.other_ids = json.loads(seals.checked(differing[0]).read_text())
        LOG.warning(
            "fastokens gave other ids than tokenizers for a text of %s; all texts are encoded with tokenizers instead, "
            "which takes longer, and the manifests say so under tokenizer.other_ids",
            run.other_ids["uri"],
        )
        tasks = _counted(run, partitions, kept, "tokenizers")
    run.used.update(path for task in tasks for path in (*task.stores, task.drops))
    run.used.update(task.frames.path for task in tasks if task.frames)
    return tasks


def _counted(
    run: Run, partitions: Sequence[Partition], kept: Sequence[NDArray[np.bool_]], *library: str
) -> list[CountTask]:
    """The partitions counted by this library alone, or by whichever is the faster."""
    tasks = [_count_task(run, partition, mask, library) for partition, mask in zip(partitions, kept, strict=True)]
    to_do = [task for task in tasks if not task.done]
    fast = not library and _worth_loading(run, to_do)
    run.step("count", count, [replace(task, fast=fast) for task in to_do])
    return tasks


def _worth_loading(run: Run, tasks: Sequence[CountTask]) -> bool:
    """Whether each worker has enough text for the faster library, which takes seconds to load.

    Both give the same ids: nothing of what is built depends on the answer.
    """
    loads = min(run.engine.workers, len(tasks)) if tasks else 0
    return sum(map(text_bytes, tasks)) > loads * CHARACTERS_TO_LOAD * run.tokeniser.vocab_size


def check_marks(run: Run) -> None:
    """Raises RecipeError where boxes are to be written with control tokens that the tokenizer has not, and
    TokeniserError where there is no such tokenizer."""
    tokeniser = run.tokeniser
    for name, source in run.recipe.sources.items():
        if source.boxes and source.boxes.marks == "tokens":
            missing = [token for token in CONTROL_TOKENS if token not in tokeniser.added]
            if missing:
                raise RecipeError(
                    f"sources.{name}.boxes.marks: the tokenizer {run.loaded.raw['tokenizer']} has no "
                    f"{', '.join(missing)}; use marks: text, or a tokenizer that has them"
                )


def render_of(source: Source) -> str:
    """How a source's turns become text."""
    reader = plugins.load(GROUP, source.load.rows if source.load else source.format)
    return source.render or str(getattr(reader, "render", DEFAULT_RENDER))


def _count_task(run: Run, partition: Partition, kept: NDArray[np.bool_], library: tuple[str, ...]) -> CountTask:
    source = run.recipe.sources[partition.source]
    render = render_of(source)
    mask = np.packbits(kept).tobytes()
    template, tokeniser = run.template.describe("")["sha256"], run.tokeniser
    code = reached.code(count.__module__, alone=(sandbox.__name__,))
    samples = f"{partition.samples.name}{partition.version}"
    rule = source.boxes and source.boxes.model_dump()
    bounds = _bounds(run, partition.source, partition.videos is not None)
    clips = ([asdict(each) for each in bounds],) if partition.videos else ()
    key = fingerprints.key(
        samples, mask.hex(), render, source.loss, template, tokeniser.hash, rule, code, *clips, *library
    )
    stem = f"{partition.source}-{key}"
    folder = run.folder("tokens")
    return CountTask(
        source=partition.source,
        uri=partition.file.uri,
        samples=partition.samples,
        kept=mask,
        render=render,
        loss=source.loss,
        chat_template=run.template,
        tokenizer=run.recipe.tokenizer,
        recipe_folder=run.loaded.folder,
        boxes=source.boxes,
        columns=partition.columns,
        videos=partition.videos,
        bounds=bounds,
        stores=tuple(folder / (f"{stem}-{_name(each)}" if len(bounds) > 1 else stem) for each in bounds),
        drops=folder / f"{stem}.drops.parquet",
        frames=_frames_task(run, partition, stem),
    )


def _frames_task(run: Run, partition: Partition, stem: str) -> FramesTask | None:
    """Where the frames of a partition's clips go, where the recipe has them encoded anew."""
    if partition.videos is None or run.recipe.embed != "frames":
        return None
    roots = tuple(source_roots(run.loaded.raw["sources"]))
    return FramesTask(run.folder("media") / f"{stem}.bin", run.out, roots, run.recipe.limits.image_pixels)


def _bounds(run: Run, name: str, clips: bool) -> tuple[Resolution, ...]:
    """The bounds at which a source's tokens differ: those of every set that may draw from it, or any one."""
    boxes, recipe = run.recipe.sources[name].boxes, run.recipe
    if not clips and (boxes is None or boxes.write != "resized"):
        return (recipe.image_rule(),)
    stages = [recipe.image_rule(stage) for stage in recipe.stages.values() if name in stage.mixture.sources()]
    return tuple(dict.fromkeys([*stages, *([recipe.image_rule()] if recipe.holdout or not stages else [])]))


def _name(bounds: Resolution) -> str:
    named = "-".join(map(str, (bounds.patch, bounds.merge, bounds.min_pixels, bounds.max_pixels)))
    return f"{named}-{fingerprints.key(asdict(bounds.video))[:8]}" if bounds.video else named


def estimate_sources(
    run: Run, partitions: Sequence[Partition], kept: Sequence[NDArray[np.bool_]], sample: int
) -> tuple[list[Store], dict[str, Estimate]]:
    """In the place of a count: `sample` samples are tokenised over all sources, the others' lengths estimated."""
    total = sum(int(mask.sum()) for mask in kept)
    stores: list[Store] = []
    estimates = {}
    for number, (name, source) in enumerate(run.recipe.sources.items(), 1):
        mine = [
            estimating.Partition(p.samples, p.columns, mask, p.videos)
            for p, mask in zip(partitions, kept, strict=True)
            if p.source == name
        ]
        share = sum(int(partition.kept.sum()) for partition in mine) / max(1, total)
        most = max(LEAST_SAMPLED, round(sample * share))
        run.progress("estimate", number, len(run.recipe.sources))
        bounds = _bounds(run, name, any(p.videos for p in partitions if p.source == name))[0]
        how = estimating.Rendering(render_of(source), source.loss, run.template, run.tokeniser, source.boxes, bounds)
        found, estimates[name] = estimating.estimate(mine, most, how)
        stores += found
    return stores, estimates


def count_funnel(
    run: Run, partitions: Sequence[Partition], kept: Sequence[NDArray[np.bool_]], drops: Sequence[Path]
) -> list[FunnelLine]:
    lines = []
    for name in run.recipe.sources:
        mine = [i for i, partition in enumerate(partitions) if partition.source == name]
        entered = sum(int(kept[i].sum()) for i in mine)
        reasons = Counter(ledger.read(drops[i] for i in mine)["reason"].to_list())
        lines.append(FunnelLine("count", name, entered, entered - reasons.total(), reasons))
    return lines


def check_boxes(run: Run, counted: Sequence[FunnelLine], tasks: Sequence[CountTask]) -> None:
    """Raises BuildError when boxes make a source worse than its `max_bad`: they are found bad only here.

    That a source's boxes are not what its recipe says shows in just this.
    """
    drops = {line.source: [t.drops for t in tasks if t.source == line.source] for line in counted}
    for line in counted:
        bad = Counter({reason: times for reason, times in line.reasons.items() if reason != "empty"})
        check_bad(run, f"sources.{line.source}", line.entered - bad.total(), bad, drops[line.source])


# --------------------------------------------------------------------------------------- holdout, ledger


def hold_out(run: Run, corpus: Corpus) -> NDArray[np.bool_]:
    holdout = run.recipe.holdout
    if holdout is None:
        return np.zeros(len(corpus), bool)
    return held_out(corpus.content, corpus.content_starts, holdout.share, run.recipe.seed)
