"""Whether a text names a thing of a list: DataComp's text-based filter (Gadre et al. 2023, section 3.3).

WordNet and the list are files that the recipe names: the folder of a WordNet 3.0 database (`index.noun`, `noun.exc`,
…, what nltk's package `wordnet` unpacks) and a text file of WordNet ids, one a line, as `n01440764`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import polars as pl

from mindvl_data.steps.scores import ScoreError
from mindvl_data.steps.scores.text import SPACED_WORD

# The order in which the published code (nltk's `wordnet.synsets`) looks, and WordNet's rules of detachment for
# each part of speech (morphy(7WN)).
SUFFIXES = {
    "noun": [
        ("s", ""),
        ("ses", "s"),
        ("ves", "f"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ],
    "verb": [("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")],
    "adj": [("er", ""), ("est", ""), ("er", "e"), ("est", "e")],
    "adv": [],
}


class Part(NamedTuple):
    """A part of speech: the offset of each lemma's first synset, and the lemmas of irregular forms."""

    first: Mapping[str, int]
    irregular: Mapping[str, Sequence[str]]
    suffixes: Sequence[tuple[str, str]]


def names_entity(text: pl.Series, *, wordnet: Path, synsets: Path) -> pl.Series:
    """Whether the first WordNet synset of some word is in the list: Boolean [n].

    As published, synsets are compared by their offsets alone, without the part of speech.
    """
    words = text.str.extract_all(SPACED_WORD)
    distinct = words.explode(empty_as_null=False).unique().sort()
    parts, listed = _wordnet(wordnet), _listed(synsets)
    found = [first_synset(word, parts) in listed for word in distinct.to_list()]
    named = distinct.filter(pl.Series(found, dtype=pl.Boolean))
    return words.list.set_intersection(named.implode()).list.len() > 0


def first_synset(word: str, parts: Sequence[Part]) -> int | None:
    """The offset of a word's first synset: as it is or irregular, else with endings taken off until one is known."""
    word = word.lower()
    for part in parts:
        forms = [word]
        known = [form for form in [word, *part.irregular.get(word, _detached(forms, part))] if form in part.first]
        while not known and forms and word not in part.irregular:
            forms = _detached(forms, part)
            known = [form for form in forms if form in part.first]
        if known:
            return part.first[known[0]]
    return None


def _detached(forms: Sequence[str], part: Part) -> list[str]:
    return [form[: -len(old)] + new for form in forms for old, new in part.suffixes if form.endswith(old)]


@cache
def _listed(path: Path) -> frozenset[int]:
    try:
        return frozenset(int(line[1:]) for line in path.read_text().split())
    except (OSError, ValueError) as error:
        raise ScoreError(f"{path}: no list of WordNet ids such as n01440764, one a line ({error})") from error


@cache
def _wordnet(folder: Path) -> tuple[Part, ...]:
    try:
        return tuple(
            Part(
                _index((folder / f"index.{name}").read_text()),
                {line.split()[0]: line.split()[1:] for line in (folder / f"{name}.exc").read_text().splitlines()},
                suffixes,
            )
            for name, suffixes in SUFFIXES.items()
        )
    except (OSError, ValueError, IndexError) as error:
        raise ScoreError(f"{folder}: no WordNet 3.0 database (index.noun, noun.exc, …): {error}") from error


def _index(text: str) -> dict[str, int]:
    """Lemma → offset of its first synset (wndb(5WN)); the licence at the top is indented."""
    first = {}
    for line in text.splitlines():
        if not line.startswith(" "):
            fields = line.split()
            # The offsets of its `synset_cnt` synsets end the line.
            first[fields[0]] = int(fields[-int(fields[2])])
    return first
