"""What a family of published models is: an entry point of the group `mindvl_train.published`.

Its name is the `model_type` of the folder's `config.json`, its object a `Language` or a `Joint`. A family says
in both directions how a configuration is written and what a tensor is called; it never sees a model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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
        shape: of each of them; the same values in the same order as ours.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]


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
        unused: globs of published tensors that the model has no place for.
    """

    read: Callable[[Json], Any]
    write: Callable[[Any], Json | None]
    name: Naming
    unused: Callable[[Any], tuple[str, ...]] = tied_head
    model: str = "vlm"


@dataclass(frozen=True)
class Vision:
    """A published vision tower with its projector, in a folder of its own or in that of a joint model."""

    read: Callable[[Json], VisionConfig]
    write: Callable[[VisionConfig, int], Json]
    name_vision: Naming
    name_projector: Naming


@dataclass(frozen=True)
class Joint:
    """A published vision-language model: the whole of ours in one folder.

    Attributes:
        write: None where the family does not join these two.
    """

    language: Language
    vision: Vision
    write: Callable[[VisionConfig, Any], Json | None]


def plain(prefix: str, exceptions: Mapping[str, str] | None = None) -> Naming:
    """Our names behind `prefix`, but for those that begin like a key of `exceptions`: its value stands there."""

    def name(ours: str, shape: tuple[int, ...]) -> Origin:
        for beginning, theirs in (exceptions or {}).items():
            if ours.startswith(beginning):
                return Origin((theirs + ours.removeprefix(beginning),), shape)
        return Origin((prefix + ours,), shape)

    return name


def demand(config: Json, **values: Any) -> None:
    """Refuses a configuration that asks for something we do not compute.

    Raises:
        PublishedError: one of these keys is there with another value.
    """
    for key, value in values.items():
        if config.get(key, value) not in (value, None):
            raise PublishedError(f"config.json: {key} is {config[key]!r}; only {value!r} is supported")
