"""What the first samples of a source are like: their scripts, words, pictures and lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from mindvl_data import vision
from mindvl_data.inspect.peek import described_video
from mindvl_data.runtime import plugins
from mindvl_data.sources import ImageBytes, Sample, Video
from mindvl_data.tokenise import TEMPLATES, Tokeniser, counts, encode

# Unicode's scripts that a reader would name, by what they write.
SCRIPTS = {
    "Latin": r"\p{Latin}",
    "Chinese or Japanese characters": r"\p{Han}",
    "Japanese kana": r"[\p{Hiragana}\p{Katakana}]",
    "Korean": r"\p{Hangul}",
    "Cyrillic": r"\p{Cyrillic}",
    "Greek": r"\p{Greek}",
    "Arabic": r"\p{Arabic}",
    "Hebrew": r"\p{Hebrew}",
    "Devanagari": r"\p{Devanagari}",
    "Bengali": r"\p{Bengali}",
    "Tamil": r"\p{Tamil}",
    "Thai": r"\p{Thai}",
}
# Where a space parts no words.
UNSPACED = {"Chinese or Japanese characters", "Japanese kana", "Thai"}
LEAST_SHARE = 0.02


@dataclass(frozen=True)
class Texts:
    """Of the samples looked at. scripts: the share of letters of each, largest first. words: of each sample, in any
    script. sides: the smaller side of the smallest picture of each that has one. tokens: of each, pictures too.
    """

    scripts: dict[str, float]
    words: Sequence[int]
    sides: Sequence[int]
    tokens: Sequence[int]

    @property
    def unspaced(self) -> float:
        """The share of letters in scripts that are written without spaces."""
        return sum(share for script, share in self.scripts.items() if script in UNSPACED)


def looked(samples: Sequence[Sample], render: str, tokeniser: Tokeniser | None) -> Texts:
    """What samples are like; tokens as a tokenizer counts them, about one for 3 bytes without one."""
    text = pl.Series("text", ["\n".join(part.text or "" for part in s.parts) for s in samples], pl.String)
    rule = vision.Resolution()
    sizes = [[_size(image) for image in sample.images if isinstance(image, ImageBytes)] for sample in samples]
    seen = [[size for size in of_sample if size] for of_sample in sizes]
    clips = [[image for image in sample.images if isinstance(image, Video)] for sample in samples]
    vision_tokens = [
        sum(_tokens(size, rule) for size in sizes) + sum(_video_tokens(video, rule) for video in videos)
        for sizes, videos in zip(seen, clips, strict=True)
    ]
    if tokeniser is None:
        texts = [length // 3 for length in text.str.len_bytes().to_list()]
    else:
        encoded = encode([s.parts for s in samples], render, TEMPLATES["qwen2-vl"], tokeniser)
        texts = [*map(int, counts(encoded, tokeniser).text_tokens)]
    return Texts(
        scripts=_scripts(text),
        words=plugins.load("mindvl_data.scores", "words")(text).to_list(),
        sides=[min(min(size) for size in of_sample) for of_sample in seen if of_sample],
        tokens=[one + other for one, other in zip(texts, vision_tokens, strict=True)],
    )


def _scripts(text: pl.Series) -> dict[str, float]:
    found = {name: int(text.str.count_matches(pattern).sum()) for name, pattern in SCRIPTS.items()}
    letters = max(1, int(text.str.count_matches(r"\p{L}").sum()))
    shares = {name: count / letters for name, count in found.items() if count >= LEAST_SHARE * letters}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _size(image: ImageBytes) -> tuple[int, int] | None:
    try:
        header = vision.read_header(image.data)
    except vision.BadImage:
        return None
    return header.width, header.height


def _video_tokens(video: Video, rule: vision.Resolution) -> int:
    return int(described_video(video, rule).get("tokens", 0))


def _tokens(size: tuple[int, int], rule: vision.Resolution) -> int:
    try:
        _, high, wide = vision.patch_grid(*size, rule)
    except vision.BadImage:
        return 0
    return high * wide // rule.merge**2
