"""A sample as the messages that a chat template in Jinja renders, and marks around its words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

TAGS: Final = re.compile(r"(</?think>)")
# The private-use planes of Unicode.
PRIVATE: Final = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
# Stands for an image in a text, where a template knows none.
IMAGE: Final = "\U0010fffd"


def private(texts: Sequence[str]) -> Iterator[str]:
    """Private-use characters that none of the texts has."""
    taken = set().union(*map(set, texts))
    return (chr(code) for code in chain(*PRIVATE) if chr(code) not in taken)


@dataclass(frozen=True)
class Turn:
    """One message; loss: what it says itself of whether it is learnt. weight: of its loss tokens."""

    message: dict[str, Any]
    loss: bool | None
    weight: float = 1.0

    @property
    def answers(self) -> bool:
        return bool(self.message["role"] == "assistant")


@dataclass(frozen=True)
class Conversation:
    """turns: of which control tokens are private-use characters, `hidden` by them. images: their places."""

    turns: Sequence[Turn]
    tools: Sequence[Any] | None
    hidden: Mapping[str, str]
    images: int

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [turn.message for turn in self.turns]

    def shown(self, text: str) -> str:
        """A text with its control tokens, as text, in place of what hides them."""
        return text.translate({ord(hiding): token for hiding, token in self.hidden.items()})


def marked(message: Mapping[str, Any], mark: str) -> dict[str, Any]:
    """A message with the mark around its words: in its text, its thoughts and the names of the tools it calls."""
    found = dict(message)
    content = message.get("content")
    if isinstance(content, str):
        found["content"] = _mark(content, mark)
    elif isinstance(content, list):
        said = any(_has_words(block["text"]) for block in content if block["type"] == "text")
        found["content"] = [
            {**block, "text": _mark(block["text"], mark, said)} if block["type"] == "text" else block
            for block in content
        ]
    if isinstance(message.get("reasoning_content"), str):
        found["reasoning_content"] = _mark(message["reasoning_content"], mark)
    if isinstance(message.get("tool_calls"), list):
        found["tool_calls"] = [_marked_call(call, mark) for call in message["tool_calls"]]
    return found


def _marked_call(call: Any, mark: str) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": _marked_call(call["function"], mark)}
    return {**call, "name": _mark(call["name"], mark)} if isinstance(call.get("name"), str) else call


def _has_words(text: str) -> bool:
    return any(piece.strip() for piece in TAGS.split(text)[::2])


def _mark(text: str, mark: str, said: bool = False) -> str:
    """The mark around the words of a text and around those of what is thought in it, within their white space.

    And before the thought: of a template that takes texts as they are, an empty one belongs to the words. said: whether
    there are words beside it.
    """
    if not (said or _has_words(text)):
        return text
    pieces = TAGS.split(text)
    marked = [_within(piece, mark) if not n % 2 and piece.strip() else piece for n, piece in enumerate(pieces)]
    if len(pieces) > 1 and pieces[1] == "<think>" and not pieces[0].strip():
        marked[1] = mark + marked[1]
    return "".join(marked)


def _within(text: str, mark: str) -> str:
    core = text.strip()
    start = text.index(core)
    return f"{text[:start]}{mark}{core}{mark}{text[start + len(core) :]}"


def other_arguments(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """The messages with the arguments of calls as objects where they are texts, and the other way round.

    OpenAI has them as JSON in a text; templates want the one or the other. None where there are none.
    """
    if not any(message.get("tool_calls") for message in messages):
        return None
    return [
        {**message, "tool_calls": [_turned(call) for call in message["tool_calls"]]}
        if isinstance(message.get("tool_calls"), list)
        else dict(message)
        for message in messages
    ]


def _turned(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": _turned(call["function"])}
    arguments = call.get("arguments")
    try:
        turned = json.loads(arguments) if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    except ValueError:
        return call
    return {**call, "arguments": turned} if "arguments" in call else call
