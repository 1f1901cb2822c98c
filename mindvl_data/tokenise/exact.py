"""Texts to ids by the library `tokenizers`: the oracle, which says where every token starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# Characters that one call of the library is given: its answer takes some 300 bytes a token.
CALL_CHARACTERS: Final = 1 << 20
# Of which texts (by number) which characters the first token at or behind them is wanted of; written ~character, the
# first token that ends behind it.
Borders = Mapping[int, Sequence[int]]


class TextIds(NamedTuple):
    """ids: int32 [tokens] of all texts in a row; starts: int64 [texts + 1] into them.

    borders: of the texts that were asked about, for each character the first token of the text that starts there
    or later.
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    borders: dict[int, list[int]]


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str], borders: Borders) -> TextIds:
    """Each text alone, no token added around it."""
    ids: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
    lengths: list[int] = []
    found: dict[int, list[int]] = {}
    for call in _calls(texts):
        encodings = tokenizer.encode_batch(texts[call.start : call.stop], add_special_tokens=False)
        of_call = [encoding.ids for encoding in encodings]
        lengths += map(len, of_call)
        # As an array: a list of them takes nine times the memory.
        ids.append(np.fromiter(chain.from_iterable(of_call), np.int32, sum(map(len, of_call))))
        for number, encoding in zip(call, encodings, strict=True):
            if number in borders:
                length = len(texts[number])
                found[number] = [_token_at(encoding, character, length) for character in borders[number]]
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return TextIds(np.concatenate(ids), starts, found)


def _calls(texts: Sequence[str]) -> Iterator[range]:
    """Numbers of texts that stand in a row, as many together as one call may be given."""
    start = characters = 0
    for number, text in enumerate(texts):
        if number > start and characters + len(text) > CALL_CHARACTERS:
            yield range(start, number)
            start, characters = number, 0
        characters += len(text)
    if start < len(texts):
        yield range(start, len(texts))


def _token_at(encoding: Encoding, character: int, length: int) -> int:
    """The first token that starts at or behind a character, of a text of so many, or that ends behind a ~character."""
    if character < 0:
        ends = (place for place, span in enumerate(encoding.offsets) if span[1] > ~character)
        return next(ends, len(encoding))
    if character in (0, length):
        return len(encoding) if character else 0
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
