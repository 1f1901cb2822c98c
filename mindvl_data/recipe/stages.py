"""The recipe's sections on what goes out: stages, their budgets, the order of packs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mindvl_data.recipe.fields import Lengths, Model, Share
from mindvl_data.recipe.sources import PixelBounds


class Budget(Model):
    """How much one stage draws: exactly one of its keys."""

    tokens: int | None = Field(None, ge=1)
    """Text, vision and template tokens, repeats included, padding not."""
    epochs: float | None = Field(None, gt=0)
    """The largest budget at which no source is passed more than this often at the asked shares."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Budget:
        if (self.tokens is None) == (self.epochs is None):
            raise ValueError("give exactly one of tokens and epochs")
        return self


class Order(Model):
    """The order in which packs are written and trained on."""

    rule: Literal["balanced", "shuffled"] = "balanced"
    """`balanced`: the packs of a step are alike in cost, so that no rank waits; `shuffled`: any pack anywhere."""
    step: int = Field(64, ge=1)
    """Packs a step: a multiple of the global batch that will be trained with."""


class Stage(Model):
    """One training stage: how much of what, at which sequence lengths."""

    seq_len: Lengths
    budget: Budget
    mixture: dict[str, Share]
    """Each source's share of the tokens; the shares sum to 1."""
    max_repeats: float = Field(4, gt=0, le=32767)
    """Passes over a source in this stage above which the build stops."""
    overlong: Literal["drop", "truncate", "error"] = "drop"
    fit: Literal["shortest", "each"] = "shortest"
    """Several lengths: one draw of what fits the shortest, or a draw for each."""
    max_patches: int | None = Field(None, ge=1)
    """The most patches (before the merge) of one pack; by default any number."""
    max_samples: int | None = Field(None, ge=1)
    """The most samples of one pack; by default any number."""
    window: int | None = Field(None, ge=1)
    """Draw each source in the order in which it lies, and pack this many samples at a time: reads are nearly
    sequential, at a small loss of fill. By default any sample may share a pack with any other."""
    resolution: PixelBounds = PixelBounds()

    @model_validator(mode="after")
    def _whole(self) -> Stage:
        total = sum(self.mixture.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the mixture sum to {total:g}, not to 1")
        if len(set(self.seq_len)) != len(self.seq_len):
            raise ValueError("a sequence length is given twice")
        return self
