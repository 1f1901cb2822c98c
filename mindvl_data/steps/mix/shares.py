"""From the recipe's mixture to one share a source, given how large each source is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mindvl_data.recipe import Group, Passes

# Powers differ in their last bit from one C library to another: the shares made of them have so many digits.
DIGITS = 12


def resolved(mixture: Group, sizes: Mapping[str, int]) -> dict[str, float]:
    """Each source's share of the whole, summing to 1, in the order of the mixture.

    sizes: each source in what shares are shares of (tokens, samples, loss tokens), none of them 0.
    """
    return dict(_leaves(mixture, sizes, 1.0))


def passes_asked(mixture: Group, sizes: Mapping[str, int]) -> float:
    """The size of a mixture by epochs: Σ epochs × size."""
    return sum(_by_epochs(member, name, sizes) for name, member in mixture.members.items())


def _leaves(group: Group, sizes: Mapping[str, int], of: float) -> Iterator[tuple[str, float]]:
    for name, share in _members(group, sizes).items():
        member = group.members[name]
        if isinstance(member, Group):
            yield from _leaves(member, sizes, of * share)
        else:
            yield name, of * share


def _members(group: Group, sizes: Mapping[str, int]) -> dict[str, float]:
    if group.temperature is not None:
        power = 1 / group.temperature
        weights = {name: float(str(weight)) * sizes[name] ** power for name, weight in group.members.items()}
        total = sum(weights.values())
        return {name: float(f"{weight / total:.{DIGITS}g}") for name, weight in weights.items()}
    if group.by_epochs:
        weights = {name: _by_epochs(member, name, sizes) for name, member in group.members.items()}
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}
    return group.shares()


def _by_epochs(member: float | Passes | Group, name: str, sizes: Mapping[str, int]) -> float:
    if isinstance(member, Group):
        return passes_asked(member, sizes)
    assert isinstance(member, Passes)
    return member.epochs * sizes[name]
