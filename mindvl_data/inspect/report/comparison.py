"""Two builds side by side, as one HTML file: their sets, funnels, mixtures and recipes, and what only one draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from mindvl_data import atomic
from mindvl_data.inspect import changes, compared
from mindvl_data.inspect.report import COMPARED_NAME, columns, media_of, samples, scripts, sets
from mindvl_data.inspect.report.pictures import Thumbnails
from mindvl_data.runtime.page import page, templates

# Of each side, samples that the other does not draw.
SHOWN = 240
SAMPLE_PICTURES = 3_500_000


def write_comparison(before: str, after: str, out: Path | None = None) -> Path:
    """Write the page; where it is.

    Args:
        before: A build folder or a manifest.
        after: The other; what is new stands in it.
        out: The file to write; by default compared.html in `after`.

    Raises:
        UserError: One of them is none, or its draws are not at hand.
    """
    text = comparison(before, after)
    if out is None:
        folder = Path() if "://" in after else Path(after)
        out = (folder if folder.is_dir() else folder.parent) / COMPARED_NAME
    atomic.write_text(out, text)
    return out


def comparison(before: str, after: str) -> str:
    """The page as text."""
    data = collected(before, after)
    body = templates("mindvl_data.inspect.report").get_template("comparison.html").render(**data)
    return page(f"{data['a']} and {data['b']}: compared", body, data, scripts("cards.js", "comparison.js"))


def collected(before: str, after: str) -> dict[str, Any]:
    """All that the page shows, as what JSON can hold."""
    subjects = (sets.subject(before), sets.subject(after))
    sides = [compared.Side([*one.manifests.values()], one.build) for one in subjects]
    summaries = [{name: sets.summary(name, m.data) for name, m in one.manifests.items()} for one in subjects]
    pictures: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    for one, mine, other, label in zip(subjects, sides, reversed(sides), ("A", "B"), strict=True):
        shown += _only(one, compared.only_in(mine, other), label, pictures)
    return {
        "a": before,
        "b": after,
        "sources": list(dict.fromkeys([*subjects[0].sources, *subjects[1].sources])),
        "sets": [*_sets(*summaries)],
        "funnel": [*_funnel(*(sets.funnel(one) for one in subjects))],
        "recipe": _recipe(*(one.recipe for one in subjects)),
        "drawn": compared.compared(*sides),
        "samples": shown,
        "states": samples.states(shown),
        "pictures": pictures,
    }


def _only(
    subject: sets.Subject, only: pl.DataFrame, label: str, pictures: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """A random share of the samples that one side alone draws, as cards."""
    if subject.build is None:
        return []
    picked = only.head(SHOWN).with_columns(
        state=pl.format(f"only in {label}: {{}}", "why"), tokens=pl.lit(None, pl.Int64)
    )
    nothing = columns.ledger(subject.build).head(0).collect()
    with media_of(subject) as media:
        thumbnails = Thumbnails(media, SAMPLE_PICTURES // 2)
        thumbnails.made = pictures
        return samples.described(subject, columns.tables(subject.build), picked, nothing, thumbnails)


def _sets(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The sets of both by name; None for one that a side has not."""
    for name in dict.fromkeys([*a, *b]):
        lines = [{line["source"]: line for line in one[name]["mixture"]} if name in one else {} for one in (a, b)]
        mixture = [
            {"source": source, "a": lines[0].get(source), "b": lines[1].get(source)}
            for source in dict.fromkeys([*lines[0], *lines[1]])
        ]
        yield {"name": name, "a": a.get(name), "b": b.get(name), "mixture": mixture}


def _funnel(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Steps of both, those where the sides differ: in, out and reasons of each."""
    lines = [{(line["step"], line["source"]): line for line in one} for one in (a, b)]
    for step, source in dict.fromkeys([*lines[0], *lines[1]]):
        left, right = (one.get((step, source)) for one in lines)
        if left != right:
            yield {"step": step, "source": source, "a": left, "b": right}


def _recipe(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {"key": path, "a": "" if left is None else str(left), "b": "" if right is None else str(right)}
        for path, left, right in changes.recipe_changes(a, b)
    ]
