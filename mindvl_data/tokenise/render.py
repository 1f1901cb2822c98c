"""How a sample becomes text: the renders (chat, caption, plain) and the chat templates, as tables.

`loss` is the source's rule: `answers` trains on what the render says, `all` on the prompts and the template's text
too. A part's own `loss` rules over both. Image blocks and a sample's first token are never trained on.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, NamedTuple

from mindvl_data.tables.schema import Control, Drop, Part

END_OF_TEXT: Final = "<|endoftext|>"
# Of the turns that a table has a form for.
ROLES: Final = ("system", "user", "assistant")


class Refused(Exception):  # noqa: N818 - it names what is wrong with the sample, not with the program
    """A conversation that the template does not render, or of which it cannot be told what is learnt."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.drop = Drop(reason, detail)


class Stretch(NamedTuple):
    """Text, or if `special` the name of one special token; `loss` where it is trained on, and what that weighs."""

    text: str
    loss: bool
    special: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class ChatTemplate:
    """What stands before and behind a turn's content; `{role}` is the role's name, `<|…|>` a special token.

    The suffix begins with the token that ends a turn. `default_system` is the system turn of a sample without one.
    """

    prefix: str
    suffix: str
    default_system: str | None = None

    @property
    def end(self) -> str:
        """The token that ends an answer."""
        return _split(self.suffix)[0]

    def describe(self, name: str) -> dict[str, Any]:
        """The template for the manifest: its name, its data and their hash."""
        data = asdict(self)
        text = json.dumps(data, sort_keys=True, ensure_ascii=False)
        return {"name": name, "sha256": hashlib.sha256(text.encode()).hexdigest(), **data}


TEMPLATES: Final[dict[str, ChatTemplate]] = {
    # Qwen2-VL and Qwen2.5-VL, as published.
    "qwen2-vl": ChatTemplate("<|im_start|>{role}\n", "<|im_end|>\n", "You are a helpful assistant."),
    # The same without a system turn of its own: Qwen3-VL.
    "chatml": ChatTemplate("<|im_start|>{role}\n", "<|im_end|>\n"),
}

IMAGE_TOKENS: Final = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
# What captions and plain texts, which have no template, are rendered with.
NO_TEMPLATE: Final = ChatTemplate("", "")
VIDEO_PAD: Final = "<|video_pad|>"
_MEDIA: Final = (*IMAGE_TOKENS, VIDEO_PAD)
_IMAGE = tuple(Stretch(name, False, True) for name in IMAGE_TOKENS)


def chat(parts: Sequence[Part], template: ChatTemplate, loss: str) -> Iterator[Stretch]:
    """Turns in the template; loss on the assistant's content and the token that ends its turn."""
    for part in parts:
        if part.role not in ROLES or part.field not in (None, "reasoning_content"):
            said = f"has {part.field}" if part.field else f"is of the role {part.role!r}"
            raise Refused(
                "unsupported_role",
                f"message {part.turn} {said}, which this chat template has no form for: name one in Jinja that has "
                "(chat_template: tokenizer, or a file)",
            )
    turns = [list(turn) for _, turn in groupby(parts, key=attrgetter("turn"))]
    if template.default_system is not None and (not turns or turns[0][0].role != "system"):
        turns.insert(0, [Part(-1, "system", None, template.default_system)])
    for turn in turns:
        role = turn[0].role
        trained = _trained(opening(turn), loss == "all" or role == "assistant")
        weight = 1.0 if turn[0].weight is None else turn[0].weight
        scaffold = trained and loss == "all"
        for text in _split(template.prefix):
            yield Stretch(text.replace("{role}", role), scaffold, _is_special(text), weight)
        for part in turn:
            content = _content(part, _trained(part, trained), part.field is not None)
            yield from (stretch._replace(weight=weight) for stretch in content)
        _, *rest = _split(template.suffix)
        yield Stretch(template.end, trained, True, weight)
        for text in rest:
            yield Stretch(text, scaffold, _is_special(text), weight)


def plain(parts: Sequence[Part], template: ChatTemplate, loss: str) -> Iterator[Stretch]:
    """Texts and images in order, then end-of-text; loss on all text and end-of-text.

    A newline parts two texts that come from different turns.
    """
    trained, before = False, None
    if beside := next((part for part in parts if part.field is not None), None):
        raise Refused("unsupported_role", f"message {beside.turn} has {beside.field}: only `render: chat` knows it")
    for part in parts:
        if part.text is not None:
            trained = _trained(part, True)
            if before is not None and _is_text(before) and before.turn != part.turn:
                yield Stretch("\n", trained)
        weight = 1.0 if part.weight is None else part.weight
        yield from (said._replace(weight=weight) for said in _content(part, trained))
        before = part
    yield Stretch(END_OF_TEXT, trained, True)


def caption(parts: Sequence[Part], template: ChatTemplate, loss: str) -> Iterator[Stretch]:
    """Images, caption, end-of-text; loss on the caption and end-of-text."""
    return plain(sorted(parts, key=lambda part: part.text is not None), template, loss)


Render = Callable[[Sequence[Part], ChatTemplate, str], Iterator[Stretch]]
RENDERS: Final[dict[str, Render]] = {"chat": chat, "caption": caption, "plain": plain}


def _is_text(part: Part) -> bool:
    """Whether a part is no medium, nor the control token that ends one."""
    return part.text is not None and not _is_media(part)


def _trained(part: Part, default: bool) -> bool:
    return default if part.loss is None else part.loss


def opening(turn: Sequence[Part]) -> Part:
    """A part of a turn that has the turn's own loss: the time before a pair of frames has none."""
    return next((part for part in turn if _is_media(part)), turn[0])


def _is_media(part: Part) -> bool:
    return isinstance(part, Control) and part.text in _MEDIA


def _content(part: Part, trained: bool, thought: bool = False) -> Iterator[Stretch]:
    if part.text is None:
        yield from _IMAGE
    elif thought:
        yield from (Stretch(text, trained) for text in ("<think>\n", part.text, "\n</think>\n\n") if part.text)
    else:
        yield Stretch(part.text, trained and not _is_media(part), isinstance(part, Control))


@lru_cache
def _split(marks: str) -> tuple[str, ...]:
    """A template's prefix or suffix as texts and special tokens."""
    return tuple(text for text in re.split(r"(<\|\w+\|>)", marks) if text)


def _is_special(text: str) -> bool:
    return text.startswith("<|")
