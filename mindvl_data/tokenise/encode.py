"""From samples to ids and loss mask, a batch at once.

columns ── forms ──► pieces of each form, found once ── each distinct text once, in few calls ──► ids, loss
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby, repeat
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from mindvl_data.tables.schema import Drop, Part
from mindvl_data.tokenise import learnt
from mindvl_data.tokenise.forms import Piece, Segment, pieces_of
from mindvl_data.tokenise.jinja import JinjaTemplate
from mindvl_data.tokenise.parts import PartColumns, of_samples
from mindvl_data.tokenise.render import NO_TEMPLATE, RENDERS, ChatTemplate, Refused
from mindvl_data.tokenise.tokeniser import Tokeniser


@dataclass(frozen=True)
class Encoded:
    """Ids int32 [tokens] and loss bool [tokens] of samples one after another; offsets int64 [samples + 1].

    Each image is one image-pad id between vision-start and vision-end. refused: why samples, by number, have no tokens:
    their chat template does not take them. weights: float32 [tokens], what loss weighs; None where that is 1.
    """

    ids: NDArray[np.int32]
    loss: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    refused: Mapping[int, Drop] = field(default_factory=dict)
    weights: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Counts:
    """Per sample, int64 [samples]: all tokens but image placeholders, tokens with loss, images."""

    text_tokens: NDArray[np.int64]
    loss_tokens: NDArray[np.int64]
    images: NDArray[np.int64]


def encode(
    samples: PartColumns | Sequence[Sequence[Part]],
    render: Sequence[str] | str,
    template: ChatTemplate | JinjaTemplate,
    tokeniser: Tokeniser,
    loss_rule: str = "answers",
    fast: bool = False,
) -> Encoded:
    """Samples as ids and loss mask.

    A token has loss if it starts within text that has: one that joins the header's newline with the white space of an
    answer has none. Neither has the first token of a sample.

    Args:
        samples: The parts of each.
        render: One for all, or one for each.
        template: Of the chat.
        tokeniser: Of the set.
        loss_rule: Which texts have loss: `answers` or `all`.
        fast: Encode with the faster library where the tokenizer allows it.

    Raises:
        OtherIdsError: The faster library gave other ids.
    """
    columns = samples if isinstance(samples, PartColumns) else of_samples(samples)
    table = _Table()
    groups: list[_Group] = []
    refused: dict[int, Drop] = {}
    for (name, _), rows in _alike(columns, render).items():
        try:
            for alike, pieces in _built(columns, rows, name, template, loss_rule, refused):
                groups.append(_laid_out(columns, alike, pieces, table))
        except Refused as error:
            refused |= dict.fromkeys(rows, error.drop)
    return replace(_joined(groups, len(columns), table, tokeniser, fast), refused=refused)


def _built(
    columns: PartColumns,
    rows: list[int],
    name: str,
    template: ChatTemplate | JinjaTemplate,
    loss_rule: str,
    refused: dict[int, Drop],
) -> Iterator[tuple[list[int], list[Piece]]]:
    """Samples of one form with the pieces of all of them; one by one where a template in Jinja looks at their texts.

    What such a template refuses is added to `refused`.
    """
    table = template.table_for(columns.sample(rows[0])) if isinstance(template, JinjaTemplate) else template
    if name != "chat" or table is not None:
        yield rows, pieces_of(columns, rows[0], RENDERS[name], table or NO_TEMPLATE, loss_rule)
        return
    assert isinstance(template, JinjaTemplate)
    for row in rows:
        try:
            pieces = learnt.pieces(template, columns.sample(row), loss_rule)
        except Refused as error:
            refused[row] = error.drop
        else:
            yield [row], pieces


def stretches(
    parts: Sequence[Part], render: str, template: ChatTemplate | JinjaTemplate, loss_rule: str
) -> list[tuple[str, bool]]:
    """The text of one sample, with whether it is trained on, to be looked at. Raises Refused."""
    table = template.table_for(parts) if isinstance(template, JinjaTemplate) else template
    if render != "chat" or table is not None:
        return [(text, loss) for text, loss, *_ in RENDERS[render](parts, table or NO_TEMPLATE, loss_rule)]
    assert isinstance(template, JinjaTemplate)
    return [
        shown
        for piece in learnt.pieces(template, parts, loss_rule)
        for shown in ([(piece.special, piece.loss)] if piece.special else [(s.text, s.loss) for s in piece.segments])
    ]


def counts(encoded: Encoded, tokeniser: Tokeniser) -> Counts:
    """What the samples of a batch hold, before image placeholders are expanded."""
    images = _sums(encoded.ids == tokeniser.special_ids["image_pad"], encoded.offsets)
    return Counts(np.diff(encoded.offsets) - images, _sums(encoded.loss, encoded.offsets), images)


def _alike(columns: PartColumns, render: Sequence[str] | str) -> dict[tuple[str, bytes], list[int]]:
    """The samples of each form and render, by number."""
    names = [render] * len(columns) if isinstance(render, str) else render
    found: dict[tuple[str, bytes], list[int]] = defaultdict(list)
    for number, key in enumerate(zip(names, columns.forms(), strict=True)):
        found[key].append(number)
    return found


class _Table:
    """What is encoded, each once. A text has a number from 0 on, a special token one from -1 down.

    borders: of the texts of which a part is trained on, the characters where that begins and ends by turns.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.borders: dict[int, tuple[int, ...]] = {}
        self.specials: dict[str, int] = {}
        self._numbers: dict[str | tuple[str, tuple[int, ...]], int] = {}

    def special(self, name: str) -> int:
        return self.specials.setdefault(name, -1 - len(self.specials))

    def text(self, text: str, borders: tuple[int, ...] = ()) -> int:
        number = self._numbers.setdefault((text, borders) if borders else text, len(self.texts))
        if number == len(self.texts):
            self.texts.append(text)
            if borders:
                self.borders[number] = borders
        return number


@dataclass(frozen=True)
class _Group:
    """Samples of one form. rows: int64 [samples], which they are. numbers: int64 [samples, pieces], into the table.

    loss: bool [pieces], whether a piece is trained on where it begins; weights: float32 [pieces], what that weighs.
    """

    rows: NDArray[np.int64]
    numbers: NDArray[np.int64]
    loss: NDArray[np.bool_]
    weights: NDArray[np.float32]


def _laid_out(columns: PartColumns, rows: Sequence[int], pieces: Sequence[Piece], table: _Table) -> _Group:
    """Samples of one form, their pieces put into the table."""
    numbers = np.empty((len(rows), len(pieces)), np.int64)
    starts = columns.starts[rows].tolist()
    for place, piece in enumerate(pieces):
        if piece.special is not None:
            numbers[:, place] = table.special(piece.special)
        else:
            numbers[:, place] = [*_text_numbers(columns, starts, piece, table)]
    loss = np.array([piece.loss for piece in pieces], bool)
    return _Group(np.array(rows, np.int64), numbers, loss, np.array([piece.weight for piece in pieces], np.float32))


def _text_numbers(columns: PartColumns, starts: Sequence[int], piece: Piece, table: _Table) -> Iterable[int]:
    """The number of a piece's text in the table, for every sample."""
    runs = [_texts(columns, starts, list(run)) for _, run in groupby(piece.segments, attrgetter("loss"))]
    if len(runs) == 1:
        return map(table.text, runs[0])
    even = len(runs) // 2 * 2  # with the end of the text where its last run is turned: see _turned
    borders = ((texts, accumulate(map(len, texts[:even]))) for texts in zip(*runs, strict=True))
    if not piece.reaching:
        return (table.text("".join(texts), tuple(ends)) for texts, ends in borders)
    # Where loss begins, the token is wanted that reaches over the border: see exact.Borders.
    begins = [bool(number % 2) is piece.loss for number in range(even)]
    return (
        table.text("".join(texts), tuple(~end if on else end for end, on in zip(ends, begins, strict=True)))
        for texts, ends in borders
    )


def _texts(columns: PartColumns, starts: Sequence[int], segments: Sequence[Segment]) -> Iterable[str]:
    """Segments joined, for every sample."""
    texts: list[Iterable[str]] = [
        repeat(segment.text, len(starts))
        if segment.part is None
        else [columns.texts[start + segment.part] or "" for start in starts]
        for segment in segments
    ]
    return texts[0] if len(texts) == 1 else map("".join, zip(*texts, strict=True))


def _joined(groups: Sequence[_Group], samples: int, table: _Table, tokeniser: Tokeniser, fast: bool) -> Encoded:
    """The groups' samples in their order, as tokens."""
    pieces_of_sample = np.zeros(samples, np.int64)
    for group in groups:
        pieces_of_sample[group.rows] = len(group.loss)
    sample_starts = _starts(pieces_of_sample)
    order, loss_of = np.empty(sample_starts[-1], np.int64), np.empty(sample_starts[-1], bool)
    for group in groups:
        places = sample_starts[group.rows][:, None] + np.arange(len(group.loss))
        order[places], loss_of[places] = group.numbers, group.loss
    found = tokeniser.encode_texts(table.texts, table.borders, fast)
    # Special tokens stand behind the texts, the first of them last: a negative number counts from the end.
    special = np.array([tokeniser.token_id(name) for name in reversed(table.specials)], np.int32)
    ids = np.concatenate([found.ids, special])
    lengths = np.concatenate([np.diff(found.starts), np.ones(len(special), np.int64)])
    begins = np.concatenate([found.starts[:-1], len(found.ids) + np.arange(len(special))])
    starts = _starts(lengths[order])
    index = np.repeat(begins[order] - starts[:-1], lengths[order]) + np.arange(starts[-1])
    loss = np.repeat(loss_of, lengths[order]) ^ _turned(order, starts, found.borders)
    offsets = starts[sample_starts]
    loss[offsets[:-1][np.diff(offsets) > 0]] = False
    weights = None
    if any((group.weights != 1).any() for group in groups):
        of_pieces = np.ones(sample_starts[-1], np.float32)
        for group in groups:
            of_pieces[sample_starts[group.rows][:, None] + np.arange(len(group.loss))] = group.weights
        weights = np.where(loss, np.repeat(of_pieces, lengths[order]), np.float32(1))
    return Encoded(ids[index], loss, offsets, weights=weights)


def _turned(order: NDArray[np.int64], starts: NDArray[np.int64], borders: dict[int, list[int]]) -> NDArray[np.bool_]:
    """Which tokens stand behind an odd number of the borders of their piece. Every piece has an even number of them."""
    counts = np.zeros(int(order.max(initial=-1)) + 1 - int(order.min(initial=0)), np.int64)
    counts[[*borders]] = [*map(len, borders.values())]
    tokens = np.array([token for number in sorted(borders) for token in borders[number]], np.int64)
    here = counts[order]
    index = np.repeat(_starts(counts)[order] - _starts(here)[:-1], here) + np.arange(here.sum())
    crossed = np.bincount(np.repeat(starts[:-1], here) + tokens[index], minlength=int(starts[-1]))
    return (np.cumsum(crossed[: starts[-1]]) & 1).astype(bool)


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)])


def _sums(values: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.diff(_starts(values.astype(np.int64))[offsets])
