"""What a family of published models is: an entry point of the group `mindvl_train.published`.

Its name is the `model_type` of the folder's `config.json`, its object a `Language` or a `Joint`. A family says
in both directions how a configuration is written and what a tensor is called; it never sees a model.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mindvl_data.errors import UserError
from mindvl_train.models.vit import VisionConfig

Json = dict[str, Any]


class PublishedError(UserError):
    """A published folder that cannot be used; says what does not fit and what would."""


@dataclass(frozen=True)
class Origin:
    """One tensor of ours in published terms.

    Attributes:
        names: of the published tensors; several are stacked along a new first dimension, in this order.
        shape: of each of them.
        parts: rows of each of the tensors of ours that a published one holds, in order; empty: it is one.
        part: which of them is ours.
        along: the dimension that they follow each other in; rows are the last but one.
        transposed: whether its rows are the last dimension, or, as transformers 5 writes them, the last but one; its
            shape tells. Otherwise the values are in the same order as ours.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    parts: tuple[int, ...] = ()
    part: int = 0
    along: int = -2
    transposed: bool = False

    def fits(self, found: tuple[int, ...]) -> bool:
        """Whether a published tensor of this shape is the one."""
        return found == self.shape or (self.transposed and found == (*self.shape[:-2], self.shape[-1], self.shape[-2]))

    def ours(self, published: Tensor) -> Tensor:
        """Our part of a published tensor."""
        turned = self.transposed and tuple(published.shape) == self.shape
        rows = published.transpose(-1, -2) if turned else published
        return torch.split(rows, list(self.parts), dim=self.along)[self.part] if self.parts else rows

    def theirs(self, parts: Sequence[Tensor]) -> Tensor:
        """The published tensor of these, which are the parts of ours that it holds, in their order."""
        rows = torch.cat(list(parts), dim=self.along) if len(parts) > 1 else parts[0]
        return (rows.transpose(-1, -2).contiguous() if self.transposed else rows).reshape(self.shape)


# (what our parameter is called below `decoder.`, `vision.` or `projector.`, its shape) → where it comes from.
Naming = Callable[[str, tuple[int, ...]], Origin]


def tied_head(config: Any) -> tuple[str, ...]:
    """A head that is the embedding again is stored by some and not by others."""
    return ("lm_head.weight",) if config.tie_word_embeddings else ()


@dataclass(frozen=True)
class Language:
    """A published language model.

    Attributes:
        model: the name, in the group `mindvl_train.models`, of what its decoder is a part of.
        read: `config.json` → our fields. A missing key may be a KeyError.
        write: our fields → `config.json`; None where the family has no such model.
        name: of a tensor of the decoder.
        name_by: where names depend on more: (our fields, the tensors of the folder that is read; none: it is to be
            written) → what stands for `name`.
        unused: globs of published tensors that the model has no place for.
        keys: of its `config.json` that `read` reads or that change nothing; None: any.
        rotary_keys: of its rotary settings, besides those that all have.
    """

    read: Callable[[Json], Any]
    write: Callable[[Any], Json | None]
    name: Naming
    unused: Callable[[Any], tuple[str, ...]] = tied_head
    model: str = "vlm"
    name_by: Callable[[Any, Collection[str]], Naming] | None = None
    keys: frozenset[str] | None = None
    rotary_keys: frozenset[str] = frozenset()

    def naming(self, config: Any, stored: Collection[str] = ()) -> Naming:
        """Of a decoder's tensors, in a folder that holds the tensors `stored`; none: in one that is to be written."""
        return self.name_by(config, stored) if self.name_by else self.name


# What a tower's `config.json` may say besides its sizes.
TOWER_KEYS = frozenset(
    {"hidden_act", "in_chans", "out_hidden_size", "spatial_patch_size", "rope_theta", "rope_parameters"}
)
TOWER_ROTARY = {"rope_theta": 10_000.0, "rope_type": "default"}


@dataclass(frozen=True)
class Vision:
    """A published vision tower with its projector, in a folder of its own or in that of a joint model.

    Attributes:
        write: (our fields, size of the decoder) → the `config.json` of a folder of its own; None where the family
            has no such tower, or none without a decoder.
        keys: as of `Language`.
    """

    read: Callable[[Json], VisionConfig]
    write: Callable[[VisionConfig, int], Json | None]
    name_vision: Naming
    name_projector: Naming
    keys: frozenset[str] | None = None


@dataclass(frozen=True)
class Joint:
    """A published vision-language model: the whole of ours in one folder.

    Attributes:
        write: None where the family does not join these two.
        aliases: how names begin in the module's own `state_dict`, where that is otherwise than as it is published, and
            how they are published.
    """

    language: Language
    vision: Vision
    write: Callable[[VisionConfig, Any], Json | None]
    aliases: Mapping[str, str] = field(default_factory=dict)


def plain(prefix: str, exceptions: Mapping[str, str] | None = None) -> Naming:
    """Our names behind `prefix`, but for those that begin like a key of `exceptions`: its value stands there."""

    def name(ours: str, shape: tuple[int, ...]) -> Origin:
        for beginning, theirs in (exceptions or {}).items():
            if ours.startswith(beginning):
                return Origin((theirs + ours.removeprefix(beginning),), shape)
        return Origin((prefix + ours,), shape)

    return name


def demand_tower_positions(config: Json) -> None:
    """Refuses a tower whose rotary positions are others than those of every published one.

    Raises:
        PublishedError: as `demand` does.
    """
    rotary = config | (config.get("rope_parameters") or {})
    # Transformers calls them axial since it has a name for them.
    kind = rotary.get("rope_type")
    demand({"rope_theta": rotary.get("rope_theta"), "rope_type": None if kind == "axial" else kind}, **TOWER_ROTARY)


def demand(config: Json, **values: Any) -> None:
    """Refuses a configuration that asks for something we do not compute.

    Raises:
        PublishedError: one of these keys is there with another value.
    """
    for key, value in values.items():
        if config.get(key, value) not in (value, None):
            raise PublishedError(f"config.json: {key} is {config[key]!r}; only {value!r} is supported")
