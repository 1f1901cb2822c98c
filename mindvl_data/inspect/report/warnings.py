"""What in a build deserves a second look, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MOST_EPOCHS = 4.0
MOST_DROPPED = 1 / 3
MOST_OF_A_MANY_QUESTION_SOURCE = 0.5
MOST_UNEVEN = 1.5
LEAST_FILL = 0.8
LEAST_LOSS = 0.01
MOST_OFF = 0.02
# Steps that take samples for a purpose of their own.
NO_DROP = ("draw", "holdout")
# Scripts written without spaces between words: Thai, Lao, Khmer, Myanmar, kana, Han.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")
WORDS = re.compile(r"\bspaced_words\b")


def warnings(
    recipe: Mapping[str, Any],
    sets: Sequence[Mapping[str, Any]],
    funnel: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Sentences, the weightiest first; none where nothing stands out.

    Args:
        sets: See `sets.summary`.
        samples: Those that the report shows.
    """
    return [*_funnel(recipe, funnel), *_unspaced(recipe, samples), *(line for one in sets for line in _set(one))]


def _funnel(recipe: Mapping[str, Any], funnel: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    on_purpose = {f"filter: {one['name']}" for one in recipe.get("filters", []) if one.get("top") and one.get("name")}
    dropping = [line for line in funnel if not line["step"].startswith(NO_DROP)]
    last = {line["source"]: line["out"] for line in dropping if not line["step"].startswith("fit")}
    for source, left in last.items():
        if not left:
            yield f"Nothing is left of {source}: every sample of it was dropped."
    for line in dropping:
        lost = line["in"] - line["out"]
        if not lost or line["step"] in on_purpose:
            continue
        share = lost / line["in"]
        if line["step"] == "dedup: image" and share >= MOST_OF_A_MANY_QUESTION_SOURCE:
            yield (
                f"Deduplication by image took {share:.0%} of {line['source']} ({lost:,} of {line['in']:,} samples). "
                "Where several questions are asked about one picture, all but one of them are gone: deduplicate this "
                "source by text, or leave it out with `sources`."
            )
        elif share >= MOST_DROPPED:
            why = ", ".join(f"{count:,} {reason}" for reason, count in line["reasons"].items())
            yield (
                f"“{line['step']}” dropped {share:.0%} of {line['source']} ({lost:,} of {line['in']:,} samples: "
                f"{why}). Look at some of them under Samples before you trust it."
            )


def _unspaced(recipe: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A filter that counts words, and drops what is written without spaces between them."""
    for one in recipe.get("filters", []):
        if not WORDS.search(str(one.get("where") or one.get("of") or "")):
            continue
        state = f"filtered: {one.get('name')}"
        for source in dict.fromkeys(sample["source"] for sample in samples):
            mine = [s for s in samples if s["source"] == source and s["state"] == state and s.get("turns")]
            without = [s for s in mine if _is_unspaced(" ".join(text for _, text in s["turns"]))]
            if mine and len(without) >= len(mine) / 2:
                yield (
                    f"The filter “{one.get('name')}” counts words, and most of what it drops of {source} is in a "
                    "script that writes no spaces between them (Chinese, Japanese, Thai …): such a text is one word, "
                    "however long it is. Filter these by `text_chars`, or say for which `sources` the filter is."
                )


def _is_unspaced(text: str) -> bool:
    letters = [letter for letter in text if letter.isalpha()]
    return len(UNSPACED.findall(text)) > len(letters) / 2 if letters else False


def _set(one: Mapping[str, Any]) -> Iterator[str]:
    name = one["name"]
    for line in one["mixture"]:
        if line["epochs"] and line["epochs"] > MOST_EPOCHS:
            yield (
                f"{name}: {line['source']} is used for {line['epochs']:.1f} epochs. Past about four, the same samples "
                "again teach little: lower its share, or add data."
            )
        if line["target"] is not None and abs(line["target"] - line["actual"]) > MOST_OFF:
            yield (
                f"{name}: {line['source']} has {line['actual']:.1%} of the mixture for a target of "
                f"{line['target']:.1%}. In a small set, one long sample can do that; in a large one it should not."
            )
    if one["fill"] < LEAST_FILL:
        yield (
            f"{name}: packs are {1 - one['fill']:.0%} padding ({one['packs']:,} packs of {one['seq_len']:,} tokens). "
            "The set is very small, or its samples fit the sequence length badly: another `seq_len` may waste less."
        )
    if one["packs"] > one["step"] and max(one["balance"].values()) > MOST_UNEVEN:
        attention, patches = one["balance"]["attention"], one["balance"]["patches"]
        yield (
            f"{name}: the slowest pack of a step costs {attention:.1f} × the average in attention and {patches:.1f} × "
            "in patches, and every other device waits for it. Try `order: balanced`, or a smaller step."
        )
    if one["tokens"] and one["loss_tokens"] / one["tokens"] < LEAST_LOSS:
        share = one["loss_tokens"] / one["tokens"]
        yield (
            f"{name}: only {share:.2%} of the tokens are trained on. Short answers about large pictures do that: lower "
            "`resolution.max_pixels`, or mix in longer answers."
        )
