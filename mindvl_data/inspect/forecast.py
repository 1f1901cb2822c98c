"""A forecast for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from mindvl_data.inspect.stages import count


def view(sets: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One block a packed set: its sources, its sum, what training on it takes."""
    table = Table(
        title="Forecast, from declared sizes alone",
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
    )
    for column in ("set", "source"):
        table.add_column(column)
    for column in ("share", "samples", "tokens", "passes", "packs", "disk"):
        table.add_column(column, justify="right")
    for made in sets:
        name = made["name"]
        for source, line in made["sources"].items():
            amounts = (count(line["samples"]), count(line["tokens"]), f"{line['epochs']:.2f}")
            table.add_row(name, source, f"{line['share']:.1%}", *amounts)
            name = ""
        total = made["total"]
        sums = (count(total["samples"]), count(total["tokens"]), "", count(made["packs"]), decimal(made["disk"]))
        table.add_row("", "all", f"by {made['by'].replace('_', ' ')}", *sums, style="bold")
        table.add_section()
    notes = [
        f"counted as 0, since it is not stated: {key}" for key in dict.fromkeys(k for s in sets for k in s["unknown"])
    ]
    chosen = {name: share for made in sets for name, share in made.get("select", {}).items()}
    notes += [f"declared sizes are what is left after select {n}, {share:.0%} of before" for n, share in chosen.items()]
    building = [f"{made['name']}: about {made['build_core_hours']:,.1f} core hours to build" for made in sets]
    lines = [*building, *(_training(made) for made in sets if "training" in made)]
    return Group(table, *(Text(line) for line in [*lines, *notes]))


def _training(made: Mapping[str, Any]) -> str:
    training = made["training"]
    parts = ", ".join(f"{part} {flops:.3g}" for part, flops in training["flops"].items() if part != "total")
    return (
        f"{made['name']}: {training['flops']['total']:.3g} FLOPs ({parts}) of {training['model']}; "
        f"{training['device_hours']:,.0f} hours of {training['device']} at {training['utilisation']:.0%} of its peak"
        + (f", {training['cost']:,} at the recipe's price" if "cost" in training else "")
    )
