"""What of a conversation is learnt, where a chat template in Jinja makes its text.

It is what the model would have said after the header that the template gives it to answer: from there to the token
that ends its turn. It is found in the text that is really trained:

1. by `{% generation %}` where the template has it, to the token as transformers' `return_assistant_tokens_mask`;
2. else by marks: every answer is rendered once more with private-use characters around its words, and believed only
   where that gives the same text but for the marks;
3. else by prefixes: the text up to the answer, with and without it, where both are how the whole text begins.

What none of them tells is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from mindvl_data.tables.schema import Part
from mindvl_data.tokenise.conversation import IMAGE, Conversation, Turn, marked, private
from mindvl_data.tokenise.forms import Piece, Segment, text_piece
from mindvl_data.tokenise.jinja import JinjaTemplate
from mindvl_data.tokenise.render import IMAGE_TOKENS, VIDEO_PAD, Refused

EMPTY_THINKING: Final = re.compile(r"<think>\s*</think>\s*")
GENERATION: Final = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Span(NamedTuple):
    """Characters [start, stop) of a text, and what their loss weighs."""

    start: int
    stop: int
    weight: float = 1.0


@dataclass(frozen=True)
class Learnt:
    """spans: of the text, in order. as_transformers: a token that reaches into one is learnt, not only one that
    starts in it."""

    spans: Sequence[Span]
    as_transformers: bool = False

    def holds(self, place: int) -> bool:
        return any(span.start <= place < span.stop for span in self.spans)

    def weight(self, place: int) -> float:
        """Of what is learnt there."""
        return next((span.weight for span in self.spans if span.start <= place < span.stop), 1.0)


def pieces(template: JinjaTemplate, parts: Sequence[Part], loss: str) -> list[Piece]:
    """The pieces of one sample. Raises Refused."""
    said = template.conversation(parts)
    text, spans = learnt(template, said, loss)
    found = [*_cut(template, text, spans, said)]
    places = sum(piece.special == IMAGE_TOKENS[1] for piece in found)
    if places != said.images:
        raise Refused("image_count_mismatch", f"the chat template writes {places} places for {said.images} images")
    return found


def learnt(template: JinjaTemplate, said: Conversation, loss: str) -> tuple[str, Learnt]:
    """The text of a conversation and what of it is learnt. Raises Refused."""
    text, generated = template.render(said.messages, said.tools)
    if loss == "all":
        return text, Learnt(_all(template, said, text))
    own = [turn for turn in said.turns if turn.weight != 1 or turn.loss not in (None, turn.answers)]
    generates = GENERATION.search(template.tool_text if said.tools and template.tool_text else template.text)
    if generates and not own:
        return text, Learnt([Span(*span) for span in generated], as_transformers=True)
    if generates and all(turn.answers for turn in own):
        return text, Learnt(_of_trained(said, generated), as_transformers=True)
    trained = [n for n, turn in enumerate(said.turns) if (turn.answers if turn.loss is None else turn.loss)]
    found = _answers(template, said, text, trained)
    return text, Learnt([span._replace(weight=said.turns[number].weight) for number, span in found.items()])


def _all(template: JinjaTemplate, said: Conversation, text: str) -> list[Span]:
    """Everything but the turns that say themselves that they are not learnt, with what stands around them; turns with
    a weight of their own apart, likewise."""
    own = [number for number, turn in enumerate(said.turns) if turn.loss is False or turn.weight != 1]
    spans, start = list[Span](), 0
    for number, span in _answers(template, said, text, own).items():
        turn = said.turns[number]
        begin = _begin(template, text, start, span.start, turn)
        following = template.added_token.search(text, span.stop)
        stop = following.start() if following else len(text)
        spans += [Span(start, begin), *([] if turn.loss is False else [Span(begin, stop, turn.weight)])]
        start = stop
    return [*spans, Span(start, len(text))]


def _begin(template: JinjaTemplate, text: str, least: int, words: int, turn: Turn) -> int:
    """Where the turn begins of which the words begin there: at its header, which an added token begins."""
    if turn.answers:
        place = text.rfind(template.anchor, least, words) if template.anchor else -1
        return place if place >= 0 else words
    ended = text.rfind(template.end, least, words) if template.end else -1
    found = template.added_token.search(text, least if ended < 0 else ended + len(template.end), words)
    return found.start() if found else words


def _answers(template: JinjaTemplate, said: Conversation, text: str, wanted: Sequence[int]) -> dict[int, Span]:
    """Where these turns stand: what the model says, and the token that ends it.

    A turn without words, or of which the template leaves nothing, may not be there. Raises Refused.
    """
    if not wanted:
        return {}
    words = _words(template, said, text, wanted)
    found: dict[int, Span] = {}
    stop = 0
    for number in wanted:
        span = _around(template, text, words, number, stop, said.turns[number]) if words and number in words else None
        span = span or _between(template, said, text, number)
        if span is not None:
            found[number] = span
            stop = span.stop
        elif words is None:
            raise Refused(
                "chat_template",
                f"of message {number} it cannot be told what the chat template makes of it: mark it with "
                "{% generation %} in the template",
            )
    return found


def _words(template: JinjaTemplate, said: Conversation, text: str, wanted: Sequence[int]) -> dict[int, Span] | None:
    """The words of the turns that are left in the text, by marks; None where they do not tell."""
    marks = dict(zip(wanted, private([text, template.text, *said.hidden, IMAGE]), strict=False))
    messages = [marked(turn.message, marks[n]) if n in marks else turn.message for n, turn in enumerate(said.turns)]
    try:
        rendered = template.rendered(messages, said.tools)
    except Refused:
        return None
    any_mark = re.compile(f"[{''.join(marks.values())}]")
    if any_mark.sub("", rendered) != text:
        return None
    places: dict[str, list[int]] = {}
    for before, match in enumerate(any_mark.finditer(rendered)):
        places.setdefault(match[0], []).append(match.start() - before)
    found = {n: Span(places[mark][0], places[mark][-1]) for n, mark in marks.items() if mark in places}
    apart = all(one.stop <= other.start for one, other in pairwise(found.values()))
    return found if apart else None


def _around(
    template: JinjaTemplate, text: str, words: Mapping[int, Span], number: int, least: int, turn: Turn
) -> Span | None:
    """From behind the header that stands before an answer's words, to the token that ends it."""
    start, stop = words[number][:2]
    limit = min((span.start for other, span in words.items() if other > number), default=len(text))
    if template.end:
        place = text.find(template.end, stop, limit)
        if place < 0:
            return None
        stop = place + len(template.end)
    return Span(_start(template, text, start, least) if turn.answers else start, stop)


def _start(template: JinjaTemplate, text: str, words: int, least: int) -> int:
    """Behind the header; an empty thought that the template writes is not learnt either."""
    place = text.rfind(template.anchor, least, words) if template.anchor else -1
    if place >= 0:
        start = place + _shared(text[place:words], template.header[template.header.index(template.anchor) :])
    else:
        start = max((found.end() for found in template.added_token.finditer(text, least, words)), default=words)
        place = start
    thought = EMPTY_THINKING.search(text, place, words)
    return max(start, thought.end()) if thought else start


def _between(template: JinjaTemplate, said: Conversation, text: str, number: int) -> Span | None:
    """A turn by the text of prefixes; None where they are not how the text begins."""
    try:
        asked = template.rendered(said.messages[:number], said.tools, ask=said.turns[number].answers)
        answered = template.rendered(said.messages[: number + 1], said.tools)
    except Refused:
        return None
    if not (text.startswith(asked) and text.startswith(answered) and len(asked) <= len(answered)):
        return None
    start, place = len(asked), answered.rfind(template.end) if template.end else -1
    own = "<think>" in str(said.messages[number].get("content"))
    thought = None if own else EMPTY_THINKING.match(text, start, len(answered))
    return Span(thought.end() if thought else start, place + len(template.end) if place >= start else len(answered))


def _cut(template: JinjaTemplate, text: str, learnt: Learnt, said: Conversation) -> Iterator[Piece]:
    """The text at its special tokens and at the borders of what is learnt."""
    tokens = [*template.control.finditer(text)]
    place = 0
    for number, found in enumerate(tokens):
        yield from _piece(template, text, Span(place, found.start()), learnt, said)
        place = found.end()
        token = found[0]
        if token == (template.image_token or IMAGE) and token != IMAGE_TOKENS[1]:
            yield from (Piece((), name, False) for name in IMAGE_TOKENS)
            continue
        beside = token in IMAGE_TOKENS and any(
            near[0] in (IMAGE_TOKENS[1], VIDEO_PAD) for near in tokens[max(0, number - 1) : number + 2]
        )
        has = not beside and token != VIDEO_PAD and learnt.holds(found.start())
        yield Piece((), token, has, learnt.weight(found.start()) if has else 1.0)
    yield from _piece(template, text, Span(place, len(text)), learnt, said)


def _piece(template: JinjaTemplate, text: str, span: Span, learnt: Learnt, said: Conversation) -> Iterator[Piece]:
    if span.start == span.stop:
        return
    borders = [b for each in learnt.spans for b in each[:2] if span.start < b < span.stop]
    edges = [span.start, *sorted({*borders}), span.stop]
    segments = (
        Segment(said.shown(text[start:stop]), None, learnt.holds(start), learnt.weight(start))
        for start, stop in pairwise(edges)
    )
    yield text_piece(segments, learnt.as_transformers)


def _of_trained(said: Conversation, generated: Sequence[tuple[int, int]]) -> list[Span]:
    """The spans of the answers that are learnt, where each answer has one. Raises Refused."""
    answers = [turn for turn in said.turns if turn.answers]
    if len(answers) != len(generated):
        raise Refused(
            "chat_template",
            f"the template's {len(generated)} generation blocks are not one for each of {len(answers)} answers, some "
            "of which have a loss or weight of their own",
        )
    pairs = zip(answers, generated, strict=True)
    return [Span(*span, turn.weight) for turn, span in pairs if turn.loss is not False]


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
