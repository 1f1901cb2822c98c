"""The packed sets of a recipe: one for every stage and sequence length, and the held-out set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mindvl_data.recipe import Budget, Curriculum, Group, Recipe, Stage
    from mindvl_data.vision import Resolution


@dataclass(frozen=True)
class Spec:
    """One packed set to make. `fit_len`: the longest sample it may draw. `mixture` None: all held-out samples."""

    stage: str
    seq_len: int
    fit_len: int
    overlong: str
    resolution: Resolution
    mixture: Group | None
    by: str
    budget: Budget | None
    max_epochs: float
    max_patches: int | None = None
    max_samples: int | None = None
    window: int | None = None
    curriculum: Curriculum | None = None

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.seq_len}"


def specs(recipe: Recipe) -> list[Spec]:
    """Every packed set of a recipe, in the order of its stages, the held-out set last."""
    found = [_spec(recipe, name, stage, length) for name, stage in recipe.stages.items() for length in stage.seq_len]
    if recipe.holdout:
        length = recipe.holdout.seq_len
        found.append(Spec("holdout", length, length, "drop", recipe.image_rule(), None, "tokens", None, 1))
    return found


def _spec(recipe: Recipe, name: str, stage: Stage, seq_len: int) -> Spec:
    return Spec(
        stage=name,
        seq_len=seq_len,
        fit_len=seq_len if stage.fit == "each" else min(stage.seq_len),
        overlong=stage.overlong,
        resolution=recipe.image_rule(stage),
        mixture=stage.mixture,
        by=stage.by,
        budget=stage.budget,
        max_epochs=stage.max_epochs,
        max_patches=stage.max_patches,
        max_samples=stage.max_samples,
        window=stage.window,
        curriculum=stage.curriculum,
    )
