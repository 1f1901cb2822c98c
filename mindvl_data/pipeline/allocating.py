"""The scores that shares of a mixture are allocated by: means, over what is left of a source, of an expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mindvl_data.errors import BuildError
from mindvl_data.pipeline.pool import pool_of
from mindvl_data.pipeline.selecting import numbers_of
from mindvl_data.recipe import Group

if TYPE_CHECKING:
    from mindvl_data.pipeline.run import Run
    from mindvl_data.pipeline.scanning import Partition
    from mindvl_data.pipeline.scoring import Scores
    from mindvl_data.pipeline.spec import Spec

# Sums differ in their last bits from one machine to another.
DIGITS = 12


def means(
    run: Run, partitions: Sequence[Partition], scores: Scores, kept: Sequence[NDArray[np.bool_]]
) -> dict[str, dict[str, float]]:
    """By YAML path of an `allocate.score` that is an expression, its mean over the kept samples of every member.

    Missing values do not count. Raises BuildError where a member has no other.
    """
    found: dict[str, dict[str, float]] = {}
    for stage, asked in run.recipe.stages.items():
        for path, group in asked.mixture.allocating(f"stages.{stage}.mixture"):
            if path in run.expressions:
                names = list(group.members)
                found[path] = _means(run, partitions, scores, kept, path, names)
    return found


def _means(
    run: Run,
    partitions: Sequence[Partition],
    scores: Scores,
    kept: Sequence[NDArray[np.bool_]],
    path: str,
    names: Sequence[str],
) -> dict[str, float]:
    chosen = [mask & (p.source in names) for p, mask in zip(partitions, kept, strict=True)]
    pool = pool_of(partitions, chosen, list(run.recipe.sources))
    values = numbers_of(run, partitions, scores, run.expressions[path], pool)
    found = {}
    for name in names:
        mine = values[pool.source == list(run.recipe.sources).index(name)]
        known = mine[np.isfinite(mine)]
        if not len(known):
            raise BuildError(
                f"{path}: none of the {len(mine):,} samples of {name} that filters, dedup and balance left has a "
                f"value of {run.expressions[path].expression!r}"
            )
        found[name] = float(f"{known.mean():.{DIGITS}g}")
    return found


def with_means(spec: Spec, found: Mapping[str, Mapping[str, float]]) -> Spec:
    """The set with the means in the place of the expressions."""
    root = f"stages.{spec.stage}.mixture"
    if spec.mixture is None or not any(path.startswith(f"{root}.") for path in found):
        return spec
    return replace(spec, mixture=_with_means(spec.mixture, found, root))


def _with_means(group: Group, found: Mapping[str, Mapping[str, float]], path: str) -> Group:
    members = {n: _with_means(m, found, f"{path}.{n}") if isinstance(m, Group) else m for n, m in group.members.items()}
    allocate = group.allocate
    if allocate is not None and f"{path}.allocate.score" in found:
        allocate = allocate.model_copy(update={"score": dict(found[f"{path}.allocate.score"])})
    return group.model_copy(update={**members, "allocate": allocate})
