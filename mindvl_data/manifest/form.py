"""The form of a manifest: which value may stand where, so that whoever uses it need not ask again.

Only what a reader or `verify` relies on is held to a form; what is there for people may say more, and a later
version may add to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

# A form yields (where, what should stand there) for everything that has not that form.
Form = Callable[[Any, str], Iterator[tuple[str, str]]]


def _is(holds: Callable[[Any], bool], words: str) -> Form:
    def form(value: Any, where: str) -> Iterator[tuple[str, str]]:
        if not holds(value):
            yield where, words

    return form


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _keys(**forms: Form) -> Form:
    """A mapping with at least these keys."""

    def form(value: Any, where: str) -> Iterator[tuple[str, str]]:
        if not isinstance(value, Mapping):
            yield where, "a mapping"
            return
        for key, inner in forms.items():
            inside = f"{where}.{key}".lstrip(".")
            if key in value:
                yield from inner(value[key], inside)
            else:
                yield inside, "missing"

    return form


def _list_of(inner: Form) -> Form:
    def form(value: Any, where: str) -> Iterator[tuple[str, str]]:
        if not isinstance(value, list):
            yield where, "a list"
            return
        for number, item in enumerate(value):
            yield from inner(item, f"{where}[{number}]")

    return form


def _by_name(inner: Form) -> Form:
    """A mapping of any keys to values of one form."""

    def form(value: Any, where: str) -> Iterator[tuple[str, str]]:
        if not isinstance(value, Mapping):
            yield where, "a mapping"
            return
        for name, item in value.items():
            yield from inner(item, f"{where}.{name}")

    return form


def _either(one: Form, other: Form) -> Form:
    def form(value: Any, where: str) -> Iterator[tuple[str, str]]:
        first = list(one(value, where))
        if first and list(other(value, where)):
            yield from first

    return form


def _optional(**forms: Form) -> Form:
    """A mapping whose keys have these forms where they are there."""

    def form(value: Any, where: str) -> Iterator[tuple[str, str]]:
        if not isinstance(value, Mapping):
            yield where, "a mapping"
            return
        for key in forms.keys() & value.keys():
            yield from forms[key](value[key], f"{where}.{key}")

    return form


def _all(*forms: Form) -> Form:
    def form(value: Any, where: str) -> Iterator[tuple[str, str]]:
        # What is no mapping is said once.
        for each in forms:
            found = list(each(value, where))
            yield from found
            if found:
                return

    return form


def _by_plain_name(inner: Form) -> Form:
    """The same, of keys that can be names of files: exports are called after them."""

    def form(value: Any, where: str) -> Iterator[tuple[str, str]]:
        yield from _by_name(inner)(value, where)
        if isinstance(value, Mapping):
            yield from ((f"{where}.{name}", "a plain name") for name in value if not PLAIN.fullmatch(name))

    return form


PLAIN = re.compile(r"\w[\w.-]*")
TEXT = _is(lambda value: isinstance(value, str), "a text")
COUNT = _is(lambda value: _whole(value, 0), "a whole number")
POSITIVE = _is(lambda value: _whole(value, 1), "a whole number above 0")
NAME = _is(lambda value: isinstance(value, str) and bool(PLAIN.fullmatch(value)), "a plain name")
NUMBER = _is(lambda value: isinstance(value, int | float) and not isinstance(value, bool), "a number")
CHANNELS = _is(
    lambda value: isinstance(value, list) and len(value) == 3 and all(isinstance(item, int | float) for item in value),
    "three numbers",
)
WEIGHT = _is(
    lambda value: isinstance(value, int | float) and not isinstance(value, bool) and value > 0, "a number above 0"
)
LIST = _is(lambda value: isinstance(value, list), "a list")
TEXTS = _is(lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value), "texts")
# A file of the set lies beside its manifest, and nowhere else.
FILE = _is(
    lambda value: isinstance(value, str) and value not in ("", "..") and Path(value).name == value, "a file beside it"
)
SPECIAL = ("end_of_text", "image_pad", "vision_start", "vision_end")

MANIFEST = _keys(
    id=TEXT,
    recipe_hash=TEXT,
    recipe=_optional(sources=_by_name(_keys(path=_either(TEXT, TEXTS)))),
    engine_version=TEXT,
    stage=NAME,
    seq_len=POSITIVE,
    tokenizer=_keys(
        name=TEXT, sha256=TEXT, vocab_size=COUNT, special_ids=_keys(**dict.fromkeys(SPECIAL, COUNT)), pad_id=COUNT
    ),
    chat_template=_keys(),
    resolution=_all(
        _keys(patch=POSITIVE, merge=POSITIVE, min_pixels=COUNT, max_pixels=COUNT),
        _optional(mean=CHANNELS, deviation=CHANNELS, video=_keys(family=TEXT, fps=NUMBER)),
    ),
    sources=_by_plain_name(_all(_keys(files=_either(LIST, _keys(path=FILE, sha256=TEXT))), _optional(weight=WEIGHT))),
    funnel=LIST,
    mixture=_keys(total=_optional(samples=COUNT, tokens=COUNT, loss_tokens=COUNT, vision_tokens=COUNT)),
    packing=_keys(packs=COUNT, minimum_packs=COUNT, tokens=COUNT, padding=COUNT, fill=NUMBER),
    order=_all(_keys(step=POSITIVE), _optional(curriculum=_keys(borders=_list_of(COUNT)))),
    draws=_keys(path=FILE, sha256=TEXT),
    shards=_list_of(_keys(path=FILE, packs=COUNT, bytes=COUNT, sha256=TEXT)),
)


def problems_of_form(data: Any) -> list[str]:
    """What in a manifest has not its form, in words; its shards must add up to its packs."""
    problems = [f"{where}: {words}" for where, words in MANIFEST(data, "")]
    if problems:
        return problems
    held, said = sum(shard["packs"] for shard in data["shards"]), data["packing"]["packs"]
    return [] if held == said else [f"packing.packs is {said}, its shards hold {held}"]
