"""What every section of the recipe is made of: frozen models, and the kinds of value they share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from mindvl_data.errors import UserError


class RecipeError(UserError):
    """A recipe that cannot be built; the message names the YAML path and what to do."""


def _as_tuple(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else (value,)


def _one_or_more(kind: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [kind, {"type": "array", "items": kind, "minItems": 1}]})


Paths = Annotated[tuple[str, ...], BeforeValidator(_as_tuple), _one_or_more({"type": "string"})]
Length = Annotated[int, Field(ge=16, le=2**24)]
Lengths = Annotated[tuple[Length, ...], BeforeValidator(_as_tuple), _one_or_more({"type": "integer", "minimum": 16})]
# What becomes the name of a file or folder.
Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
Share = Annotated[float, Field(gt=0, le=1)]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def nearest(name: str, known: Iterable[Any]) -> str:
    """The end of a message about a name that is not known: the nearest one, or all there are."""
    names = [str(key) for key in known]
    near = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names)}"
