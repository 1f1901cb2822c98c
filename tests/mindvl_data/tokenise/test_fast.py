"""The faster library against `tokenizers`: ids, borders, what it is not used for, and what it must not hide."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.tables.schema import Part
from mindvl_data.tokenise import TEMPLATES, OtherIdsError, Tokeniser, encode, load_tokeniser
from mindvl_data.tokenise.exact import TextIds
from mindvl_data.tokenise.fast import FastEncoder, fast_encoder
from tests.conftest import QUICKSTART
from tests.mindvl_data.tokenise.published import QWEN_WORDS, published

SPEC = json.loads((QUICKSTART / "tokenizer.json").read_text())


@cache
def tokeniser(name: str) -> Tokeniser:
    return load_tokeniser(name, QUICKSTART)


# Of what an implementation is likely to see in another way: joins and order of marks, white space, digits,
# contractions, case folding of `(?i:…)`, emoji, private and unassigned characters, control tokens as text.
odd = st.sampled_from(
    [
        *(
            "e\u0301",
            "\u0301",
            "\u0323\u0307",
            "\u212b",
            "가",
            "ᄀ\u1161\u11a8",
            "ſ",
            "\u212a",
            "'S",
            "'ſ",
            "don't",
            " '",
            "１２",
        ),
        *("\r\n", "\n \n", "\t", "\u00a0", "\u3000", "\u200b", "\u0085", "  ", "\x1c", "\x00", "\ufeff", "\ufffd"),
        *("👩\u200d👧", "🇩🇪", "\ue000", "\u0378", "\U000e0001", "ا\u064e\u0651", "क्षि", "ไทย", "猫。"),
        *("<|im_end|>", "<|image_pad|>", "<|endoftext|", "|>"),
    ]
)
texts = st.lists(st.one_of(odd, st.characters(codec="utf-8"), st.sampled_from("aB1 .,'\n")), max_size=16).map("".join)


@pytest.mark.parametrize("name", ["tokenizer.json", "qwen"])
@given(samples=st.lists(texts, min_size=1, max_size=6), data=st.data())
@settings(max_examples=100, deadline=None)
def test_ids_and_borders_are_those_of_tokenizers(name: str, samples: list[str], data: st.DataObject) -> None:
    one = tokeniser(name)
    borders = {
        number: sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=1, max_size=4)))
        for number, text in enumerate(samples)
        if data.draw(st.booleans())
    }
    exact = one.encode_texts(samples, borders)
    assert one.fast is not None
    found = one.fast.encode_texts(samples, borders, one.text_only)
    assert found.ids.tolist() == exact.ids.tolist()
    assert found.starts.tolist() == exact.starts.tolist()
    assert found.borders == exact.borders


@given(st.lists(st.tuples(texts, texts, st.sampled_from([None, True, False])), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_samples_are_the_same_by_either_library(turns: list[tuple[str, str, bool | None]]) -> None:
    samples = [
        [Part(0, "user", None, None), Part(0, "user", loss, asked), Part(1, "assistant", None, said)]
        for asked, said, loss in turns
    ]
    for render, rule in (("chat", "answers"), ("chat", "all"), ("plain", "answers")):
        one, other = (
            encode(samples, render, TEMPLATES["qwen2-vl"], tokeniser("qwen"), rule, fast) for fast in (False, True)
        )
        assert one.ids.tolist() == other.ids.tolist()
        assert one.loss.tolist() == other.loss.tolist()
        assert one.offsets.tolist() == other.offsets.tolist()


with_words = st.lists(st.one_of(odd, st.sampled_from([*QWEN_WORDS, "<thi", "nk>", "a", " ", "\n"])), max_size=12)


@given(samples=st.lists(with_words.map("".join), min_size=1, max_size=4), data=st.data())
@settings(max_examples=100, deadline=None)
def test_words_of_the_vocabulary_are_one_token_by_either_library(samples: list[str], data: st.DataObject) -> None:
    """Added tokens that are not special; and borders at which the token is wanted that reaches over them."""
    one = published("qwen3").tokeniser
    wanted = st.lists(st.integers(0, 30), min_size=1, max_size=4)
    borders = {
        number: [~place if data.draw(st.booleans()) else place for place in data.draw(wanted) if place < len(text)]
        for number, text in enumerate(samples)
    }
    exact = one.encode_texts(samples, borders)
    assert one.fast is not None
    found = one.fast.encode_texts(samples, borders, one.text_only)
    assert found.ids.tolist() == exact.ids.tolist()
    assert found.borders == exact.borders
    words = [one.added[word] for word in QWEN_WORDS]
    assert np.isin(exact.ids, words).sum() == sum(len(re.findall("|".join(QWEN_WORDS), text)) for text in samples)


class Wrong:
    """A library that merges otherwise where a text has this in it."""

    def __init__(self, library: Any, where: str) -> None:
        self.library, self.where = library, where

    def encode_batch_flat(self, given: list[str]) -> tuple[bytes, bytes]:
        return self.library.encode_batch_flat([text.replace(self.where, "?") for text in given])


def test_other_ids_are_found_in_the_share_that_is_checked() -> None:
    one = tokeniser("tokenizer.json")
    assert one.fast is not None
    wrong = FastEncoder(Wrong(one.fast.library, "\u0301"), one.fast.lengths, nfc=True)
    # Texts that are not ASCII are checked more often: what differs is among them.
    sound = [f"apples {number}" for number in range(2000)]
    wrong.encode_texts(sound, {}, one.text_only)
    with pytest.raises(OtherIdsError, match="cafe"):
        wrong.encode_texts([*sound, "cafe\u0301", *sound], {}, one.text_only)


def test_a_border_that_would_be_elsewhere_is_found_too() -> None:
    one = tokeniser("tokenizer.json")
    assert one.fast is not None
    wrong = FastEncoder(one.fast.library, one.fast.lengths + 1, nfc=True)
    with pytest.raises(OtherIdsError, match="water"):
        wrong.encode_texts(["water the water\n the water"], {0: (16,)}, one.text_only)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFKC"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"model": SPEC["model"] | {"dropout": 0.1}},
        {"model": SPEC["model"] | {"end_of_word_suffix": "</w>"}},
        {"model": SPEC["model"] | {"vocab": {k: v for k, v in SPEC["model"]["vocab"].items() if k != "Ā"}}},
        {"model": SPEC["model"] | {"vocab": SPEC["model"]["vocab"] | {"猫": 5000}}},
        {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}},
        {"added_tokens": [{**SPEC["added_tokens"][0], "lstrip": True}]},
    ],
    ids=lambda change: f"{next(iter(change))}",
)
def test_it_is_used_for_tokenizers_of_bytes_alone(change: dict[str, Any]) -> None:
    assert fast_encoder(json.dumps({**SPEC, "added_tokens": [], **change})) is None


def test_what_the_library_cannot_read_is_left_to_tokenizers(tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(?<no"}, "behavior": "Isolated", "invert": False}
    steps = [split, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}]
    changed = {**SPEC, "added_tokens": [], "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
    assert fast_encoder(json.dumps(changed)) is None


def test_no_texts_are_no_ids() -> None:
    one = tokeniser("tokenizer.json")
    found: TextIds = one.encode_texts([], {}, fast=True)
    assert (len(found.ids), found.starts.tolist()) == (0, [0])
    assert np.array_equal(one.encode_texts([], {}).starts, found.starts)
