"""What a stage asks for: a share of each source, and how much of the whole, before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mindvl_data.recipe import Budget, Group
from mindvl_data.steps.mix.pools import MixError, Stock
from mindvl_data.steps.mix.shares import passes_asked, resolved


@dataclass(frozen=True)
class Asked:
    """Shares that sum to 1, and the amount of the whole in what they are shares of.

    tokens, samples: where the budget is given in these and the shares are of something else, the draw ends
    with the sample that reaches it, and `amount` is what that comes to on average.
    """

    shares: Mapping[str, float]
    amount: float
    tokens: int | None = None
    samples: int | None = None

    def passes(self, name: str, size: int) -> float:
        """How often a source of this size, in what shares are shares of, is passed."""
        return self.amount * self.shares[name] / size


def ask(pools: Mapping[str, Stock], mixture: Group, budget: Budget | None, by: str, stage: str) -> Asked:
    """Shares and amount of a stage. budget: None where the mixture states its epochs; not in packs.

    Raises MixError where a source is empty.
    """
    empty = [name for name in mixture.sources() if not pools[name].size]
    if empty:
        raise MixError(
            f"stages.{stage}: the source {empty[0]} has no sample left to draw from; "
            "the funnel of `plan` says where they went"
        )
    sizes = {name: pools[name].size for name in mixture.sources()}
    shares = resolved(mixture, sizes)
    if budget is None:
        return Asked(shares, passes_asked(mixture, sizes))
    if budget.epochs is not None:
        return Asked(shares, largest_amount(pools, shares, budget.epochs))
    if budget.tokens is not None:
        if by == "tokens":
            return Asked(shares, budget.tokens)
        each = sum(share * pools[name].total_tokens / sizes[name] for name, share in shares.items())
        return Asked(shares, budget.tokens / each, tokens=budget.tokens)
    assert budget.samples is not None
    each = sum(share * len(pools[name]) / sizes[name] for name, share in shares.items())
    return Asked(shares, budget.samples / each, samples=budget.samples)


def largest_amount(pools: Mapping[str, Stock], shares: Mapping[str, float], epochs: float) -> float:
    """The most that can be drawn with no source passed more than `epochs` times."""
    return min(epochs * pools[name].size / share for name, share in shares.items())


def check_repeats(pools: Mapping[str, Stock], asked: Asked, max_epochs: float, by: str, stage: str) -> None:
    """Raises MixError, saying how much is missing, where a source would be passed more than `max_epochs` times."""
    passes = {name: asked.passes(name, pools[name].size) for name in asked.shares}
    worst = max(passes, key=passes.__getitem__)
    if passes[worst] <= max_epochs * (1 + 1e-9):
        return
    unit, size = by.replace("_", " "), pools[worst].size
    need = math.ceil(asked.amount * asked.shares[worst] / max_epochs)
    raise MixError(
        f"stages.{stage}.budget: {asked.amount:,.0f} {unit} at a share of {asked.shares[worst]:g} pass {worst} "
        f"{passes[worst]:.2f} times, max_epochs is {max_epochs:g}. {worst} has {size:,} {unit} "
        f"here, {need - size:,} too few. Add data, lower its share, raise max_epochs, or ask for "
        f"at most {math.floor(largest_amount(pools, asked.shares, max_epochs)):,} {unit}"
    )
