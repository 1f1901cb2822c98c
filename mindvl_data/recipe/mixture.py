"""The recipe's mixture: shares of sources, alone or in groups, and how much a stage draws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import ConfigDict, Discriminator, Field, FiniteFloat, Tag, model_validator

from mindvl_data.recipe.fields import Model, Share, nearest


class Budget(Model):
    """How much one stage draws: exactly one of its keys."""

    tokens: int | None = Field(None, ge=1)
    """Text, vision and template tokens, repeats included, padding not."""
    packs: int | None = Field(None, ge=1)
    """The largest draw that so many packs of the stage's shortest sequence length hold."""
    samples: int | None = Field(None, ge=1)
    """Draws, repeats included."""
    epochs: float | None = Field(None, gt=0)
    """The largest budget at which no source is passed more than this often at the asked shares."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Budget:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("give exactly one of tokens, packs, samples and epochs")
        return self


class Passes(Model):
    """How often a source is passed, in the place of a share."""

    epochs: float = Field(gt=0)


def _kind(value: Any) -> str:
    """The tag of a member, which an error's path leaves out."""
    if isinstance(value, Passes) or (isinstance(value, dict) and "epochs" in value):
        return "(epochs)"
    return "(group)" if isinstance(value, dict | Model) else "(share)"


Number = Annotated[float, Field(gt=0)]
Member = Annotated[
    Annotated[Number, Tag("(share)")] | Annotated[Passes, Tag("(epochs)")] | Annotated["Group", Tag("(group)")],
    Discriminator(_kind),
]


class Allocate(Model):
    """Shares by score, as DecoupleMix allots them: the maximum of Σ share·score + τ·entropy under caps."""

    score: str | dict[str, FiniteFloat]
    """A Polars SQL expression, whose mean over the samples of each source counts, or a number for each."""
    tau: float = Field(gt=0)
    """How much evenness counts, in the scores' unit: a difference of tau is a ratio of e between two shares."""
    caps: Share | dict[str, Share] = Field({})
    """The most that one source of the group gets of it: one number for all, or for some by name."""

    def cap_of(self, name: str) -> float:
        return self.caps.get(name, 1.0) if isinstance(self.caps, dict) else self.caps


class Group(Model):
    """Sources and further groups by name. Each with a share, or each with `epochs`, or with a `temperature` over all,
    or with shares by score (`allocate`).

    Shares are of what the group gets and sum to 1; one group may leave its own out and gets the rest.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Member] = Field(init=False)

    share: Share | None = None
    """What the group gets of what it stands in."""
    temperature: float | None = Field(None, gt=0)
    """Shares in proportion to size^(1/temperature), times the number at each member: 1 is by size, ∞ is equal."""
    allocate: Allocate | None = None
    """Shares by score. Where the numbers at the members are other than 1, evenness means in proportion to them."""

    @property
    def members(self) -> dict[str, float | Passes | Group]:
        return dict(self.__pydantic_extra__)

    def sources(self) -> Iterator[str]:
        """Every source in the group and in the groups within, in the order of the recipe."""
        for name, member in self.members.items():
            if isinstance(member, Group):
                yield from member.sources()
            else:
                yield name

    def allocating(self, path: str) -> Iterator[tuple[str, Group]]:
        """The groups whose shares are by score, this one and those within, by the YAML path of their score."""
        if self.allocate is not None:
            yield f"{path}.allocate.score", self
        for name, member in self.members.items():
            if isinstance(member, Group):
                yield from member.allocating(f"{path}.{name}")

    @property
    def by_epochs(self) -> bool:
        """Whether each source in it states its passes, so that its size is known without a share."""
        return all(isinstance(m, Passes) or (isinstance(m, Group) and m.by_epochs) for m in self.members.values())

    def shares(self) -> dict[str, float]:
        """Each member's share of the group, where they are given as shares."""
        given = {name: m.share if isinstance(m, Group) else m for name, m in self.members.items()}
        rest = 1 - sum(share for share in given.values() if isinstance(share, float))
        return {name: share if isinstance(share, float) else rest for name, share in given.items()}

    @model_validator(mode="after")
    def _whole(self) -> Group:
        members = self.members
        if not members:
            raise ValueError("a group without a source")
        if self.temperature is not None and self.allocate is not None:
            raise ValueError("give either temperature or allocate")
        if self.temperature is not None:
            self._check_numbers("a temperature", members)
        elif self.allocate is not None:
            self._check_numbers("allocate", members)
            self._check_allocate(self.allocate, members)
        elif self.by_epochs:
            self._check_epochs(members)
        else:
            self._check_shares(members)
        return self

    @staticmethod
    def _check_numbers(beside: str, members: dict[str, float | Passes | Group]) -> None:
        for name, member in members.items():
            if not isinstance(member, float):
                raise ValueError(f"{name}: beside {beside} stand sources with a number, 1 unless one counts for more")

    @staticmethod
    def _check_allocate(allocate: Allocate, members: dict[str, float | Passes | Group]) -> None:
        for key, given in (("score", allocate.score), ("caps", allocate.caps)):
            if isinstance(given, dict) and (unknown := [name for name in given if name not in members]):
                raise ValueError(f"allocate.{key}: the group has no {unknown[0]!r}{nearest(unknown[0], members)}")
        if isinstance(allocate.score, dict) and (missing := [name for name in members if name not in allocate.score]):
            raise ValueError(f"allocate.score: gives no number for {missing[0]}")
        total = sum(allocate.cap_of(name) for name in members)
        if total < 1 - 1e-9:
            raise ValueError(f"allocate.caps: they sum to {total:g}, so that the shares cannot sum to 1")

    @staticmethod
    def _check_epochs(members: dict[str, float | Passes | Group]) -> None:
        for name, member in members.items():
            if isinstance(member, Group) and member.share is not None:
                raise ValueError(f"{name}: its epochs say how much it gives, a share cannot")

    def _check_shares(self, members: dict[str, float | Passes | Group]) -> None:
        if passes := [name for name, member in members.items() if isinstance(member, Passes)]:
            raise ValueError(f"{passes[0]}: give epochs to every source of the group or to none")
        open_ = [name for name, member in members.items() if isinstance(member, Group) and member.share is None]
        if len(open_) > 1:
            raise ValueError(f"{open_[0]} and {open_[1]}: only one group may leave its share out")
        total = sum(share for name, share in self.shares().items() if name not in open_)
        if open_ and total >= 1:
            raise ValueError(f"the shares sum to {total:g}, which leaves nothing for {open_[0]}")
        if not open_ and abs(total - 1) > 1e-6:
            raise ValueError(f"the shares sum to {total:g}, not to 1")


# Words that a mixture has a meaning for: no source can have them as its name.
RESERVED = ("share", "temperature", "allocate", "epochs")
