"""Texts to ids by the library `fastokens`, for tokenizers of bytes: the same ids in a small part of the time.

It says nothing of where tokens start. In a tokenizer of bytes every token is so many bytes of the normalised text,
which a table tells, so that the borders of what is trained on follow from the ids; where a border could be moved by
the normaliser, `tokenizers` is asked. A share of all texts is held against `tokenizers` as well.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mindvl_data.qwen import byte_names
from mindvl_data.tokenise.exact import Borders, TextIds, encode_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Of so many texts one is held against `tokenizers`, but never fewer than so many of a batch.
CHECKED_OF: Final = 256
LEAST_CHECKED: Final = 8
# Characters that `tokenizers` encodes in the time that this library takes to load, for each token of the vocabulary.
CHARACTERS_TO_LOAD: Final = 30
# A byte behind the end of any text.
BEHIND: Final = 1 << 40


class OtherIdsError(Exception):
    """The library gave other ids for a text than `tokenizers`; it must not be used with this tokenizer."""


@dataclass(frozen=True)
class FastEncoder:
    """The library's tokenizer; lengths: int64 [ids], the bytes of each token; nfc: whether texts are normalised."""

    library: Any
    lengths: NDArray[np.int64]
    nfc: bool

    def encode_texts(self, texts: Sequence[str], borders: Borders, oracle: Tokenizer) -> TextIds:
        """As `exact.encode_texts`. Raises OtherIdsError where the oracle gives other ids for a text of the share."""
        found = self._encoded(texts, borders, oracle)
        share = _share(texts)
        expected = encode_texts(
            oracle,
            [texts[number] for number in share],
            {place: borders[number] for place, number in enumerate(share) if number in borders},
        )
        for place, number in enumerate(share):
            ids = expected.ids[slice(*expected.starts[place : place + 2])]
            same = np.array_equal(found.ids[slice(*found.starts[number : number + 2])], ids)
            if not same or expected.borders.get(place) != found.borders.get(number):
                raise OtherIdsError(texts[number])
        return found

    def _encoded(self, texts: Sequence[str], borders: Borders, oracle: Tokenizer) -> TextIds:
        raw_ids, raw_starts = self.library.encode_batch_flat(list(texts))
        ids = np.frombuffer(raw_ids, np.uint32).astype(np.int32)
        starts = np.frombuffer(raw_starts, np.uint64).astype(np.int64)
        if not borders:
            return TextIds(ids, starts, {})
        asked = [(number, border) for number, characters in borders.items() for border in characters]
        reaching = np.array([border < 0 for _, border in asked], bool)
        in_bytes = np.array(
            [self._byte(texts[number], ~border if border < 0 else border) for number, border in asked], np.int64
        )
        of = np.array([number for number, _ in asked], np.int64)
        ends = np.concatenate([[0], np.cumsum(self.lengths[ids])])
        places = ends[starts[of]] + in_bytes
        starting, ending = np.searchsorted(ends[:-1], places, "left"), np.searchsorted(ends[1:], places, "right")
        tokens = np.where(reaching, ending, starting)
        tokens = np.minimum(tokens, starts[of + 1]) - starts[of]
        found: dict[int, list[int]] = {number: [] for number in borders}
        for (number, _), token in zip(asked, tokens.tolist(), strict=True):
            found[number].append(token)
        unclear = sorted(set(of[in_bytes < 0].tolist()))
        exact = encode_texts(
            oracle, [texts[i] for i in unclear], {place: borders[i] for place, i in enumerate(unclear)}
        )
        return TextIds(ids, starts, found | {i: exact.borders[place] for place, i in enumerate(unclear)})

    def _byte(self, text: str, character: int) -> int:
        """Where the character stands in the bytes of the normalised text; -1 where that is not clear.

        It is clear where nothing before the border can join with what follows it: no character composes with ASCII
        behind it, and white space with nothing.
        """
        if character == len(text):
            return BEHIND
        before = text[:character]
        if not self.nfc:
            return len(before.encode())
        if before.isascii() and before[-1:].isspace():
            return character
        if text[character].isascii():
            return len(unicodedata.normalize("NFC", before).encode())
        return -1


def _share(texts: Sequence[str]) -> list[int]:
    """Numbers of the texts to check: evenly spread, half of them over those that are not ASCII, where there are any."""
    wanted = max(LEAST_CHECKED, len(texts) // CHECKED_OF)
    odd = [number for number, text in enumerate(texts) if not text.isascii()]
    of_all = _spread(range(len(texts)), wanted // 2 if odd else wanted)
    return sorted({*of_all, *_spread(odd, wanted // 2)})


def _spread(numbers: Sequence[int], wanted: int) -> list[int]:
    if not numbers:
        return []
    return [numbers[place] for place in np.linspace(0, len(numbers) - 1, wanted).astype(int).tolist()]


def fast_encoder(text: str) -> FastEncoder | None:
    """The encoder of a tokenizer.json's text; None where its tokens are not bytes of the text, or it cannot be read."""
    spec = json.loads(text)
    lengths = _byte_lengths(spec)
    if lengths is None:
        return None
    from fastokens import Tokenizer as Library  # only who has much to encode pays for it

    try:
        library = Library.from_json_str(text)
    except Exception:  # noqa: BLE001 - whatever it cannot read, `tokenizers` can
        return None
    return FastEncoder(library, lengths, spec["normalizer"] is not None)


def _byte_lengths(spec: Mapping[str, Any]) -> NDArray[np.int64] | None:
    """The bytes of each token, by id; None for a tokenizer that is not known to leave every byte as it is."""
    model, added = spec["model"], spec["added_tokens"]
    names = frozenset(byte_names())
    if not (
        model.get("type") == "BPE"
        and not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        and names <= model["vocab"].keys()
        and all(names.issuperset(token) for token in model["vocab"])
        and spec["normalizer"] in (None, {"type": "NFC"})
        and _splits_only(spec["pre_tokenizer"])
        and not any(token["lstrip"] or token["rstrip"] for token in added)
    ):
        return None
    lengths = {number: len(token) for token, number in model["vocab"].items()}
    lengths |= {token["id"]: len(token["content"].encode()) for token in added}
    table = np.zeros(max(lengths) + 1, np.int64)
    table[list(lengths)] = list(lengths.values())
    return table


def _splits_only(pre_tokenizer: Any) -> bool:
    """Whether it turns text into the names of its bytes and does nothing else but part it."""
    steps = pre_tokenizer or {}
    steps = steps.get("pretokenizers", [steps])
    *splits, last = steps
    return (
        all(step["type"] == "Digits" or (step["type"] == "Split" and step["behavior"] != "Removed") for step in splits)
        and last.get("type") == "ByteLevel"
        and not last["add_prefix_space"]
    )
