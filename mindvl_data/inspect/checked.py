"""What `check` found, for a person and for a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.panel import Panel
from rich.text import Text

from mindvl_data.inspect.stages import count

STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}
SHOWN_CHARS = 1200


class Finding(Protocol):
    """See pipeline.checks."""

    @property
    def where(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def said(self) -> str: ...


class Looked(Protocol):
    """See pipeline.measuring."""

    @property
    def described(self) -> Mapping[str, Any] | None: ...
    @property
    def rendered(self) -> Sequence[tuple[str, bool]]: ...
    @property
    def tokens(self) -> int: ...


def view(
    findings: Sequence[Finding], looked: Mapping[str, Looked], sets: Sequence[Mapping[str, Any]]
) -> RenderableType:
    """A line a finding, a panel a source, a line a packed set."""
    panels = [_panel(name, one) for name, one in looked.items() if one.described]
    lines = [_set(made) for made in sets]
    head = [Text("About what would be built, by the first samples and before filters:", style="bold")] if lines else []
    return Group(*panels, *(_line(one) for one in findings), *head, *lines)


def _line(one: Finding) -> Text:
    # Errors begin with the YAML path, or a key below it.
    where = "" if one.state == "error" and one.said.startswith(one.where) else f"{one.where}: "
    return Text.assemble((f"{one.state:>8}  ", STYLES[one.state]), where, one.said)


def _panel(name: str, one: Looked) -> Panel:
    """The first sample as it is tokenised: what is learnt stands out."""
    body, left = Text(), SHOWN_CHARS
    assert one.described is not None
    for image in one.described["images"]:
        size = image.get("problem") or f"{image['width']} × {image['height']}, {image['tokens']} tokens"
        body.append(f"[{size}]\n", style="cyan")
    for text, learnt in one.rendered:
        body.append(text[:left], style="bold green" if learnt else "dim")
        left -= len(text[:left])
    if not left:
        body.append(" …")
    title = f"{name}: {one.described['key']}, {one.tokens:,} tokens; what is trained on is bold"
    return Panel(body, title=title, title_align="left")


def _set(made: Mapping[str, Any]) -> Text:
    total = made["total"]
    return Text(
        f"{made['name']:>16}  {count(total['tokens'])} tokens of {count(total['samples'])} samples, "
        f"{count(made['packs'])} packs, {decimal(made['disk'])}"
    )
