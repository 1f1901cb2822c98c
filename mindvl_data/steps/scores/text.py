"""Counts and shares over a sample's text. What is a word or a letter is written out, because thresholds hang on it."""

from __future__ import annotations

import polars as pl

# What Python's str.split() splits at: Unicode's white space and four control characters.
SPACE = r"\s\x1c-\x1f"
SPACED_WORD = rf"[^{SPACE}]+"
# Scripts that are written without spaces. As in Unicode's word boundaries (UAX #29) a Han or Hiragana character is a
# word, and a run of Katakana (with its length marks); in the scripts of South-East Asia, where only a dictionary
# knows, every three letters with their marks; in Tibetan a syllable. Punctuation beside them belongs to them.
CHARACTERS = r"\p{Han}\p{Hiragana}"
KATAKANA = r"\p{Katakana}\x{30fc}\x{ff70}"
LETTERS = r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]&&\p{L}"
SYLLABLES = r"\p{Tibetan}&&[\p{L}\p{M}\p{N}]"
UNSPACED = rf"{CHARACTERS}{KATAKANA}[{LETTERS}][{SYLLABLES}]"
WORD = (
    rf"\p{{P}}*(?:[{CHARACTERS}]\p{{M}}*|[{KATAKANA}]+|(?:[{LETTERS}]\p{{M}}*){{1,3}}|[{SYLLABLES}]+)\p{{P}}*"
    rf"|[^{SPACE}{UNSPACED}]+"
)


def words(text: pl.Series) -> pl.Series:
    """Words in any script: UInt32 [n].

    Pieces between white space, as Python's `len(text.split())` counts them; of scripts without spaces WORD.
    """
    return text.str.count_matches(WORD)


def spaced_words(text: pl.Series) -> pl.Series:
    """Pieces between white space in any script, as Python's `len(text.split())` counts them: UInt32 [n]."""
    return text.str.count_matches(SPACED_WORD)


def fasttext_tokens(text: pl.Series) -> pl.Series:
    """Tokens as `len(fasttext.tokenize(text))` counts them: UInt32 [n].

    Pieces between ASCII white space and NUL, and every newline besides (fastText, Dictionary::readWord).
    """
    return text.str.count_matches(r"[^ \t\n\v\f\r\x00]+") + text.str.count_matches("\n")


def alnum_share(text: pl.Series) -> pl.Series:
    """The share of characters that are letters or numbers (Python's str.isalnum), Float64 [n]; null without text."""
    return _share(text, r"[\p{L}\p{N}]")


def special_share(text: pl.Series) -> pl.Series:
    """The share of characters that are no letters, Float64 [n]; null without text.

    Digits, punctuation, symbols, emoji and white space count, as in data-juicer's special_characters_filter.
    """
    return _share(text, r"[^\p{L}\p{M}]")


def _share(text: pl.Series, pattern: str) -> pl.Series:
    counted = pl.DataFrame({"found": text.str.count_matches(pattern), "of": text.str.len_chars()})
    return counted.select(pl.when(pl.col("of") > 0).then(pl.col("found") / pl.col("of"))).to_series()
