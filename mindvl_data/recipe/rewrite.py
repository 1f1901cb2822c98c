"""The recipe's section on texts that a model writes anew."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mindvl_data.recipe.fields import Name
from mindvl_data.recipe.judges import Endpoint


class Rewrite(Endpoint):
    """Replaces the captions, or the answers, of samples by what a model writes; last, before tokens are counted."""

    name: Name
    prompt: str
    """What is asked for; `{text}` is the sample's text as it is."""
    replace: Literal["caption", "answer"] = "caption"
    """A sample is rewritten where it has exactly one such text."""
    where: str | None = None
    """A Polars SQL expression: the samples to rewrite, for example `fit < 0.25`; null is no. By default all."""
    sources: tuple[str, ...] | None = None
    """The sources it applies to; by default all."""
    most_chars: int = Field(20_000, ge=1)
    """A longer reply, or an empty one, replaces nothing."""
