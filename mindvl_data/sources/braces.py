"""Brace ranges, as shells and WebDataset write them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence

from mindvl_data.sources import SourceError

BRACES = re.compile(r"\{([^{}]*)\}")
# A pattern of a few letters can stand for more names than there is memory.
MOST_NAMES = 10_000_000
MOST_DIGITS = 18
MOST_SHOWN = 100


def braces(pattern: str) -> Iterator[str]:
    """`a-{000..002}.tar` and `{x,y}.json` expanded, in the order written; zeros kept.

    Raises:
        SourceError: They make more than ten million names.
    """
    choices = [_choices(body) for body in BRACES.findall(pattern)]
    if math.prod(map(len, choices)) > MOST_NAMES:
        raise _too_many(pattern)
    skeleton = BRACES.sub("\0", pattern).split("\0")
    for picked in itertools.product(*choices):
        yield "".join(itertools.chain.from_iterable(itertools.zip_longest(skeleton, picked, fillvalue="")))


def _choices(body: str) -> Sequence[str]:
    if match := re.fullmatch(r"(\d+)\.\.(\d+)", body):
        first, last = match.groups()
        if max(len(first), len(last)) > MOST_DIGITS or int(last) - int(first) >= MOST_NAMES:
            raise _too_many(f"{{{body}}}")
        return [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    return body.split(",")


def _too_many(pattern: str) -> SourceError:
    return SourceError(f"{pattern[:MOST_SHOWN]}: its braces make more than {MOST_NAMES:,} names; use * instead")
