"""Brace ranges, as shells and WebDataset write them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

BRACES = re.compile(r"\{([^{}]*)\}")


def braces(pattern: str) -> Iterator[str]:
    """`a-{000..002}.tar` and `{x,y}.json` expanded, in the order written; zeros kept."""
    choices = [_choices(body) for body in BRACES.findall(pattern)]
    skeleton = BRACES.sub("\0", pattern).split("\0")
    for picked in itertools.product(*choices):
        yield "".join(itertools.chain.from_iterable(itertools.zip_longest(skeleton, picked, fillvalue="")))


def _choices(body: str) -> list[str]:
    if match := re.fullmatch(r"(\d+)\.\.(\d+)", body):
        first, last = match.groups()
        return [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    return body.split(",")
