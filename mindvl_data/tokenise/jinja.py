"""A chat template in Jinja: what it makes of a sample as messages, and how it writes answers and images.

Control tokens in what the data says are rendered as private-use characters and are text again behind it: so the
template's own and the data's are never taken for each other.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from mindvl_data.runtime import sandbox
from mindvl_data.runtime.sandbox import RenderError
from mindvl_data.tables.schema import Control, Part
from mindvl_data.tokenise.conversation import IMAGE, Conversation, Turn, other_arguments, private
from mindvl_data.tokenise.render import IMAGE_TOKENS, TEMPLATES, ChatTemplate, Refused, opening

# Published templates that a table stands for, by the SHA-256 of their text without white space around it.
PUBLISHED: Final = {
    # Qwen2-VL and Qwen2.5-VL; Qwen3-VL.
    "a0bc6f6fc7a29a80017a433e8f03a1cc1236e838a944a2d034295a60c4f2fddb": "qwen2-vl",
    "9d879ef91075acbfb2df7e441fd79d60bacfca989cf6d511d2af45c681e94f10": "chatml",
}
PLAIN_ROLES: Final = ("system", "user", "assistant")
PROBE: Final = ("a first question", "a first answer")


@dataclass(frozen=True)
class JinjaTemplate:
    """A template and what it needs of its tokenizer.

    name: as the recipe has it. text: in Jinja; tool_text: another one for conversations with tools, where there is.
    values: its variables, for example `bos_token`. controls, added: the tokenizer's special tokens, and all its added
    ones. day: of `strftime_now`, where the template asks for it, so that a build is of one day.
    """

    name: str
    text: str
    tool_text: str | None
    values: tuple[tuple[str, str], ...]
    controls: tuple[str, ...]
    added: tuple[str, ...]
    day: str | None = None

    def describe(self, name: str) -> dict[str, Any]:
        """The template for the manifest: its name, its data and their hash."""
        data: dict[str, Any] = {"jinja": self.text, "variables": dict(self.values), "end": self.end}
        data |= {"tools_jinja": self.tool_text} if self.tool_text else {}
        data |= {"day": self.day} if self.day else {}
        text = json.dumps(data, sort_keys=True, ensure_ascii=False)
        return {"name": name, "sha256": hashlib.sha256(text.encode()).hexdigest(), **data}

    def table_for(self, parts: Sequence[Part]) -> ChatTemplate | None:
        """The table that makes the same of such a sample, without Jinja; None where there is none."""
        if self._table is None or self.tool_text is not None:
            return None
        roles = [next(turn).role for _, turn in groupby(parts, attrgetter("turn"))]
        plain = all(part.role in PLAIN_ROLES and part.field is None for part in parts)
        # What Qwen3-VL's leaves out.
        seen = all(part.role == "user" for part in parts if part.text is None) and "system" not in roles[1:]
        return self._table if roles and plain and seen else None

    @cached_property
    def _table(self) -> ChatTemplate | None:
        name = PUBLISHED.get(hashlib.sha256(self.text.strip().encode()).hexdigest())
        return TEMPLATES[name] if name else None

    def conversation(self, parts: Sequence[Part]) -> Conversation:
        """A sample as messages, its control tokens hidden. Raises Refused."""
        hidden = self._hiding(parts)
        hide = {token: hiding for hiding, token in hidden.items()}
        tools = [part.text for part in parts if part.field == "tools" and part.text]
        said = [part for part in parts if part.field != "tools"]
        turns = [self._turn([*turn], hide) for _, turn in groupby(said, attrgetter("turn"))]
        if not turns:
            raise Refused("empty", "no message")
        # Where there are clips, places are written as control tokens (see clips).
        images = sum(part.text is None or (isinstance(part, Control) and part.text == IMAGE_TOKENS[1]) for part in said)
        return Conversation(turns, self._hide(json.loads(tools[0]), hide) if tools else None, hidden, images)

    def _turn(self, parts: Sequence[Part], hide: Mapping[str, str]) -> Turn:
        message: dict[str, Any] = {"role": parts[0].role}
        content = [part for part in parts if part.field is None]
        if content:
            message["content"] = self._content(content, hide)
        for part in parts:
            if part.field is not None:
                value = json.loads(part.text or "null") if part.field == "tool_calls" else part.text
                message[part.field] = self._hide(value, hide)
        return Turn(message, opening(parts).loss, 1.0 if parts[0].weight is None else parts[0].weight)

    def _content(self, parts: Sequence[Part], hide: Mapping[str, str]) -> str | list[dict[str, str]]:
        """One text is a text; several, and images, are blocks, where the template takes them."""
        texts = [self._text(part, hide) for part in parts]
        if len(texts) == 1 and texts[0] is not None:
            return texts[0]
        if self.takes_blocks:
            return [{"type": "image"} if text is None else {"type": "text", "text": text} for text in texts]
        return "".join(IMAGE if text is None else text for text in texts)

    def _text(self, part: Part, hide: Mapping[str, str]) -> str | None:
        """A part's text; a control token that a rule of the recipe writes is none of the data's: it stays."""
        if part.text is None:
            return None if self.image_token else IMAGE
        return part.text if isinstance(part, Control) else str(self._hide(part.text, hide))

    def _hide(self, value: Any, hide: Mapping[str, str]) -> Any:
        if isinstance(value, str):
            return self.control.sub(lambda found: hide[found[0]], value) if hide else value
        if isinstance(value, dict):
            return {self._hide(key, hide): self._hide(inner, hide) for key, inner in value.items()}
        return [self._hide(inner, hide) for inner in value] if isinstance(value, list) else value

    def _hiding(self, parts: Sequence[Part]) -> dict[str, str]:
        """Private-use characters, each for a control token that the data says."""
        texts = [part.text for part in parts if part.text is not None and not isinstance(part, Control)]
        found = sorted({token for text in texts for token in self.control.findall(text)})
        return dict(zip(private([*texts, self.text, IMAGE]), found, strict=False)) if found else {}

    @cached_property
    def control(self) -> re.Pattern[str]:
        """A special token, or an image: of the template's text; no text of the data may be taken for one."""
        return _any_of([*self.controls, IMAGE])

    def rendered(self, messages: Sequence[Mapping[str, Any]], tools: Any = None, ask: bool = False) -> str:
        """The text of messages. Raises Refused."""
        return self.render(messages, tools, ask)[0]

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Any, ask: bool = False
    ) -> tuple[str, Sequence[tuple[int, int]]]:
        """The text of messages, and what of it lies in `{% generation %}`. Raises Refused."""
        text = self.tool_text if tools and self.tool_text else self.text
        now = datetime.fromisoformat(self.day) if self.day else None
        how: dict[str, Any] = {"tools": tools, "values": dict(self.values), "add_generation_prompt": ask, "now": now}
        try:
            found = sandbox.render(text, messages, **how)
        except RenderError as error:
            other = other_arguments(messages)
            if other is None:
                raise Refused("chat_template", f"the chat template does not take the conversation: {error}") from error
            try:
                found = sandbox.render(text, other, **how)
            except RenderError:
                raise Refused("chat_template", f"the chat template does not take the conversation: {error}") from error
        return found.text, found.generated

    @cached_property
    def takes_blocks(self) -> bool:
        """Whether the template makes the same of a text and of the same text in two blocks."""
        first, second = PROBE[0].split(" ", 1)
        blocks = [{"type": "text", "text": first}, {"type": "text", "text": second}]
        try:
            found = [self.rendered([{"role": "user", "content": content}]) for content in (first + second, blocks)]
        except Refused:
            return False
        return found[0] == found[1]

    @cached_property
    def image_token(self) -> str | None:
        """The special token that the template writes for an image; None where it knows no images."""
        blocks = [{"type": "image"}, {"type": "text", "text": PROBE[0]}]
        try:
            without, with_one = (self.rendered([{"role": "user", "content": blocks[n:]}]) for n in (1, 0))
        except Refused:
            return None
        if not self.takes_blocks:
            return None
        more: list[str] = self.control.findall(with_one)
        for token in self.control.findall(without):
            more.remove(token)
        if IMAGE_TOKENS[1] in more:
            return IMAGE_TOKENS[1]
        return more[0] if len(more) == 1 else None

    @cached_property
    def header(self) -> str:
        """What stands before an answer that is asked for."""
        try:
            base, asking = (self.rendered([{"role": "user", "content": PROBE[0]}], ask=ask) for ask in (False, True))
        except Refused:
            return ""
        return asking.removeprefix(base) if asking.startswith(base) else ""

    @cached_property
    def anchor(self) -> str:
        """How the header begins: its first added token, or all of it."""
        found = self.added_token.search(self.header)
        return found[0] if found else self.header.strip()

    @cached_property
    def end(self) -> str:
        """The token that ends an answer; "" where there is none."""
        probe = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), PROBE, strict=True)]
        try:
            tail = self.rendered(probe).rpartition(PROBE[1])[2]
        except Refused:
            return ""
        found = self.added_token.search(tail)
        return found[0] if found else ""

    @cached_property
    def added_token(self) -> re.Pattern[str]:
        return _any_of([*self.added, *self.controls])


def _any_of(tokens: Sequence[str]) -> re.Pattern[str]:
    """Any of the tokens, the longest first as the library finds them."""
    return re.compile("|".join(map(re.escape, sorted({*tokens}, key=len, reverse=True))))
