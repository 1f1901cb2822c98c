"""The recipe's section on which share of all samples trains most: a choice over several columns at once."""

from __future__ import annotations

from pydantic import Field

from mindvl_data.recipe.fields import Model, Share


class Axes(Model):
    """What is taken in turns: capabilities, and within each the styles."""

    capabilities: str | tuple[str, ...] = Field(min_length=1)
    """The name of a score, all of whose numbers are capabilities (a judge's preset `capabilities`, joined columns), or
    Polars SQL expressions, the first of which chooses first."""
    styles: str
    """A Polars SQL expression: text, a list of text, or text with commas for several styles. A sample for which it is
    null is not chosen."""
    origin: str | None = "source"
    """A Polars SQL expression: styles of different origins are different styles. Null: they are not."""
    above: float = 0
    """A capability chooses among the samples that score more than this."""


class Select(Model):
    """Keeps a share of the samples, chosen in turns by capabilities and styles, as mmSSR does."""

    name: str
    by: Axes
    share: Share
    """Of the samples that reach the rule, rounded down."""
    sources: tuple[str, ...] | None = None
    """The sources it applies to, of all of which together the share is taken; by default all."""
