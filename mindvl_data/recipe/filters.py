"""The recipe's sections on which samples stay, and which are held out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mindvl_data.recipe.fields import Length, Model


class Filter(Model):
    """Keeps the samples for which a Polars SQL expression over the samples table holds."""

    name: str
    where: str
    sources: tuple[str, ...] | None = None
    """The sources it applies to; by default all."""
    missing: Literal["keep", "drop"] = "keep"
    """What becomes of a sample for which the expression is null, for example a width without images."""


class Holdout(Model):
    """A set kept out of every draw, chosen by a hash of the image content (the text where there is none)."""

    share: float = Field(gt=0, lt=1)
    seq_len: Length = 4096
