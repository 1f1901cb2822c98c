"""One pack for a person: its segments, their text, image grids and what is learnt."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from mindvl_data.errors import UserError
from mindvl_data.expanded import expand
from mindvl_data.manifest import Manifest
from mindvl_data.media import Access, leads_out
from mindvl_data.shards import Pack
from mindvl_data.tokenise import load_tokeniser

LEARNT = "green"
Decode: TypeAlias = Callable[[list[int]], str]


def decoder_of(manifest: Manifest, access: Access) -> tuple[Decode, str]:
    """The manifest's own tokenizer as a function, and "" ; or ids as they are, and why there is no text.

    A tokenizer is looked up, on disk or in a hub, only where `access` names it: a manifest may come from anybody.
    """
    name = manifest.tokenizer["name"]
    named = name == "qwen" or name in access.tokenizers
    if not named and not _lies_in(access.folder, name):
        return _ids, f"(no text: the manifest names the tokenizer {name!r}; to look it up, give --allow {name!r})"
    try:
        tokeniser = load_tokeniser(expand(name) if named else name, access.folder or Path())
    except UserError as error:
        return _ids, f"(no text: {error})"
    if tokeniser.hash != manifest.tokenizer["sha256"]:
        return _ids, f"(no text: the tokenizer {name} is not the one that the set was built with)"
    return tokeniser.decode, ""


def _lies_in(folder: Path | None, name: str) -> bool:
    return folder is not None and not leads_out(name, in_store=False) and (folder / name).exists()


def _ids(ids: list[int]) -> str:
    return " ".join(map(str, ids))


@dataclass(frozen=True)
class Span:
    """A stretch of a segment: text, learnt or not, or one image."""

    start: int
    stop: int
    learnt: bool
    text: str
    grid: tuple[int, int, int] | None = None


def segments(pack: Pack, image_pad: int, decode: Decode) -> list[dict[str, Any]]:
    """Every real segment of a pack: where it is, which sample, its spans."""
    found = []
    for number, uid in enumerate(pack.sample_ids):
        start, stop = int(pack.cu_seqlens[number]), int(pack.cu_seqlens[number + 1])
        found.append(
            {
                "start": start,
                "stop": stop,
                "sample_id": uid.hex(),
                "source": pack.sources[number],
                "repeat": pack.repeats[number],
                "loss_tokens": int(pack.loss_mask[start:stop].sum()),
                "spans": [span.__dict__ for span in _spans(pack, image_pad, decode, start, stop)],
            }
        )
    return found


def _spans(pack: Pack, image_pad: int, decode: Decode, start: int, stop: int) -> Iterator[Span]:
    grids = {image.start: image.grid for image in pack.images}
    change = np.diff(pack.loss_mask[start:stop].astype(np.int8) + 2 * (pack.tokens[start:stop] == image_pad))
    borders = [start, *(np.flatnonzero(change) + 1 + start).tolist(), stop]
    for a, b in itertools.pairwise(borders):
        if pack.tokens[a] == image_pad:
            yield Span(a, b, False, "", grids.get(a))
        else:
            yield Span(a, b, bool(pack.loss_mask[a]), decode(pack.tokens[a:b].tolist()))


def view(pack: Pack, image_pad: int, decode: Decode) -> RenderableType:
    """The pack as panels; what is learnt is green, and between « » where there are no colours."""
    head = Text(
        f"pack {pack.index}: {len(pack.sample_ids)} samples, {pack.num_tokens:,} of {pack.seq_len:,} tokens, "
        f"{int(pack.loss_mask.sum()):,} learnt, {len(pack.images)} images, {pack.num_patches:,} patches\n"
        "«text between these marks» is learnt",
        style="bold",
    )
    return Group(head, *(_panel(segment) for segment in segments(pack, image_pad, decode)))


def _panel(segment: Mapping[str, Any]) -> Panel:
    body = Text()
    for span in segment["spans"]:
        if span["grid"]:
            _, high, wide = span["grid"]
            body.append(f"[image: {high} × {wide} patches, {span['stop'] - span['start']} tokens]", style="cyan")
        elif span["learnt"]:
            body.append(f"«{span['text']}»", style=LEARNT)
        else:
            body.append(span["text"], style="dim")
    title = f"{segment['source']} {segment['sample_id']} repeat {segment['repeat']}"
    return Panel(body, title=title, subtitle=f"{segment['start']}–{segment['stop']}", title_align="left")
