"""Stretches of text to ids and loss mask, for a batch of samples at once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from mindvl_data.tables.schema import Part
from mindvl_data.tokenise.render import RENDERS, ChatTemplate, Stretch
from mindvl_data.tokenise.tokeniser import Tokeniser

# Characters that one call of the library is given: its answer takes some 300 bytes a token.
CALL_CHARACTERS: Final = 1 << 20


@dataclass(frozen=True)
class Encoded:
    """Ids int32 [tokens] and loss bool [tokens] of samples one after another; offsets int64 [samples + 1].

    Each image is one image-pad id between vision-start and vision-end.
    """

    ids: NDArray[np.int32]
    loss: NDArray[np.bool_]
    offsets: NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """Per sample, int64 [samples]: all tokens but image placeholders, tokens with loss, images."""

    text_tokens: NDArray[np.int64]
    loss_tokens: NDArray[np.int64]
    images: NDArray[np.int64]


def encode(
    samples: Sequence[Sequence[Part]],
    render: Sequence[str] | str,
    template: ChatTemplate,
    tokeniser: Tokeniser,
    loss_rule: str = "answers",
) -> Encoded:
    """Samples as ids and loss mask, by one render for all or one for each.

    A token has loss if it starts within text that has: one that joins the header's newline with the white space of an
    answer has none. Neither has the first token of a sample.
    """
    renders = repeat(render, len(samples)) if isinstance(render, str) else render
    table: dict[_Piece, int] = {}
    order: list[int] = []
    ends = [0]
    for parts, name in zip(samples, renders, strict=True):
        pieces = _pieces(RENDERS[name](parts, template, loss_rule))
        order.extend(table.setdefault(piece, len(table)) for piece in pieces)
        ends.append(len(order))
    ids, loss, offsets = _gather(*_encode_pieces(list(table), tokeniser), np.array(order, np.int64))
    offsets = offsets[ends]
    loss[offsets[:-1][np.diff(offsets) > 0]] = False
    return Encoded(ids, loss, offsets)


def counts(encoded: Encoded, tokeniser: Tokeniser) -> Counts:
    """What the samples of a batch hold, before image placeholders are expanded."""
    images = _sums(encoded.ids == tokeniser.special_ids["image_pad"], encoded.offsets)
    return Counts(np.diff(encoded.offsets) - images, _sums(encoded.loss, encoded.offsets), images)


class _Piece(NamedTuple):
    """What stands between two special tokens, or one of them; spans are (start, stop) of characters with loss."""

    text: str
    spans: tuple[tuple[int, int], ...]
    special: bool


def _pieces(stretches: Iterable[Stretch]) -> Iterator[_Piece]:
    texts: list[str] = []
    spans: list[tuple[int, int]] = []
    start = 0
    for text, loss, special in stretches:
        if special:
            if start:
                yield _Piece("".join(texts), tuple(spans), False)
            texts, spans, start = [], [], 0
            yield _special(text, loss)
            continue
        stop = start + len(text)
        if loss and spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], stop)
        elif loss:
            spans.append((start, stop))
        texts.append(text)
        start = stop
    if start:
        yield _Piece("".join(texts), tuple(spans), False)


@lru_cache
def _special(name: str, loss: bool) -> _Piece:
    return _Piece(name, ((0, len(name)),) if loss else (), True)


def _encode_pieces(
    pieces: list[_Piece], tokeniser: Tokeniser
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64]]:
    """Ids and loss of the pieces one after another, and their lengths [pieces]."""
    ids: list[list[int]] = [[tokeniser.token_id(piece.text)] if piece.special else [] for piece in pieces]
    spans = [[(0, 1)] if piece.spans else [] for piece in pieces]
    for call in _calls(pieces):
        encodings = tokeniser.encode_batch([pieces[place].text for place in call])
        for place, encoding in zip(call, encodings, strict=True):
            ids[place] = encoding.ids
            spans[place] = [_tokens(encoding, span, pieces[place].text) for span in pieces[place].spans]
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    loss = np.zeros(int(lengths.sum()), bool)
    for start, piece_spans in zip(_starts(lengths).tolist(), spans, strict=False):
        for first, last in piece_spans:
            loss[start + first : start + last] = True
    return np.fromiter(chain.from_iterable(ids), np.int32, len(loss)), loss, lengths


def _calls(pieces: list[_Piece]) -> Iterator[list[int]]:
    """Places of the text pieces, as many together as one call may be given."""
    call: list[int] = []
    characters = 0
    for place, piece in enumerate(pieces):
        if piece.special:
            continue
        if call and characters + len(piece.text) > CALL_CHARACTERS:
            yield call
            call, characters = [], 0
        call.append(place)
        characters += len(piece.text)
    if call:
        yield call


def _tokens(encoding: Encoding, span: tuple[int, int], text: str) -> tuple[int, int]:
    """The tokens that start within a span of characters, as (first, one past the last)."""
    start, stop = span
    first = 0 if start == 0 else _first_token(encoding, start)
    return first, len(encoding) if stop == len(text) else _first_token(encoding, stop)


def _first_token(encoding: Encoding, character: int) -> int:
    """The first token that starts at or after a character."""
    token = encoding.char_to_token(character)
    if token is None:  # the normaliser took the character away: look through all of them
        return next((place for place, span in enumerate(encoding.offsets) if span[0] >= character), len(encoding))
    while token < len(encoding) and _start(encoding, token) < character:
        token += 1
    return token


def _start(encoding: Encoding, token: int) -> int:
    span = encoding.token_to_chars(token)
    assert span is not None
    return span[0]


def _gather(
    ids: NDArray[np.int32], loss: NDArray[np.bool_], lengths: NDArray[np.int64], order: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64]]:
    """Pieces laid out in order: ids, loss, and where each begins [order + 1]."""
    starts = _starts(lengths[order])
    index = np.repeat(_starts(lengths)[order] - starts[:-1], lengths[order]) + np.arange(starts[-1])
    return ids[index], loss[index], starts


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)])


def _sums(values: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.diff(_starts(values.astype(np.int64))[offsets])
