"""From the recipe's mixture to one share a source, given how large each source is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mindvl_data.recipe import Group, Passes
from mindvl_data.steps.mix.allocate import allocated
from mindvl_data.steps.mix.pools import MixError

# Powers differ in their last bit from one C library to another: the shares made of them have so many digits.
DIGITS = 12


def resolved(mixture: Group, sizes: Mapping[str, int]) -> dict[str, float]:
    """Each source's share of the whole, summing to 1, in the order of the mixture.

    Args:
        sizes: Each source in what shares are shares of (tokens, samples, loss tokens), none of them 0.
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
    if group.allocate is not None:
        return _allocated(group)
    if group.by_epochs:
        weights = {name: _by_epochs(member, name, sizes) for name, member in group.members.items()}
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}
    return group.shares()


def _allocated(group: Group) -> dict[str, float]:
    assert group.allocate is not None
    scores = group.allocate.score
    if isinstance(scores, str):
        members = ", ".join(f"{name}: …" for name in group.members)
        raise MixError(
            f"allocate.score: the mean of {scores!r} is known only from the data, from which a build or a plan without "
            f"--forecast takes it; for a forecast give numbers: score: {{{members}}}"
        )
    caps = {name: group.allocate.cap_of(name) for name in group.members}
    weights = {name: float(str(weight)) for name, weight in group.members.items()}
    shares = allocated({name: scores[name] for name in weights}, group.allocate.tau, caps, weights)
    return {name: float(f"{share:.{DIGITS}g}") for name, share in shares.items()}


def _by_epochs(member: float | Passes | Group, name: str, sizes: Mapping[str, int]) -> float:
    if isinstance(member, Group):
        return passes_asked(member, sizes)
    assert isinstance(member, Passes)
    return member.epochs * sizes[name]
