"""Text scores beside their definitions, written out plainly, on any text."""

import re
import string
from collections import Counter
from math import isqrt
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.steps.scores.entities import names_entity
from mindvl_data.steps.scores.language import language, language_confidence
from mindvl_data.steps.scores.repetition import char_repetition, word_repetition, word_run
from mindvl_data.steps.scores.text import alnum_share, fasttext_tokens, spaced_words, special_share, words

ASSIGNED = st.characters(exclude_categories=["Cn", "Cs"])
TEXTS = st.lists(
    st.text(st.sampled_from("ab \n\té1.,語\x1c\x00"), max_size=60) | st.text(ASSIGNED, max_size=40),
    min_size=1,
    max_size=8,
)


def column(texts: list[str]) -> pl.Series:
    return pl.Series("text", texts, dtype=pl.String)


@settings(deadline=None)
@given(TEXTS)
def test_words_and_shares_are_those_of_python(texts: list[str]) -> None:
    assert spaced_words(column(texts)).to_list() == [len(text.split()) for text in texts]
    shares = [sum(c.isalpha() or c.isnumeric() for c in t) / len(t) if t else None for t in texts]
    # Python counts as letters and numbers what Unicode calls L* and N*.
    assert alnum_share(column(texts)).to_list() == pytest.approx(shares)


# Letters of the scripts that are written without spaces, by one of their letters' blocks.
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\u2e80-\u9fff\ua9e0-\uaaff\uf900-\ufaff"
    "\uff00-\uffef\U00016fe0-\U00016fff\U0001aff0-\U0001f2ff\U00020000-\U0003ffff\U00011301]"
)


@settings(deadline=None)
@given(TEXTS)
def test_words_are_pieces_between_white_space_where_a_script_has_spaces(texts: list[str]) -> None:
    texts = [UNSPACED.sub("", text) for text in texts]
    assert words(column(texts)).to_list() == [len(text.split()) for text in texts]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("我喜欢这只狗。", 6),
        ("你好! Hello,世界 python3", 6),
        ("これはペンです", 6),
        ("カタカナ ラーメン", 2),
        ("「犬」 が", 2),
        ("สุนัขสีน้ำตาลวิ่งบนหญ้า", 6),
        ("བོད་ཡིག་གི", 3),
        ("안녕 하세요", 2),
        ("hello , world", 3),
    ],
)
def test_words_are_counted_in_every_script(text: str, count: int) -> None:
    assert words(column([text])).to_list() == [count]


def test_repetition_is_seen_in_a_script_without_spaces() -> None:
    assert word_run(column(["哈哈哈哈", "今天天气很好"])).to_list() == [4, 2]
    assert word_repetition(column(["你好吗你好吗", "abc"]), n=2).to_list() == [pytest.approx(4 / 5), 0]


def test_special_characters_are_digits_punctuation_and_white_space() -> None:
    every = string.digits + string.punctuation + string.whitespace
    assert special_share(column([every, "ab語é", "ab 1", ""])).to_list() == [1.0, 0.0, 0.5, None]


def test_fasttext_counts_a_newline_as_a_token() -> None:
    assert fasttext_tokens(column(["a b", "a\nb", "\n", "", "a\x00b c"])).to_list() == [2, 3, 1, 0, 3]


def ngrams(items: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(items[i : i + n]) for i in range(len(items) - n + 1))


@settings(deadline=None)
@given(TEXTS, st.integers(1, 4))
def test_repetition_is_that_of_counted_ngrams(texts: list[str], n: int) -> None:
    chars, by_word = [], []
    texts = [UNSPACED.sub("", text) for text in texts]
    for text in texts:
        counts = sorted(ngrams(list(text), n).values(), reverse=True)
        common = min(isqrt(len(counts)), sum(count > 1 for count in counts))
        chars.append(sum(counts[:common]) / max(1, sum(counts)))
        counts = list(ngrams(text.lower().split(), n).values())
        by_word.append(sum(count for count in counts if count > 1) / max(1, sum(counts)))
    assert char_repetition(column(texts), n=n).to_list() == pytest.approx(chars)
    assert word_repetition(column(texts), n=n).to_list() == pytest.approx(by_word)


def test_a_run_of_words_ends_with_its_sample() -> None:
    assert word_run(column(["no no No yes", "yes", "", "a b b a a a"])).to_list() == [3, 1, 0, 3]


def test_the_language_is_found_offline_and_without_text_there_is_none() -> None:
    texts = column(["A dog runs over\nthe beach", "Ein Hund läuft über den Strand", "", " \n", "一只狗在海滩上奔跑"])
    assert language(texts).to_list() == ["en", "de", None, None, "zh"]
    assert [None if c is None else c > 0.5 for c in language_confidence(texts)] == [True, True, None, None, True]


def wordnet(folder: Path) -> Path:
    """A WordNet database of a few words in its own file format, and a list that has the offset 11."""
    folder.mkdir()
    licence = "  1 This software and database is being provided to you\n"
    for name, lines, irregular in (
        ("noun", ["dog n 2 1 @ 2 1 00000011 00000012  ", "cat n 1 0 1 0 00000013  "], ["mice mouse"]),
        ("verb", ["bark v 1 0 1 0 00000014  ", "dog v 1 0 1 0 00000015  ", "run v 1 0 1 0 00000011  "], ["ran run"]),
        ("adj", ["dogged a 1 0 1 0 00000016  "], []),
        ("adv", [], []),
    ):
        (folder / f"index.{name}").write_text(licence + "".join(f"{line}\n" for line in lines))
        (folder / f"{name}.exc").write_text("".join(f"{line}\n" for line in irregular))
    (folder / "synsets.txt").write_text("n00000011\nn00000099\n")
    return folder


def test_a_text_names_an_entity_when_a_words_first_synset_is_listed(tmp_path: Path) -> None:
    folder = wordnet(tmp_path / "wordnet")
    cases = {
        "two dogs": True,  # a regular plural
        "a Dog sat": True,
        "a cat, dog.": False,  # words are what stands between white space
        "the dogged cat": False,  # an adjective of its own; `dogg` is no noun
        "it was dogging": False,  # the verb `dog`, whose synset is another
        "she ran": True,  # an irregular verb; offsets are compared without the part of speech, as published
        "": False,
    }
    found = names_entity(column(list(cases)), wordnet=folder, synsets=folder / "synsets.txt")
    assert dict(zip(cases, found.to_list(), strict=True)) == cases
