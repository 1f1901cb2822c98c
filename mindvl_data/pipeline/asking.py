"""Scores that a model gives: asked about samples that are left, once for each content, kept as they come."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.recipe.scores import ClipScore, JudgeScore
from mindvl_data.runtime import fingerprints, seals
from mindvl_data.steps.scores import clip, judge
from mindvl_data.steps.scores.answers import Answers, content_keys
from mindvl_data.steps.scores.columns import write_columns
from mindvl_data.steps.scores.samples import Asked

if TYPE_CHECKING:
    from mindvl_data.pipeline.run import Run
    from mindvl_data.pipeline.scanning import Partition
    from mindvl_data.steps.scores.compute import Pictures

# Where a model's tasks go out to a cluster: samples of each, and tasks for each worker before their answers are kept.
TASK_SAMPLES = 1024
TASKS_AT_A_TIME = 4


@dataclass(frozen=True)
class Model:
    """How a score asks: what its answers depend on, their columns, and the function that asks."""

    how: object
    schema: Mapping[str, pl.DataType]
    ask: judge.Ask


# What the recipe says of a score by a model, its files resolved: (run, name, score, pictures).
ModelOf: TypeAlias = "Callable[[Run, str, Any, Pictures], Model]"


def ask(
    run: Run, name: str, model: Model, partitions: Sequence[Partition], alive: Sequence[NDArray[np.bool_]], at: Pictures
) -> list[Path]:
    """The file of the score for every partition: what was said of its samples that are alive, null for the others.

    A plan asks nobody: what has not been asked is missing there.
    """
    store = Answers(run.bring(run.folder("scores") / f"{name}-{fingerprints.key(model.how)}.answers"), model.schema)
    rows = [np.flatnonzero(mask) for mask in alive]
    keys = [content_keys(p.samples, mine) for p, mine in zip(partitions, rows, strict=True)]
    ask_missing(run, name, model, store, partitions, rows, keys, at)
    return [_write(run, name, model, store, *one) for one in zip(partitions, rows, keys, alive, strict=True)]


def ask_missing(
    run: Run,
    name: str,
    model: Model,
    store: Answers,
    partitions: Sequence[Partition],
    rows: Sequence[NDArray[np.int64]],
    keys: Sequence[pl.Series],
    at: Pictures,
) -> None:
    """Ask about these lines of every partition (with the keys of their content) what the store has no answer to."""
    if run.dry_run:
        return
    lines = zip(partitions, rows, keys, strict=True)
    asked = [Asked(partition.samples, mine, mine_keys, at) for partition, mine, mine_keys in lines]
    done, total = 0, sum(len(one.rows) for one in asked)
    try:
        for answers in model.ask(_unknown(store, asked)):
            store.add(answers)
            done += len(answers)
            run.work[f"ask {name}"] += len(answers)
            for tokens in set(judge.TOKENS) & set(answers.columns):
                run.work[f"{tokens} of {name}"] += int(answers[tokens].sum())
            run.progress(f"ask {name}", done, total)
    finally:
        store.flush()


def _unknown(store: Answers, asked: Sequence[Asked]) -> Iterator[Asked]:
    """What each partition has that was not asked about, when its turn comes."""
    for one in asked:
        places = store.unknown(one.keys)
        if len(places):
            yield Asked(one.samples, one.rows[places], one.keys.gather(places), one.pictures)


def _write(
    run: Run,
    name: str,
    model: Model,
    store: Answers,
    partition: Partition,
    rows: NDArray[np.int64],
    keys: pl.Series,
    alive: NDArray[np.bool_],
) -> Path:
    """Line by line what was said of a partition's samples."""
    known = len(store) if run.dry_run else None
    mask = fingerprints.of_bytes(np.packbits(alive).tobytes())
    key = fingerprints.key(partition.samples.name, partition.version, model.how, mask, known)
    path = run.folder("scores") / f"{name}-{key}.parquet"
    if not seals.is_whole(path):
        count = pq.read_metadata(partition.samples).num_rows
        lines = pl.DataFrame({"row": np.arange(count)})
        columns = [column for column in model.schema if column not in (judge.SAID, *judge.TOKENS)]
        said = store.of(keys, columns).with_columns(row=pl.Series(rows, dtype=pl.Int64))
        spent = [column for column in judge.TOKENS if column in model.schema]
        tokens = {column: int(store.of(keys, [column])[column].sum()) for column in spent}
        write_columns(lines.join(said, on="row", how="left", maintain_order="left").drop("row"), path, tokens)
    return path


def clip_model(run: Run, name: str, score: ClipScore, pictures: Pictures) -> Model:
    folder = run.loaded.folder
    local = [(folder / place).exists() for place in (score.model, score.weights or "\0")]
    model = f"local-dir:{folder / score.model}" if local[0] else score.model
    weights = str(folder / score.weights) if local[1] and score.weights else score.weights
    asked = clip.Clip(model, weights, score.device, score.batch, pictures.max_pixels)
    content = [fingerprints.of_tree(path) for path in clip.model_files(asked)]
    how = ["clip", score.model, score.weights, score.embeddings, content, clip.VERSION]
    schema = clip.columns(name, score.embeddings)
    if not run.engine.elsewhere:
        return Model(how, schema, lambda todo: clip.answers(asked, todo, name, score.embeddings))

    def sent_out(todo: Iterable[Asked]) -> Iterator[pl.DataFrame]:
        parts = (part for one in todo for part in one.parts(_whole_batches(score.batch)))
        while some := list(itertools.islice(parts, TASKS_AT_A_TIME * run.engine.workers)):
            tasks = [clip.ClipTask(asked, part, name, score.embeddings) for part in some]
            yield from run.engine.run(run.anywhere(clip.ask), tasks, device=score.device)

    return Model(how, schema, sent_out)


def _whole_batches(batch: int) -> int:
    """The samples of a task: as many batches as come near to TASK_SAMPLES, the same as on one machine."""
    return batch * max(1, TASK_SAMPLES // batch)


def judge_model(run: Run, name: str, score: JudgeScore, pictures: Pictures) -> Model:
    questions = score.questions
    how = ["judge", score.model, score.system, score.images, score.temperature, score.max_tokens, judge.VERSION]
    schema = {**judge.columns(name, questions), judge.SAID: pl.String(), **judge.TOKENS}
    return Model([*how, questions.model_dump()], schema, lambda todo: judge.answers(name, score, questions, todo))
