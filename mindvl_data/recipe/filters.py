"""The recipe's sections on which samples stay, and which are held out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mindvl_data.recipe.fields import Length, Model, Share


class Filter(Model):
    """Keeps the samples for which a Polars SQL expression holds, or the best of them, or those a preset keeps."""

    name: str = ""
    """By default that of the preset."""
    where: str | None = None
    """Keeps the samples for which it is true. It may name any column: of the samples table, the data, the scores."""
    top: Share | None = None
    """Keeps this share of the samples that reach the filter, those in which `of` is largest, and ties."""
    of: str | None = None
    per: Literal["source"] | None = None
    """Takes the share of each source by itself; by default of all of the filter's sources together."""
    preset: str | None = None
    """The name of published filters, for example datacomp_basic: see docs/scores.md."""
    options: dict[str, Any] = Field({})
    """What the preset leaves to be said."""
    sources: tuple[str, ...] | None = None
    """The sources it applies to; by default all."""
    missing: Literal["keep", "drop"] = "keep"
    """What becomes of a sample for which the expression is null, for example a width without images."""

    @model_validator(mode="after")
    def _one_kind(self) -> Filter:
        given = [key for key in ("where", "top", "preset") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of where, top and preset, not {' and '.join(given) or 'none'}")
        if (self.top is None) != (self.of is None):
            raise ValueError("`top` and `of` belong together: {top: 0.3, of: clip}")
        if not self.name and self.preset is None:
            raise ValueError("a filter needs a name: the ledger says it of every sample that it drops")
        return self


class Holdout(Model):
    """A set kept out of every draw, chosen by a hash of the image content (the text where there is none)."""

    share: float = Field(gt=0, lt=1)
    seq_len: Length = 4096
