"""The recipe's section on groups that are too large beside the others."""

from __future__ import annotations

from pydantic import Field, model_validator

from mindvl_data.recipe.fields import Model, Share


class Balance(Model):
    """Keeps so many samples of each group: at most `cap`, or a `share` of all, flattened by an `exponent`."""

    name: str
    by: str
    """A Polars SQL expression: samples of one value are one group, for example a `clusters` score, or `source`.
    Samples for which it is null stay."""
    cap: int | None = Field(None, ge=1)
    share: Share | None = None
    exponent: float = Field(0, ge=0, le=1)
    """Of `share`: groups stay in proportion to size ** exponent. 0: alike, as far as they reach; 1: as they are."""
    prefer: str | None = None
    """A Polars SQL expression: the samples in which it is largest stay. By default a hash of their ids decides."""
    sources: tuple[str, ...] | None = None
    """The sources it applies to; by default all."""

    @model_validator(mode="after")
    def _one_rule(self) -> Balance:
        if (self.cap is None) == (self.share is None):
            raise ValueError("give either cap or share")
        return self
