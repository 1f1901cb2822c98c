"""What every section of the recipe is made of: frozen models, and the kinds of value they share."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

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


# 1e6, 2B, 4k, 1.5 M, 50GB, 4Ki.
WRITTEN = re.compile(r"([+-]?\d[\d_,]*(?:\.\d+)?(?:[eE][+-]?\d{1,2})?) ?(?:([kKMGT])(i?)B?|B)?")
POWERS = {"k": 1, "K": 1, "M": 2, "G": 3, "T": 4}


def number_of(text: str) -> int | float | None:
    """A number as people write it, None where it is none: 1e6, 4k, 1.5M, 2B and 2G (both 10⁹), 50GB, 4Ki (4,096)."""
    match = WRITTEN.fullmatch(text.strip())
    if match is None:
        return None
    digits, unit, binary = match.groups()
    billions = unit is None and text.strip().endswith("B")
    power = 3 if billions else POWERS.get(unit or "", 0)
    value = Decimal(digits.replace("_", "").replace(",", "")) * (1024 if binary else 1000) ** power
    return int(value) if value == value.to_integral_value() else float(value)


def _takes_a_number(kind: Any) -> bool:
    """Whether a field of this type is a number and may be no text."""
    kinds = {kind, *get_args(kind), *(inner for one in get_args(kind) for inner in get_args(one))}
    return bool(kinds & {int, float}) and not kinds & {str, bool}


def _read_number(value: Any) -> Any:
    if isinstance(value, list):
        return [*map(_read_number, value)]
    found = number_of(value) if isinstance(value, str) else None
    return value if found is None else found


class Model(BaseModel):
    """A section. What its keys mean stands in docstrings after them, which `loading.json_schema` reads: to have
    pydantic do so for every command takes a tenth of a second."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        numbers = {name for name, field in cls.model_fields.items() if _takes_a_number(field.annotation)}
        return {name: _read_number(value) if name in numbers else value for name, value in data.items()}


def nearest(name: str, known: Iterable[Any]) -> str:
    """The end of a message about a name that is not known: the nearest one, or all there are."""
    names = [str(key) for key in known]
    near = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names)}"
