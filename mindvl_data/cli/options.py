"""What the options of several commands are called, and mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mindvl_data.engines import Engine

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
ManifestPath = Annotated[
    str, typer.Argument(metavar="MANIFEST", help="A manifest.json, or the folder that holds it; a path or a URL.")
]
Out = Annotated[
    str | None,
    typer.Option(help="The build folder; by default build/<recipe name>. A URL of a store: built there."),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Tasks at a time; by default as many as the machine, or cluster, has cores.")
]
EngineName = Annotated[str, typer.Option("--engine", help="Where tasks run: local, ray or another that is installed.")]
Address = Annotated[
    str | None,
    typer.Option(help="Of the cluster, with --engine ray: auto (the default), HOST:PORT or ray://HOST:PORT."),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH.TO.KEY=VALUE", help="Override a key of the recipe.")
]
MediaRoot = Annotated[
    Path | None, typer.Option("--media-root", help="The folder that referenced images are relative to; may be read.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="PREFIX", help="A URL, folder or tokenizer of the set that may be opened."),
]
Json = Annotated[bool, typer.Option("--json", help="For a program: JSON on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def chosen_engine(name: str, workers: int | None, address: str | None) -> Engine:
    """The engine that these three name. Raises EngineError."""
    from mindvl_data.engines import EngineOptions, engine_of

    return engine_of(name, EngineOptions(workers, address))
