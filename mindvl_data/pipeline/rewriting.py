"""Captions and answers that a model writes anew, for the samples that are left: tables beside those of the scan."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.pipeline.asking import Model, ask_missing
from mindvl_data.pipeline.selecting import holding
from mindvl_data.runtime import fingerprints, reached, seals
from mindvl_data.steps.scores import rewrite
from mindvl_data.steps.scores.answers import Answers, content_keys
from mindvl_data.steps.scores.judge import TOKENS

if TYPE_CHECKING:
    from mindvl_data.pipeline.run import Run
    from mindvl_data.pipeline.scanning import Partition
    from mindvl_data.pipeline.scoring import Scores
    from mindvl_data.recipe.rewrite import Rewrite


@dataclass
class Rewritten:
    """partitions: with the tables that tokens are counted from. told: of every rule how many it asked about, how many
    texts were replaced, and a hash of the replies."""

    partitions: list[Partition]
    told: dict[str, dict[str, Any]] = field(default_factory=dict)


def rewrite_texts(
    run: Run, partitions: Sequence[Partition], kept: Sequence[NDArray[np.bool_]], scores: Scores
) -> Rewritten:
    """Every rule after the other; a later one is asked about what an earlier one wrote."""
    made = Rewritten(list(partitions))
    for number, rule in enumerate(run.recipe.rewrite):
        _rewrite(run, partitions, kept, scores, rule, number, made)
    return made


def _rewrite(
    run: Run,
    partitions: Sequence[Partition],
    kept: Sequence[NDArray[np.bool_]],
    scores: Scores,
    rule: Rewrite,
    number: int,
    made: Rewritten,
) -> None:
    chosen = holding(run, partitions, scores, run.expressions.get(f"rewrite.{number}.where"), rule.sources, kept)
    rows = [
        np.flatnonzero(mask & rewrite.replaceable(p.samples, rule.replace))
        for p, mask in zip(made.partitions, chosen, strict=True)
    ]
    keys = [content_keys(p.samples, mine) for p, mine in zip(made.partitions, rows, strict=True)]
    how = [rule.model, rule.system, rule.images, rule.temperature, rule.max_tokens, rule.prompt, rule.most_chars]
    model = Model(
        ["rewrite", *how, rewrite.VERSION], {**rewrite.COLUMNS, **TOKENS}, lambda todo: rewrite.replies(rule, todo)
    )
    folder = run.bring(run.folder("scores") / f"{rule.name}-{fingerprints.key(model.how)}.answers")
    store = Answers(folder, model.schema)
    ask_missing(run, rule.name, model, store, made.partitions, rows, keys, scores.pictures)
    digest, replaced = hashlib.sha256(), 0
    tasks = []
    for place, (partition, mine, mine_keys) in enumerate(zip(made.partitions, rows, keys, strict=True)):
        said = store.of(mine_keys, ["reply"])["reply"]
        texts = said.drop_nulls().to_list()
        digest.update(fingerprints.key(texts).encode())
        replaced += len(texts)
        if texts:
            task = _task(partition, rule, mine[said.is_not_null().to_numpy()], texts)
            tasks += [] if seals.is_whole(task.out) else [task]
            made.partitions[place] = replace(partition, samples=task.out)
    run.step(f"rewrite {rule.name}", rewrite.replace_texts, tasks)
    made.told[rule.name] = {
        "asked": sum(len(mine) for mine in rows),
        "rewritten": replaced,
        "sha256": digest.hexdigest(),
    }


def _task(partition: Partition, rule: Rewrite, rows: NDArray[np.int64], texts: list[str]) -> rewrite.ReplaceTask:
    code = reached.code("mindvl_data.steps.scores.rewrite")
    key = fingerprints.key(partition.samples.name, partition.version, rule.replace, rows.tolist(), texts, code)
    stem = partition.samples.name.split(".")[0]
    out = partition.samples.with_name(f"{stem}.rewritten-{key}.parquet")
    return rewrite.ReplaceTask(partition.samples, rule.replace, rows, tuple(texts), out)
