"""One pack for a person: its segments, their text, image grids and what is learnt."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """A stretch of a segment: text, learnt (and what that weighs) or not, or one image; of a clip the seconds of the
    frames that it shows."""

    start: int
    stop: int
    learnt: bool
    text: str
    grid: tuple[int, int, int] | None = None
    seconds: Sequence[float] = ()
    weight: float = 1.0


def segments(pack: Pack, pads: Sequence[int], decode: Decode) -> list[dict[str, Any]]:
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
                "spans": [span.__dict__ for span in _spans(pack, pads, decode, start, stop)],
            }
        )
    return found


def _spans(pack: Pack, pads: Sequence[int], decode: Decode, start: int, stop: int) -> Iterator[Span]:
    media = {image.start: image for image in pack.images}
    change = np.diff(pack.loss_mask[start:stop].astype(np.int8) + 2 * np.isin(pack.tokens[start:stop], pads))
    weights = np.ones(pack.seq_len) if pack.loss_weights is None else pack.loss_weights
    change = (change != 0) | (np.diff(weights[start:stop]) != 0)
    borders = [start, *(np.flatnonzero(change) + 1 + start).tolist(), stop]
    for a, b in itertools.pairwise(borders):
        if pack.tokens[a] in pads:
            image = media.get(a)
            seconds = [frame.time for frame in image.frames] if image else []
            yield Span(a, b, False, "", image.grid if image else None, seconds)
        else:
            yield Span(a, b, bool(pack.loss_mask[a]), decode(pack.tokens[a:b].tolist()), weight=float(weights[a]))


def view(pack: Pack, pads: Sequence[int], decode: Decode) -> RenderableType:
    """The pack as panels; what is learnt is green, and between « » where there are no colours."""
    head = Text(
        f"pack {pack.index}: {len(pack.sample_ids)} samples, {pack.num_tokens:,} of {pack.seq_len:,} tokens, "
        f"{int(pack.loss_mask.sum()):,} learnt, {len(pack.images)} images, {pack.num_patches:,} patches\n"
        "«text between these marks» is learnt"
        + (", ×n: its loss weighs n times" if pack.loss_weights is not None else ""),
        style="bold",
    )
    return Group(head, *(_panel(segment) for segment in segments(pack, pads, decode)))


def _medium(span: Mapping[str, Any]) -> str:
    """An image or a clip in words."""
    pairs, high, wide = span["grid"]
    tokens = f"{span['stop'] - span['start']} tokens"
    if not span["seconds"]:
        return f"[image: {high} × {wide} patches, {tokens}]"
    seconds = " ".join(f"{time:.1f}" for time in span["seconds"])
    return f"[video: {pairs} × {high} × {wide} patches, {tokens}, frames at {seconds} s]"


def _panel(segment: Mapping[str, Any]) -> Panel:
    body = Text()
    for span in segment["spans"]:
        if span["grid"]:
            body.append(_medium(span), style="cyan")
        elif span["learnt"]:
            weight = "" if span["weight"] == 1 else f"×{span['weight']:g}"
            body.append(f"«{span['text']}»{weight}", style=LEARNT)
        else:
            body.append(span["text"], style="dim")
    title = f"{segment['source']} {segment['sample_id']} repeat {segment['repeat']}"
    return Panel(body, title=title, subtitle=f"{segment['start']}–{segment['stop']}", title_align="left")
