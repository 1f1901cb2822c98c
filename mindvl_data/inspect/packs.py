"""One pack for a person: its segments, their text, image grids and what is learnt."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from mindvl_data.manifest import Manifest, ManifestError
from mindvl_data.media import recipe_folder
from mindvl_data.shards import Pack
from mindvl_data.tokenise import Tokeniser, load_tokeniser

LEARNT = "green"


def tokeniser_of(manifest: Manifest) -> Tokeniser:
    """The tokenizer that the manifest was built with. Raises ManifestError when it is another one now."""
    name = manifest.tokenizer["name"]
    tokeniser = load_tokeniser(os.path.expandvars(name), Path(recipe_folder(manifest.path.parent.parent)))
    if tokeniser.hash != manifest.tokenizer["sha256"]:
        raise ManifestError(f"{manifest.path}: the tokenizer {name} has changed since the build; build again")
    return tokeniser


@dataclass(frozen=True)
class Span:
    """A stretch of a segment: text, learnt or not, or one image."""

    start: int
    stop: int
    learnt: bool
    text: str
    grid: tuple[int, int, int] | None = None


def segments(pack: Pack, tokeniser: Tokeniser) -> list[dict[str, Any]]:
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
                "spans": [span.__dict__ for span in _spans(pack, tokeniser, start, stop)],
            }
        )
    return found


def _spans(pack: Pack, tokeniser: Tokeniser, start: int, stop: int) -> Iterator[Span]:
    pad = tokeniser.special_ids["image_pad"]
    grids = {image.start: image.grid for image in pack.images}
    change = np.diff(pack.loss_mask[start:stop].astype(np.int8) + 2 * (pack.tokens[start:stop] == pad))
    borders = [start, *(np.flatnonzero(change) + 1 + start).tolist(), stop]
    for a, b in itertools.pairwise(borders):
        if pack.tokens[a] == pad:
            yield Span(a, b, False, "", grids.get(a))
        else:
            yield Span(a, b, bool(pack.loss_mask[a]), tokeniser.decode(pack.tokens[a:b].tolist()))


def view(pack: Pack, tokeniser: Tokeniser) -> RenderableType:
    """The pack as panels; what is learnt is green, and between « » where there are no colours."""
    head = Text(
        f"pack {pack.index}: {len(pack.sample_ids)} samples, {pack.num_tokens:,} of {pack.seq_len:,} tokens, "
        f"{int(pack.loss_mask.sum()):,} learnt, {len(pack.images)} images, {pack.num_patches:,} patches\n"
        "«text between these marks» is learnt",
        style="bold",
    )
    return Group(head, *(_panel(segment) for segment in segments(pack, tokeniser)))


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
