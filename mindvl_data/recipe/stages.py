"""The recipe's sections on what goes out: stages, and the order of packs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mindvl_data.recipe.fields import Lengths, Model
from mindvl_data.recipe.mixture import Budget, Group
from mindvl_data.recipe.sources import PixelBounds, VideoBounds


class Order(Model):
    """The order in which packs are written and trained on."""

    rule: Literal["balanced", "shuffled"] = "balanced"
    """`balanced`: the packs of a step are alike in cost, so that no rank waits; `shuffled`: any pack anywhere."""
    step: int = Field(64, ge=1)
    """Packs alike in cost: those that all ranks take at once, or as many as a whole global batch."""


class Curriculum(Model):
    """Orders a stage's packs by a column of their samples, from low to high, a window at a time."""

    by: str
    """`tokens`, a sample's exact length, or a Polars SQL expression: a score, a field of the data, `text_chars`.
    Samples for which it is null are spread evenly over the windows."""
    windows: int = Field(8, ge=2, le=4096)
    """So many windows with as many draws each: within one, packs are full, levelled and shuffled as ever."""
    descending: bool = False
    per: Literal["source"] | None = None
    """Orders each source by itself, so that every window has the stage's shares; by default all together."""


class Stage(Model):
    """One training stage: how much of what, at which sequence lengths."""

    seq_len: Lengths
    budget: Budget | None = None
    """How much is drawn; may be left out where every source of the mixture states its epochs."""
    by: Literal["tokens", "samples", "loss_tokens"] = "tokens"
    """What the shares are shares of."""
    mixture: Group
    """Each source's share, alone or in groups: `{text: 0.2, captions: {share: 0.8, cc: 0.3, dfn: 0.7}}`."""
    max_epochs: float = Field(4, gt=0, le=32767)
    """Passes over a source in this stage above which the build stops."""
    overlong: Literal["drop", "truncate", "fewer_frames", "error"] = "drop"
    """What becomes of a sample that is longer than the shortest sequence length. `fewer_frames`: as many frames of its
    clips are looked at as fit, one pair at least; what is still too long is dropped."""
    fit: Literal["shortest", "each"] = "shortest"
    """Several lengths: one draw of what fits the shortest, or a draw for each."""
    max_patches: int | None = Field(None, ge=1)
    """The most patches (before the merge) of one pack; by default any number."""
    max_samples: int | None = Field(None, ge=1)
    """The most samples of one pack; by default any number."""
    window: int | None = Field(None, ge=1)
    """Draw each source in the order in which it lies, and pack this many samples at a time: reads are nearly
    sequential, at a small loss of fill. By default any sample may share a pack with any other."""
    curriculum: Curriculum | None = None
    """The order of its packs by a column; by default none."""
    resolution: PixelBounds = PixelBounds()
    video: VideoBounds = VideoBounds()

    @model_validator(mode="after")
    def _whole(self) -> Stage:
        if self.mixture.share is not None:
            raise ValueError("mixture.share: the whole mixture has no share of anything")
        if self.budget is None and not self.mixture.by_epochs:
            raise ValueError("budget: say how much to draw, or give every source of the mixture its epochs")
        names = list(self.mixture.sources())
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"mixture: the source {twice[0]!r} stands in it twice")
        if self.curriculum and self.window:
            raise ValueError("curriculum: `window` draws in the order of the files; give one of both")
        if len(set(self.seq_len)) != len(self.seq_len):
            raise ValueError("a sequence length is given twice")
        return self
