"""The columns that stages are ordered by: of every sample that is left, by its id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mindvl_data.pipeline.pool import pool_of
from mindvl_data.pipeline.selecting import numbers_of
from mindvl_data.shards import places_among

if TYPE_CHECKING:
    from mindvl_data.pipeline.run import Run
    from mindvl_data.pipeline.scanning import Partition
    from mindvl_data.pipeline.scoring import Scores
    from mindvl_data.tables.corpus import Corpus


@dataclass(frozen=True)
class Column:
    """ids: uint64 [n, 2], the halves of sample ids. values: float64 [n], NaN where it is missing."""

    ids: NDArray[np.uint64]
    values: NDArray[np.float64]

    def of(self, corpus: Corpus) -> NDArray[np.float64]:
        """The values of a corpus' samples, float64 [samples]."""
        place = places_among(self.ids, np.ascontiguousarray(corpus.sample_ids).view(np.uint64).reshape(-1, 2))
        return np.where(place >= 0, np.append(self.values, np.nan)[place], np.nan)


def columns(
    run: Run, partitions: Sequence[Partition], scores: Scores, kept: Sequence[NDArray[np.bool_]]
) -> Mapping[str, Column]:
    """By stage, of those that have a curriculum by an expression."""
    found = {}
    for name, stage in run.recipe.stages.items():
        rule = run.expressions.get(f"stages.{name}.curriculum.by")
        if rule is not None:
            names = set(stage.mixture.sources())
            chosen = [mask & (p.source in names) for p, mask in zip(partitions, kept, strict=True)]
            pool = pool_of(partitions, chosen, list(run.recipe.sources))
            ids = np.ascontiguousarray(pool.ids(partitions)).view(np.uint64).reshape(-1, 2)
            found[name] = Column(ids, numbers_of(run, partitions, scores, rule, pool))
    return found
