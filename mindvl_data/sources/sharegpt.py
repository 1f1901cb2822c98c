"""ShareGPT and LLaVA: entries with `conversations` (from, value), `<image>` a place, `image` a path or a list.

Clips are in `video` or `videos`, `<video>` is the place of one (see `places`).

ms-swift's ShareGPT has a question and its answer in one entry, `human` and `assistant`: it is read as two turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mindvl_data.sources import Asked, Record, Row, Sample, Unusable, listed, loss_of, uid_of, weight_of
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.pieces import row_pieces
from mindvl_data.sources.places import MEDIA_FIELDS, in_places, media_of
from mindvl_data.sources.rows import samples
from mindvl_data.tables.schema import Part

COLUMNS = ("conversations", "conversation", "system", "id", *MEDIA_FIELDS)
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
TOOLS = frozenset({"function_call", "function", "observation", "tool", "tool_call", "tool_response", "tools"})


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """One sample an entry."""
    return samples(file, asked, COLUMNS, _sample)


def _sample(key: str, row: Row) -> Sample:
    turns = listed(row, "conversations", "conversation")
    if turns is None:
        raise Unusable("malformed_record", "an entry is an object with a list of conversations")
    media = media_of(row)
    system = row.get("system")
    parts = [Part(0, "system", None, system)] if isinstance(system, str) and system else []
    for number, item in enumerate(_turns(turns), len(parts)):
        parts.append(_turn(number, item))
    return Sample(key, *in_places(parts, media), uid_of(row, "id"))


def _turns(items: list[Any]) -> Iterator[Any]:
    for item in items:
        if (
            isinstance(item, dict)
            and item.get("from") is None
            and None not in (item.get("human"), item.get("assistant"))
        ):
            yield from ({"from": who, "value": item[who]} for who in ("human", "assistant"))
        else:
            yield item


def _turn(number: int, item: Any) -> Part:
    who = item.get("from") if isinstance(item, dict) else None
    if not isinstance(who, str) or not isinstance(item.get("value"), str):
        raise Unusable("malformed_record", f"turn {number} has no `from` or no text in `value`")
    if who not in ROLES:
        reason = "unsupported_role" if who in TOOLS else "malformed_record"
        raise Unusable(reason, f"turn {number} is from {who!r}; there are: {', '.join(ROLES)}")
    return Part(number, ROLES[who], loss_of(item), item["value"], weight=weight_of(item))


read.pieces = row_pieces  # type: ignore[attr-defined]
