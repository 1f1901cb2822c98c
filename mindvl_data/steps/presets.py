"""Published filters under their names: each exactly as its source defines it, as rules that a recipe could write.

A preset is a function of the options that the recipe may set, the names of columns above all, registered with its
source. A missing value fails a preset's condition, as in the published code, unless the filter says otherwise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mindvl_data.recipe.fields import RecipeError, nearest


class Condition(NamedTuple):
    """One rule of a preset: an expression that must hold, or (`top` given) the one by which the best are kept."""

    name: str
    expression: str
    top: float | None = None


class Preset(NamedTuple):
    """A table of conditions and where they are published."""

    source: str
    conditions: Callable[..., Sequence[Condition]]


def datacomp_basic(
    width: str = "original_width", height: str = "original_height", language: str = "language"
) -> list[Condition]:
    return [
        Condition("English", f"{language} = 'en'"),
        Condition("more than 2 words", "spaced_words > 2"),
        Condition("more than 5 characters", "text_chars > 5"),
        Condition("smaller side at least 200", f"{width} >= 200 and {height} >= 200"),
        Condition("aspect at most 3", f"{width} * 1.0 / {height} <= 3.0 and {height} * 1.0 / {width} <= 3.0"),
    ]


def datacomp_clip_score(of: str = "clip_l14_similarity_score", fraction: float = 0.3) -> list[Condition]:
    return [Condition(f"top {fraction:g}", of, fraction)]


def datacomp_laion2b(clip: str = "clip_b32_similarity_score", language: str = "language") -> list[Condition]:
    return [Condition("CLIP B/32 at least 0.28", f"{clip} >= 0.28"), Condition("English", f"{language} = 'en'")]


def datacomp_text_based(entity: str = "names_entity", language: str = "language") -> list[Condition]:
    return [Condition("English", f"{language} = 'en'"), Condition("names an entity of ImageNet-21k", entity)]


def datacomp_image_based(near: str = "near_imagenet", language: str = "language") -> list[Condition]:
    return [
        Condition("English", f"{language} = 'en'"),
        Condition("more than 1 token", "fasttext_tokens > 1"),
        Condition("more than 5 characters", "text_chars > 5"),
        Condition("near an ImageNet cluster", near),
    ]


def datacomp_1b(
    of: str = "clip_l14_similarity_score",
    fraction: float = 0.3,
    near: str = "near_imagenet",
    language: str = "language",
) -> list[Condition]:
    return [*datacomp_clip_score(of, fraction), *datacomp_image_based(near, language)]


def dfn(listed: str = "dfn") -> list[Condition]:
    return [Condition("in the list", listed)]


def open_qwen2vl(su: str = "semantic_understanding", listed: str = "dfn") -> list[Condition]:
    return [Condition("semantic understanding at least 85, or DFN", f"{su} >= 85 or {listed}")]


DATACOMP = "DataComp (Gadre et al. 2023, arXiv 2304.14108), baselines/apply_filter.py"
PRESETS = {
    "datacomp_1b": Preset(f"{DATACOMP}: image_based_intersect_clip_score, L/14 at 0.3", datacomp_1b),
    "datacomp_basic": Preset(f"{DATACOMP}: basic_filter", datacomp_basic),
    "datacomp_clip_score": Preset(f"{DATACOMP}: clip_score, threshold sorted[int(n · fraction)]", datacomp_clip_score),
    "datacomp_image_based": Preset(f"{DATACOMP}: image_based", datacomp_image_based),
    "datacomp_laion2b": Preset(f"{DATACOMP}: laion2b", datacomp_laion2b),
    "datacomp_text_based": Preset(f"{DATACOMP}: text_based", datacomp_text_based),
    "dfn": Preset("Data Filtering Networks (Fang et al. 2023, arXiv 2309.17425): the released uids", dfn),
    "open_qwen2vl": Preset(
        "Open-Qwen2VL (Wang et al. 2025, arXiv 2504.00595), section 2: MLM-Filter's semantic understanding ≥ 85 ∪ DFN",
        open_qwen2vl,
    ),
}


def conditions(place: str, name: str, options: dict[str, object]) -> list[Condition]:
    """The rules of a preset. Raises RecipeError naming `place` for a preset or option that there is not."""
    if name not in PRESETS:
        raise RecipeError(f"{place}.preset: there is no preset {name!r}{nearest(name, PRESETS)}")
    function = PRESETS[name].conditions
    known = inspect.signature(function).parameters
    for option, value in options.items():
        if option not in known:
            raise RecipeError(f"{place}.options: {name} has no option {option!r}{nearest(option, known)}")
        kind = type(known[option].default)
        if not isinstance(value, (kind, int) if kind is float else kind) or isinstance(value, bool):
            raise RecipeError(f"{place}.options.{option}: {value!r} is not {kind.__name__}")
    return list(function(**options))
