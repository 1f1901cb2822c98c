"""Preferences: a prompt with an answer that was chosen and one that was rejected, as TRL and RLAIF-V have them: texts
or messages, with the prompt beside them (`prompt`, `question`) or as what both begin with.

A pair is a conversation whose last two turns are the assistant's: the chosen answer, and the rejected one, which is not
trained on. So its length is that of the shared prompt and both answers, and duplicates are looked for in all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from mindvl_data.sources import Asked, Record, Row, Sample, Unusable, listed
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.messages import conversation
from mindvl_data.sources.pieces import row_pieces
from mindvl_data.sources.places import MEDIA_FIELDS
from mindvl_data.sources.rows import samples

PROMPTS = ("prompt", "question", "query", "instruction")
COLUMNS = ("chosen", "rejected", *PROMPTS, "system", "uid", "id", *MEDIA_FIELDS)


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """One pair a row or line."""
    return samples(file, asked, COLUMNS, _sample)


def _sample(key: str, row: Row) -> Sample:
    prompt = prompt_of(row)
    chosen, rejected = (turns(row, name, "assistant") for name in ("chosen", "rejected"))
    if not prompt:
        both = zip(chosen, rejected, strict=False)
        prompt = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], both)]
        prompt = prompt[: min(len(chosen), len(rejected)) - 1]
    chosen, rejected = (_behind(prompt, turns) for turns in (chosen, rejected))
    if len(chosen) != 1 or len(rejected) != 1:
        raise Unusable("malformed_record", "chosen and rejected are one answer each behind one prompt")
    if chosen == rejected:
        raise Unusable("malformed_record", "chosen and rejected are the same answer")
    answers = [{**chosen[0], "loss": True}, {**rejected[0], "loss": False}]
    if not prompt or any(answer.get("role") != "assistant" for answer in answers):
        raise Unusable("malformed_record", "a pair has a prompt, and both answers are an assistant's")
    return conversation(key, {**row, "messages": [*prompt, *answers]})


def prompt_of(row: Row) -> list[Any]:
    """The messages before an answer, with the system's; [] where the row has none of its own."""
    name = next((name for name in PROMPTS if row.get(name) is not None), None)
    prompt = turns(row, name, "user") if name else []
    system = row.get("system")
    return [{"role": "system", "content": system}, *prompt] if prompt and isinstance(system, str) and system else prompt


def turns(row: Row, name: str, role: str) -> list[Any]:
    """A field as messages: a list of them, or a text as one message of this role. Raises Unusable."""
    value = row.get(name)
    if isinstance(value, dict):
        return [value]
    found = listed(row, name)
    if found is not None and all(isinstance(each, dict) for each in found):
        return list(found)
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    raise Unusable("malformed_record", f"`{name}` is neither a text nor a list of messages")


def _behind(prompt: list[Any], messages: list[Any]) -> list[Any]:
    """What is said after the prompt, where it stands in the messages too."""
    return messages[len(prompt) :] if messages[: len(prompt)] == prompt else messages


read.pieces = row_pieces  # type: ignore[attr-defined]
