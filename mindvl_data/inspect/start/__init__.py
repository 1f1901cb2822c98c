"""A first recipe from what lies there.

PATH… ── find ──► groups of files that are one source ── peek, texts ──► what each holds ── draft ──► recipe.yaml
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mindvl_data import atomic
from mindvl_data.errors import UserError
from mindvl_data.expanded import VARIABLE
from mindvl_data.inspect.peek import Peek, PeekError, peek
from mindvl_data.inspect.start.beside import NAME, list_captions
from mindvl_data.inspect.start.draft import Draft, Source, drafted
from mindvl_data.inspect.start.find import Found, groups
from mindvl_data.inspect.start.names import named
from mindvl_data.recipe import load_recipe
from mindvl_data.tables.samples import SURROGATES

__all__ = ["Started", "start"]

# Records of a source's first file that are looked at.
LOOKED_AT = 200
# A smaller share of samples among them, and the file is something else.
LEAST_SAMPLES = 0.5


@dataclass(frozen=True)
class Started:
    """The recipe that was written, its sources by name, and what was left out of it, with the reason.

    lists: files of captions that were written into folders of pictures and texts, and what is in them.
    """

    path: Path
    draft: Draft
    unused: Sequence[tuple[str, str]]
    lists: Sequence[tuple[str, str]]


def start(paths: Sequence[str], out: Path) -> Started:
    """Look at files, folders, globs and URLs, and write a recipe for what they hold.

    Raises UserError where `out` exists, or where nothing is found that a reader makes samples of.
    """
    if out.exists():
        raise UserError(f"{out}: is there already; choose another with --out")
    lists = [(f"{path.rstrip('/')}/{NAME}", said) for path in paths if (said := list_captions(path))]
    found, unused = groups(paths)
    looks: list[tuple[Found, Peek]] = []
    for group in found:
        look, why = _look(group)
        if look:
            looks.append((group, look))
        else:
            unused.append((group.shown, why))
    if not looks:
        said = "".join(f"\n  {path}: {why}" for path, why in unused)
        raise UserError(f"nothing here is a source of samples:{said}")
    names = named([group for group, _ in looks])
    draft = drafted([Source(name, *one) for name, one in zip(names, looks, strict=True)], paths, out, unused)
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(out, draft.text)
    load_recipe(out)
    return Started(out, draft, unused, lists)


def _look(group: Found) -> tuple[Peek | None, str]:
    """What the first file of a group holds, or why it is no source."""
    if any(VARIABLE.search(pattern) or SURROGATES.search(pattern) for pattern in group.patterns):
        return None, "no recipe can write its name (a ${…}, or no UTF-8): rename it"
    try:
        look = peek(group.first, LOOKED_AT)
    except PeekError as error:
        head = str(error).partition("\n")[0].partition(": ")[2].rstrip(":")
        return None, head or str(error)
    if len(look.samples) < LEAST_SAMPLES * len(look.records):
        worst = ", ".join(f"{count} {reason}" for reason, count in look.problems.most_common(2))
        return None, f"as {look.format} only {len(look.samples)} of {len(look.records)} records are samples ({worst})"
    return look, ""
