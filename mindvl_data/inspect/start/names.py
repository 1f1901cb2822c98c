"""What a source is called: as its files are, or where these say nothing of what they hold, as their folder is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from mindvl_data.inspect.start.find import Found
from mindvl_data.recipe.mixture import RESERVED

# Words that say how data is stored, not what it is.
SAID_OF_ALL = {
    *("data", "dataset", "datasets", "file", "files", "json", "jsonl", "parquet", "tar", "arrow", "mds", "main"),
    *("train", "training", "trainval", "split", "of", "part", "shard", "shards", "chunk", "default", "all", "index"),
    *("messages", "conversations", "sharegpt", "llava", "finevision", "samples", "annotations", "metadata", "images"),
    *("snapshots", "resolve", "blob", "datasets", "http", "https", "s3", "gs", "hf", "www", "com"),
}
WORDS = re.compile(r"[^\W\d_]+\d*(?:\.\d+)?|\d*[^\W\d_]+", re.UNICODE)


def named(found: Sequence[Found]) -> list[str]:
    """A name for each group of files, no two alike, fit for a key of a recipe."""
    options = [[*_options(group)] or ["source"] for group in found]
    chosen = _apart([names[0] for names in options], [_stem(group) for group in found], behind=True)
    for depth in (1, 2):
        above = [names[depth] if depth < len(names) else "" for names in options]
        chosen = _apart(chosen, above, behind=False)
    return _numbered(chosen)


def _options(group: Found) -> Iterator[str]:
    """What a group may be called, from its files to the folders above them."""
    for part in reversed(group.patterns[0].split("/")):
        name = "_".join(word for word in _words(part) if word not in SAID_OF_ALL)
        if re.match(r"^\w[\w.-]*$", name) and name not in RESERVED:
            yield name


def _words(part: str) -> list[str]:
    return WORDS.findall(re.sub(r"(\.[A-Za-z]\w{0,7}){1,2}$", "", part).lower())


def _stem(group: Found) -> str:
    """The file's own name, though it says nothing of what it holds."""
    return "_".join(_words(group.patterns[0].split("/")[-1]))


def _apart(names: Sequence[str], more: Sequence[str], behind: bool) -> list[str]:
    """The names, with one more word before or behind those that several groups have."""
    times = Counter(names)
    return [
        name if times[name] == 1 or not word or word == name else f"{name}_{word}" if behind else f"{word}_{name}"
        for name, word in zip(names, more, strict=True)
    ]


def _numbered(names: Sequence[str]) -> list[str]:
    """The same with a number where two are still alike."""
    times, seen = Counter(names), Counter[str]()
    made = []
    for name in names:
        seen[name] += 1
        made.append(name if times[name] == 1 else f"{name}_{seen[name]}")
    return made
